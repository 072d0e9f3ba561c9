"""A model on disk: the folder `NAME.glass/` with `manifest.json` and the graphs that it names."""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.example import PACKED_SLACK, Known, read_example
from glassrt.engine.bundles.kinds.segmentation import Segmentation
from glassrt.engine.bundles.manifest import Manifest, decode_manifest
from glassrt.engine.bundles.parts import Example, Graph, Precision, Role, Target
from glassrt.engine.bundles.regular_file import LARGEST_TEXT, read_file
from glassrt.engine.bundles.scan import scan_graph
from glassrt.engine.bundles.tensors import Signature, TensorSpec, all_fit
from glassrt.engine.errors import BundleError, UsageError, first_line
from glassrt.engine.files import readable_json, replace_folder

MANIFEST = "manifest.json"
SHIPPED = Path(__file__).parent / "shipped"
DEFAULT_BUNDLE = SHIPPED / "glas-glands.glass"
LARGEST_GRAPH = (1 << 31) - 1  # bytes that protobuf can hold


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `sha256` is that of the manifest, which pins every graph and never changes: its identity."""

    path: Path
    manifest: Manifest
    sha256: str

    @property
    def segmentation(self) -> Segmentation:
        """The manifest of a bundle that makes maps of classes. Raises UsageError for one that does not."""
        if not isinstance(self.manifest, Segmentation):
            raise UsageError(
                f"{self.path} is of the kind {self.manifest.kind}, which tells no classes: run `glassrt embed` "
                "with it, or name a bundle that does"
            )
        return self.manifest

    def find_graph(self, precision: Precision = "fp32", target: Target = "cpu", role: Role | None = None) -> Graph:
        """The graph of a network, by default the first, in that precision for a kind of device. Raises BundleError."""
        role = role or self.manifest.first_role
        for graph in self.manifest.graphs:
            if (graph.role, graph.precision) == (role, precision) and graph.target in ("any", target):
                return graph
        of = "" if role == "main" else f" of its {role} network"
        graphs = [graph for graph in self.manifest.graphs if graph.role == role]
        held = ", ".join(f"{graph.precision} for {graph.target}" for graph in graphs)
        raise BundleError(f"{self.path} has no {precision} graph{of} for {target}; it holds {held}")

    def read_graph(self, precision: Precision = "fp32", target: Target = "cpu", role: Role | None = None) -> bytes:
        """The bytes of a graph, given out only if they are the manifest's, fit it and lead to no other file.

        Raises BundleError.
        """
        return self.read_entry(self.find_graph(precision, target, role))

    def read_entry(self, graph: Graph) -> bytes:
        """The bytes of a graph of the manifest, as `read_graph` gives them. Raises BundleError."""
        content = self.read_pinned(graph)
        try:
            found = scan_graph(content)
        except ValueError as error:
            raise BundleError(
                f"{self.path / graph.file} is not opened: {first_line(error)}; export or download the bundle again"
            ) from error
        meant = self.manifest.networks[graph.role]
        if not all_fit(found.inputs, meant.inputs):
            self._refuse_other(graph, "takes", found.inputs, meant.inputs)
        if not all_fit(found.outputs, meant.outputs, named=False):
            self._refuse_other(graph, "gives", found.outputs, meant.outputs)
        return content

    def _refuse_other(
        self, graph: Graph, does: str, found: Sequence[TensorSpec], meant: Sequence[TensorSpec]
    ) -> NoReturn:
        told = " and ".join(f"{spec} named {spec.name[:64]!r}" for spec in found[:4]) or "nothing"
        wanted = " and ".join(f"{spec.name} {spec}" for spec in meant)
        raise BundleError(
            f"{self.path / graph.file}: the graph {does} {told}, its manifest means {wanted}: "
            "export or download the bundle again"
        )

    def read_example(self, role: Role | None = None) -> Known | None:
        """What a network, by default the first, takes and exactly gives, if the bundle has it. Raises BundleError."""
        role = role or self.manifest.first_role
        network = self.manifest.networks[role]
        for entry in self.manifest.examples:
            if entry.role == role:
                content = self.read_pinned(entry, unpacked_size(network) + PACKED_SLACK)
                try:
                    return read_example(content, network)
                except ValueError as error:
                    raise BundleError(
                        f"{self.path / entry.file} holds no example of its manifest ({first_line(error)}): "
                        "export or download the bundle again"
                    ) from error
        return None

    @property
    def example_window(self) -> NDArray[np.uint8] | None:
        """The stored window of tissue `[H, W, 3]` alone, of its inputs the fine part; None without, or where it is
        painted. Raises BundleError.
        """
        known, inputs = self.read_example(), self.manifest.inputs
        painted = any(
            entry.painted is True and entry.role == self.manifest.first_role for entry in self.manifest.examples
        )
        return None if known is None or not inputs or painted else known.inputs[inputs[0].name][0]

    def check_files(self) -> None:
        """Read every file that the manifest names, for whatever device. Raises BundleError for one that is damaged."""
        for graph in self.manifest.graphs:
            self.read_entry(graph)
        for example in self.manifest.examples:
            self.read_example(example.role)

    def read_pinned(self, entry: Graph | Example, largest: int = LARGEST_GRAPH) -> bytes:
        """The bytes of a file that the manifest names, `largest` at most, if they are those. Raises BundleError."""
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
            of = self.segmentation if changes else self.manifest
            return Bundle(self.path, msgspec.structs.replace(of, **changes), self.sha256)
        except ValueError as error:
            asked = "flips" if scales is None else f"scales {scales}"
            raise UsageError(f"{asked}: {error}") from error


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
        manifest = decode_manifest(content)
    except BundleError as error:
        raise BundleError(f"{path / MANIFEST}: {error}") from error
    for entry in named_files(manifest):
        if not os.path.exists(path / entry.file):
            raise BundleError(f"{path / entry.file} is missing: copy or download the bundle again")
    return Bundle(path, manifest, hashlib.sha256(content).hexdigest())


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle whole or not at all; `files` maps each file that the manifest names to its bytes.

    Raises BundleError for a manifest that would not open again, before anything at `path` changes.
    """
    content = readable_json(manifest)
    try:
        decode_manifest(content)
    except BundleError as error:
        fault = first_line(error.__cause__ or error)
        raise BundleError(f"{path} is not written, its manifest could not be read again: {fault}") from error
    if len(content) > LARGEST_TEXT:
        raise BundleError(f"{path} is not written, its manifest has {len(content)} bytes, over {LARGEST_TEXT}")
    with replace_folder(path, MANIFEST) as beside:
        for entry in named_files(manifest):
            (beside / entry.file).write_bytes(files[entry.file])
        (beside / MANIFEST).write_bytes(content)
    return open_bundle(path)


def named_files(manifest: Manifest) -> tuple[Graph | Example, ...]:
    """Every file that a manifest names, with its sha256."""
    return *manifest.graphs, *manifest.examples


def unpacked_size(network: Signature) -> int:
    """Bytes of one of each of a network's inputs and outputs."""
    return sum(math.prod(spec.sized(1)) * np.dtype(spec.dtype).itemsize for spec in (*network.inputs, *network.outputs))
