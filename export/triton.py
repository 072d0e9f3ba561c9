"""A bundle's graphs as a model repository that NVIDIA Triton Inference Server loads."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import get_args

from glassrt.engine.bundles.bundle import MANIFEST, Bundle
from glassrt.engine.bundles.parts import Graph, Precision, Role
from glassrt.engine.bundles.tensors import TensorSpec
from glassrt.engine.errors import OutputError, UsageError
from glassrt.engine.files import output_errors, prepare_folder, replace_folder
from glassrt.engine.staging import lock_folder, own_name, remove

CONFIG = "config.pbtxt"
MODEL = "1/model.onnx"
MOST_WINDOWS = 64  # of a batch
WAIT_US = 500  # for more windows before a batch that is not full is run
TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}
INSTANCES = 1  # of the network on each device; ONNX Runtime fills a device with one


def prepare_repository(folder: Path) -> None:
    """Make the folder of a model repository before anything long. Raises UsageError or OutputError."""
    if (folder / MANIFEST).exists() or folder.suffix == ".glass":
        raise UsageError(f"--triton {folder}: a bundle is no model repository; name another folder")
    with about_triton():
        prepare_folder(folder)


@contextmanager
def about_triton() -> Iterator[None]:
    """Failures to write in terms of the option that named the folder."""
    try:
        yield
    except OutputError as error:
        raise OutputError(str(error).replace("--out", "--triton")) from error


def write_repository(bundle: Bundle, folder: Path) -> list[Path]:
    """Write `folder/NAME-PRECISION/` for every graph of the bundle that GPUs run, and return these folders; a network
    among several has its role in the name.

    Each holds `config.pbtxt` and `1/model.onnx`, replaces what an earlier export left, and is whole or absent. What
    earlier exports of the name left in other precisions is removed: it is of another network. Raises BundleError or
    OutputError.
    """
    written = []
    for graph in bundle.manifest.graphs:
        if graph.target == "cpu":
            continue
        model = folder / name_model(bundle, graph.role, graph.precision)
        with about_triton(), replace_folder(model, CONFIG) as beside:
            (beside / "1").mkdir()
            (beside / MODEL).write_bytes(bundle.read_entry(graph))
            (beside / CONFIG).write_text(describe_model(bundle, graph, model.name), "utf-8")
        written.append(model)
    for role, precision in product(bundle.manifest.networks, get_args(Precision)):
        model = folder / name_model(bundle, role, precision)
        if model not in written and is_exported(model, first_words(bundle.manifest.name, precision)):
            with about_triton(), output_errors(model), lock_folder(folder), own_name(folder) as beside:
                model.rename(beside)
                remove(beside)
    return written


def is_exported(model: Path, words: str) -> bool:
    """Whether a folder holds what an export writes and nothing else, and its configuration begins with `words`."""
    if model.is_symlink() or not (model / CONFIG).is_file():
        return False
    held = {path.relative_to(model).as_posix() for path in model.rglob("*")}
    with open(model / CONFIG, "rb") as file:
        return held == {CONFIG, "1", MODEL} and file.read(len(words.encode())) == words.encode()


def first_words(name: str, precision: str) -> str:
    """How a model's configuration begins: of which bundle it is, and in what precision."""
    return f"# {name} in {precision}: "


def name_model(bundle: Bundle, role: Role, precision: Precision) -> str:
    """What the model of a network is called."""
    return "-".join((bundle.manifest.name, *(() if role == "main" else (role,)), precision))


def describe_model(bundle: Bundle, graph: Graph, name: str) -> str:
    """Triton's ModelConfig of a graph as protobuf text: any number of windows a request, gathered into batches."""
    manifest = bundle.manifest
    network = manifest.networks[graph.role]
    given = ", ".join(spec.name for spec in network.outputs)
    factors = {spec.name: spec.factor for spec in manifest.inputs}
    mpp = manifest.mpp * next((factors[spec.name] for spec in network.inputs if spec.name in factors), 1.0)
    taken = f"uint8 RGB windows at {mpp:g} micrometres per pixel" if factors else "features that were stored before"
    return f"""\
{first_words(manifest.name, graph.precision)}{taken} -> {given}
name: "{name}"
platform: "onnxruntime_onnx"
max_batch_size: {MOST_WINDOWS}
input [ {describe_tensors(network.inputs)} ]
output [ {describe_tensors(network.outputs)} ]
dynamic_batching {{ max_queue_delay_microseconds: {WAIT_US} }}
instance_group [ {{ count: {INSTANCES} kind: KIND_AUTO }} ]
"""


def describe_tensors(specs: Sequence[TensorSpec]) -> str:
    """Inputs or outputs as a configuration names them; what counts windows is left out, -1 is free."""
    return ", ".join(
        f'{{ name: "{spec.name}" data_type: {TYPES[spec.dtype]} {describe_shape(spec)} }}' for spec in specs
    )


def describe_shape(spec: TensorSpec) -> str:
    """The shape of one window's tensor; Triton has no tensor of a single number, but takes it for a list of one."""
    dims = ", ".join(map(str, spec.sized(-1)[1:]))
    return f"dims: [ {dims} ]" if dims else "dims: [ 1 ] reshape { shape: [ ] }"
