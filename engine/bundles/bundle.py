"""A model on disk: the folder `NAME.glass/` with `manifest.json` and the graphs that it names."""

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles import example
from glassrt.engine.bundles.manifest import (
    ClassInfo,
    Example,
    Graph,
    Manifest,
    Precision,
    RunPrecision,
    Seen,
    Strict,
    Target,
    is_name,
)
from glassrt.engine.bundles.scan import TensorSpec, scan_graph
from glassrt.engine.errors import BundleError, UsageError, first_line
from glassrt.engine.files import readable_json, replace_folder

__all__ = [
    "Bundle",
    "ClassInfo",
    "Example",
    "Graph",
    "Manifest",
    "Precision",
    "RunPrecision",
    "Seen",
    "Strict",
    "Target",
    "graph_precision",
    "is_name",
    "open_bundle",
    "write_bundle",
]

MANIFEST = "manifest.json"
SHIPPED = Path(__file__).parent / "shipped"
DEFAULT_BUNDLE = SHIPPED / "glas-glands.glass"
LARGEST_TEXT = 1 << 20  # bytes of a JSON file
LARGEST_GRAPH = (1 << 31) - 1  # bytes that protobuf can hold
PACKED_SLACK = 1 << 16  # bytes of an archive beside its arrays


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `sha256` is that of the manifest, which pins every graph and never changes: its identity."""

    path: Path
    manifest: Manifest
    sha256: str

    def find_graph(self, precision: Precision = "fp32", target: Target = "cpu") -> Graph:
        """The graph of that precision for a kind of device. Raises BundleError."""
        for graph in self.manifest.graphs:
            if graph.precision == precision and graph.target in ("any", target):
                return graph
        held = ", ".join(f"{graph.precision} for {graph.target}" for graph in self.manifest.graphs)
        raise BundleError(f"{self.path} has no {precision} graph for {target}; it holds {held}")

    def read_graph(self, precision: Precision = "fp32", target: Target = "cpu") -> bytes:
        """The bytes of a graph, given out only if they are the manifest's, fit it and lead to no other file.

        Raises BundleError.
        """
        return self.read_entry(self.find_graph(precision, target))

    def read_entry(self, graph: Graph) -> bytes:
        """The bytes of a graph of the manifest, as `read_graph` gives them. Raises BundleError."""
        content = self.read_pinned(graph)
        try:
            inputs, outputs = scan_graph(content)
        except ValueError as error:
            raise BundleError(
                f"{self.path / graph.file} is not opened: {first_line(error)}; export or download the bundle again"
            ) from error
        side, classes = self.manifest.window, len(self.manifest.classes)
        self._refuse_other(graph, "takes", "image", inputs, TensorSpec("image", "uint8", (None, side, side, 3)))
        side //= self.manifest.output_stride
        self._refuse_other(graph, "gives", "logits", outputs, TensorSpec("", "float32", (None, classes, side, side)))
        return content

    def _refuse_other(
        self, graph: Graph, does: str, what: str, found: tuple[TensorSpec, ...], meant: TensorSpec
    ) -> None:
        """Raise BundleError unless a graph takes or gives one tensor, as its manifest means it."""
        if len(found) == 1 and fits(found[0], meant):
            return
        told = (
            " and ".join(f"{spec.dtype} {describe(spec)} named {spec.name[:64]!r}" for spec in found[:4]) or "nothing"
        )
        raise BundleError(
            f"{self.path / graph.file}: the graph {does} {told}, its manifest means {what} {meant.dtype} "
            f"{describe(meant)}: export or download the bundle again"
        )

    def read_example(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]] | None:
        """The stored window `[1, H, W, 3]` and its exact logits `[1, C, h, w]`, if the bundle has them."""
        if self.manifest.example is None:
            return None
        try:
            return example.read_example(
                self.read_pinned(self.manifest.example), self.manifest.window, self.logits_shape
            )
        except ValueError as error:
            raise BundleError(
                f"{self.path / self.manifest.example.file} holds no example of its manifest ({first_line(error)}): "
                "export or download the bundle again"
            ) from error

    @property
    def example_window(self) -> NDArray[np.uint8] | None:
        """The stored window `[H, W, 3]` alone. Raises BundleError."""
        example = self.read_example()
        return None if example is None else example[0][0]

    def check_files(self) -> None:
        """Read every file that the manifest names, for whatever device. Raises BundleError for one that is damaged."""
        for graph in self.manifest.graphs:
            self.read_entry(graph)
        self.read_example()

    @property
    def logits_shape(self) -> tuple[int, int, int]:
        """Classes, height and width of a window's logits."""
        side = self.manifest.window // self.manifest.output_stride
        return len(self.manifest.classes), side, side

    def read_pinned(self, entry: Graph | Example) -> bytes:
        """The bytes of a file that the manifest names, if they are those. Raises BundleError."""
        largest = LARGEST_GRAPH
        if isinstance(entry, Example):
            largest = 3 * self.manifest.window**2 + 4 * int(np.prod(self.logits_shape)) + PACKED_SLACK
        content = read_file(self.path / entry.file, largest)
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise BundleError(
                f"{self.path / entry.file} is not the file its manifest names (sha256 differs): "
                "copy or download the bundle again"
            )
        return content

    def replace(self, scales: tuple[float, ...] | None = None, flips: bool | None = None) -> "Bundle":
        """The same bundle run at other scales or with flips. Raises UsageError."""
        if scales is not None and not (scales and all(0.1 <= scale <= 10 for scale in scales)):
            raise UsageError(f"scales {scales}: expected different numbers from 0.1 to 10")
        changes: dict[str, Any] = {}
        if scales is not None:
            changes["scales"] = scales
        if flips is not None:
            changes["flips"] = flips
        try:
            return Bundle(self.path, msgspec.structs.replace(self.manifest, **changes), self.sha256)
        except ValueError as error:
            raise UsageError(f"scales {scales}: {error}") from error


