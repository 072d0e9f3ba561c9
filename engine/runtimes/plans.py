"""TensorRT engines ("plans") of a bundle's graphs, built before they run and kept for the next time.

`tensorrt` and `tensorrt-rtx` share one interface and this one path. Networks are strongly typed: the precision is the
graph's own. A plan is for one batch size, so that every shape in it is fixed. Only TensorRT-RTX builds without a GPU,
and then for whatever GPU will load it.
"""

import hashlib
import logging
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.parts import Precision, Role, Strict
from glassrt.engine.bundles.tensors import TensorSpec
from glassrt.engine.cache import default_folder, keep, make_folder, read
from glassrt.engine.errors import BundleError
from glassrt.engine.runtimes.device import Device
from glassrt.engine.runtimes.flavours import choose_device, import_flavour, start_logger

WORKSPACE_BYTES = 4 << 30  # of the GPU's memory, at most, while layers run
RECIPE = 2  # goes up whenever engines are built otherwise
LOGGER = logging.getLogger("glassrt")


class Key(Strict, frozen=True):
    """All that a plan depends on; `graph` is the sha256 of the ONNX file, `inputs` what it takes but for the batch,
    `recipe` the way that this module builds.
    """

    graph: str
    flavour: str
    version: str
    device: Device
    precision: Precision
    inputs: tuple[TensorSpec, ...]
    batch: int
    recipe: int = RECIPE

    @property
    def digest(self) -> str:
        """Hexadecimal digits that differ wherever two keys do."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]


class Entry(Strict, frozen=True):
    """What a plan's file holds: the engine, its sha256, and the key that it was built for."""

    key: Key
    sha256: str
    engine: bytes


class Plan(NamedTuple):
    """A plan in memory, where it is kept, and whether it was built just now."""

    key: Key
    engine: bytes
    path: Path
    built: bool


class Unusable(Exception):
    """Why a kept plan cannot be used."""


def open_plan(
    bundle: Bundle,
    flavour: str,
    precision: Precision,
    batch: int,
    folder: Path | None = None,
    unusable: str = "",
    role: Role | None = None,
) -> Plan:
    """The plan of a bundle's graph for `batch` windows at a time, built unless `folder` keeps it already.

    A kept plan that is torn or was made for something else is built again, which is logged; so is one that the caller
    found `unusable`, for that reason. `folder` is by default the user's cache. Raises BackendUnavailable, BundleError
    or OutputError.
    """
    tensorrt = import_flavour(flavour)
    graph = bundle.find_graph(precision, "gpu", role)
    device, inputs = choose_device(flavour), bundle.manifest.networks[graph.role].inputs
    key = Key(graph.sha256, flavour, tensorrt.__version__, device, precision, inputs, batch)
    name = bundle.manifest.name if graph.role == "main" else f"{bundle.manifest.name}-{graph.role}"
    path = (folder or default_folder()) / f"{name}-{precision}-batch{batch}-{key.digest}.plan"
    try:
        if unusable:
            raise Unusable(unusable)
        return Plan(key, read_entry(path, key), path, built=False)
    except FileNotFoundError:
        LOGGER.warning("building a plan for %s, once: %s", describe(key), path)
    except Unusable as error:
        LOGGER.warning("%s %s: building it again", path, error)
    make_folder(path.parent)  # before minutes of work that could not be kept
    timings = path.parent / f"{flavour}-{timing_digest(key)}.timing"
    engine, measured = build_engine(tensorrt, bundle.read_graph(precision, "gpu", role), key, read_timings(timings))
    keep(path, msgspec.msgpack.encode(Entry(key, hashlib.sha256(engine).hexdigest(), engine)))
    if measured:
        keep(timings, measured)
    return Plan(key, engine, path, built=True)


def read_entry(path: Path, key: Key) -> bytes:
    """The engine in a plan's file.

    Raises FileNotFoundError, Unusable where it is not whole or has another key, and OutputError as `cache.read` does.
    """
    try:
        entry = msgspec.msgpack.decode(read(path), type=Entry)
    except msgspec.MsgspecError as error:
        raise Unusable("is torn or of another version") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unusable(f"cannot be read ({error.strerror})") from error
    if entry.key != key:
        raise Unusable(f"was made for {describe(entry.key)}")
    if hashlib.sha256(entry.engine).hexdigest() != entry.sha256:
        raise Unusable("is damaged")
    return entry.engine


def build_engine(tensorrt: Any, graph: bytes, key: Key, timings: bytes = b"") -> tuple[bytes, bytes]:
    """A serialised engine of an ONNX graph, and what TensorRT measured of its kernels beside the `timings` it had.

    Raises BundleError naming the layer that TensorRT refuses.
    """
    logger = start_logger(tensorrt)
    logger.errors.clear()
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(graph):
        refusals = [parser.get_error(index) for index in range(parser.num_errors)]
        told = [f"{each.desc()} (layer {each.node_name() or 'unnamed'})" for each in refusals] or logger.errors
        raise BundleError(f"{describe(key)}: the graph is refused: {' '.join(told[:1]) or 'it cannot be read'}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.clear_flag(tensorrt.BuilderFlag.TF32)  # float32 is to mean float32
    if hasattr(tensorrt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # without it RTX may refuse to be captured
        config.set_flag(tensorrt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    profile = builder.create_optimization_profile()
    for spec in key.inputs:
        shape = spec.sized(key.batch)
        profile.set_shape(spec.name, shape, shape, shape)
    config.add_optimization_profile(profile)
    tuned = key.flavour == "tensorrt"  # RTX tunes when it runs
    if tuned and not ((known := config.create_timing_cache(timings)) and config.set_timing_cache(known, False)):
        config.set_timing_cache(config.create_timing_cache(b""), False)
    memory = builder.build_serialized_network(network, config)
    if memory is None:
        raise BundleError(f"{describe(key)}: building failed: {' '.join(logger.errors[:1]) or 'TensorRT says no more'}")
    measured = config.get_timing_cache() if tuned else None
    return bytes(memory), b"" if measured is None else bytes(measured.serialize())


def timing_digest(key: Key) -> str:
    """Hexadecimal digits of what TensorRT's measurements of its kernels depend on."""
    return hashlib.sha256(repr((key.version, *key.device.parts)).encode()).hexdigest()[:16]


def read_timings(path: Path) -> bytes:
    """What TensorRT measured of its kernels on this GPU so far; nothing at first. Raises OutputError."""
    try:
        return read(path)
    except OSError:
        return b""


def describe(key: Key) -> str:
    """A key in words."""
    return f"{key.flavour} {key.version} in {key.precision}, batch {key.batch}, on {key.device.name}"