def open_bundle(path: Path | str = DEFAULT_BUNDLE) -> Bundle:
    """The bundle in folder `path`, or the shipped one of that name; without either, the default gland bundle.

    Raises BundleError when the folder, its manifest or one of its graphs is missing or malformed.
    """
    shipped = SHIPPED / f"{path}.glass"
    is_plain = Path(path).name == str(path)
    path = shipped if is_plain and os.path.isdir(shipped) and not os.path.exists(path) else Path(path)
    if not os.path.isdir(path):  # which, unlike Path's, raises for no name
        names = ", ".join(sorted(each.stem for each in SHIPPED.glob("*.glass")))
        raise BundleError(f"{path} is no bundle: expected a folder NAME.glass with {MANIFEST} in it, or one of {names}")
    content = read_file(path / MANIFEST, LARGEST_TEXT)
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(
            f"{path / MANIFEST}: {first_line(error)}; the bundle is damaged or made by another version"
        ) from error
    for entry in named_files(manifest):
        if not os.path.exists(path / entry.file):
            raise BundleError(f"{path / entry.file} is missing: copy or download the bundle again")
    return Bundle(path, manifest, hashlib.sha256(content).hexdigest())


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle whole or not at all; `files` maps each file that the manifest names to its bytes."""
    with replace_folder(path, MANIFEST) as beside:
        for entry in named_files(manifest):
            (beside / entry.file).write_bytes(files[entry.file])
        (beside / MANIFEST).write_bytes(readable_json(manifest))
    return open_bundle(path)


def named_files(manifest: Manifest) -> tuple[Graph | Example, ...]:
    """Every file that a manifest names, with its sha256."""
    return manifest.graphs if manifest.example is None else (*manifest.graphs, manifest.example)


def graph_precision(precision: RunPrecision) -> Precision:
    """The precision of the graph that a run in `precision` loads."""
    return "fp32" if precision == "bf16" else precision


def fits(found: TensorSpec, meant: TensorSpec) -> bool:
    """Whether a tensor is what is meant, as far as the file tells: sides may be left open, the batch has to be."""
    if found.dtype != meant.dtype or meant.name not in ("", found.name):
        return False
    if found.shape is None or meant.shape is None:
        return True
    return len(found.shape) == len(meant.shape) and all(
        length in (None, wanted) for length, wanted in zip(found.shape, meant.shape, strict=True)
    )


def describe(spec: TensorSpec) -> str:
    """The shape of a tensor in words; N is free."""
    shape = spec.shape or ()
    return f"[{', '.join('N' if length is None else str(length) for length in shape[:8])}]"


def read_file(path: Path, largest: int) -> bytes:
    """All bytes of a file of a bundle, which has to be a regular one, or lead to one, of at most `largest` bytes.

    Nothing else is opened: a pipe would wait for its writer, a device never end. Raises BundleError.
    """
    try:
        if stat.S_ISREG(path.stat().st_mode):
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                opened = os.fstat(descriptor)
                if opened.st_size > largest:
                    raise BundleError(f"{path} has {opened.st_size} bytes, and no such file of a bundle over {largest}")
                if stat.S_ISREG(opened.st_mode):
                    return file.read(opened.st_size)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}): copy or download the bundle again") from error
    raise BundleError(f"{path} is no regular file: copy or download the bundle again")
