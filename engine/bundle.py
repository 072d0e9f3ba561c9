"""A model on disk: the folder `NAME.glass/` with `manifest.json` and the graphs that it names."""

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import BundleError
from glassrt.engine.files import readable_json, replace_folder

MANIFEST = "manifest.json"
LONGEST_NAME = 64
SHIPPED = Path(__file__).parent / "bundles"
DEFAULT_BUNDLE = SHIPPED / "glas-glands.glass"

Channel = Annotated[int, msgspec.Meta(ge=0, le=255)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
PositiveInt = Annotated[int, msgspec.Meta(gt=0)]
Precision = Literal["fp32", "fp16", "int8"]  # of a graph
RunPrecision = Literal["fp32", "bf16", "fp16", "int8"]  # of a run: runtimes make bf16 of the fp32 graph
Target = Literal["any", "cpu", "gpu"]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the manifest's parts: unknown keys and wrong types are refused with the key's path."""


class ClassInfo(Strict, frozen=True):
    """One class as users see it: its name and its RGB colour."""

    name: str
    color: tuple[Channel, Channel, Channel]


class Graph(Strict, frozen=True):
    """One ONNX file of a bundle: uint8 `[N, H, W, 3]` RGB in, float32 logits `[N, C, h, w]` out.

    `target` is the kind of device whose rules its numbers follow. `kept_float` names the layers of a lower precision
    that were left in float32 because they would cost accuracy. `weight_bits` of an int8 graph: 7 are right on every
    x86-64 processor, 8 (or None, as older bundles say) only where pairs of products are not added in sixteen bits.
    """

    file: str
    sha256: str
    precision: Precision = "fp32"
    role: Literal["main"] = "main"
    target: Target = "any"
    kept_float: tuple[str, ...] = ()
    weight_bits: Literal[7, 8] | None = None

    def __post_init__(self) -> None:
        check_pinned(self.file, "onnx", self.sha256)


class Example(Strict, frozen=True):
    """A window and the exact logits of it, which every runtime has to give when it opens: an .npz file with `image`
    uint8 `[1, H, W, 3]` and `logits` float32 `[1, C, h, w]`.
    """

    file: str
    sha256: str

    def __post_init__(self) -> None:
        check_pinned(self.file, "npz", self.sha256)


class Manifest(Strict, frozen=True):
    """What a bundle is and how its network is to be run.

    Class 0 is the background: it has an area but no regions. `window` and `stride` are pixels at `mpp` times
    the scale; `output_stride` is input pixels per logit.
    """

    format: Literal[1]
    kind: Literal["segmentation"]
    name: str
    classes: Annotated[tuple[ClassInfo, ...], msgspec.Meta(min_length=2, max_length=255)]
    mpp: Positive
    window: PositiveInt
    stride: PositiveInt
    output_stride: PositiveInt
    scales: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)]
    flips: bool
    graphs: Annotated[tuple[Graph, ...], msgspec.Meta(min_length=1)]
    trained: str
    licence: str
    example: Example | None = None
    verified: tuple[dict[str, Any], ...] = ()  # of bundles made before checks lay beside the manifest; not believed

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(
                f"name {self.name!r} must be letters, digits, dots, dashes and underlines, {LONGEST_NAME} at most"
            )
        if self.stride > self.window:
            raise ValueError(f"stride {self.stride} exceeds window {self.window}: pixels would be left out")
        if self.window % self.output_stride:
            raise ValueError(f"window {self.window} is no multiple of output_stride {self.output_stride}")
        if len({info.name for info in self.classes}) < len(self.classes):
            raise ValueError("a class is named twice")
        if len(set(self.scales)) < len(self.scales):
            raise ValueError("a scale is named twice")


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
        """The bytes of a graph, given out only if their sha256 is the manifest's. Raises BundleError."""
        return self.read_pinned(self.find_graph(precision, target))

    def read_example(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]] | None:
        """The stored window `[1, H, W, 3]` and its exact logits `[1, C, h, w]`, if the bundle has them."""
        if self.manifest.example is None:
            return None
        stored = io.BytesIO(self.read_pinned(self.manifest.example))
        side = self.manifest.window // self.manifest.output_stride
        shape = (1, self.manifest.window, self.manifest.window, 3)
        try:
            with np.load(stored) as arrays:
                image, logits = arrays["image"], arrays["logits"]
        except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile) as error:
            raise BundleError(f"{self.path / self.manifest.example.file} holds no example ({error})") from error
        if (image.shape, image.dtype, logits.shape) != (shape, np.uint8, (1, len(self.manifest.classes), side, side)):
            raise BundleError(
                f"{self.path / self.manifest.example.file} does not fit its manifest: {image.dtype} "
                f"{list(image.shape)} and logits {list(logits.shape)}; export or download the bundle again"
            )
        return image, logits.astype(np.float32)

    def read_pinned(self, entry: Graph | Example) -> bytes:
        """The bytes of a file that the manifest names, if they are those. Raises BundleError."""
        content = read_file(self.path / entry.file)
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise BundleError(
                f"{self.path / entry.file} is not the file its manifest names (sha256 differs): "
                "copy or download the bundle again"
            )
        return content

    def replace(self, scales: tuple[float, ...] | None = None, flips: bool | None = None) -> "Bundle":
        """The same bundle run at other scales or with flips."""
        changes: dict[str, Any] = {}
        if scales is not None:
            changes["scales"] = scales
        if flips is not None:
            changes["flips"] = flips
        return Bundle(self.path, msgspec.structs.replace(self.manifest, **changes), self.sha256)


def open_bundle(path: Path | str = DEFAULT_BUNDLE) -> Bundle:
    """The bundle in folder `path`, or the shipped one of that name; without either, the default gland bundle.

    Raises BundleError when the folder, its manifest or one of its graphs is missing or malformed.
    """
    shipped = SHIPPED / f"{path}.glass"
    is_name = Path(path).name == str(path)
    path = shipped if is_name and shipped.is_dir() and not Path(path).exists() else Path(path)
    if not path.is_dir():
        names = ", ".join(sorted(each.stem for each in SHIPPED.glob("*.glass")))
        raise BundleError(f"{path} is no bundle: expected a folder NAME.glass with {MANIFEST} in it, or one of {names}")
    content = read_file(path / MANIFEST)
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except msgspec.MsgspecError as error:
        raise BundleError(f"{path / MANIFEST}: {error}; the bundle is damaged or made by another version") from error
    for entry in named_files(manifest):
        if not (path / entry.file).is_file():
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


def is_name(text: str) -> bool:
    """Whether a text may be a bundle's name, which becomes part of files' names."""
    return re.fullmatch(r"\w[\w.+-]*", text) is not None and len(text) <= LONGEST_NAME


def graph_precision(precision: RunPrecision) -> Precision:
    """The precision of the graph that a run in `precision` loads."""
    return "fp32" if precision == "bf16" else precision


def check_pinned(file: str, suffix: str, sha256: str) -> None:
    """Raise ValueError unless a file is named plainly and pinned wholly."""
    if not re.fullmatch(rf"[\w.-]+\.{suffix}", file):
        raise ValueError(f"file {file!r} must be the plain name of an .{suffix} file in the bundle")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError("sha256 must be 64 lower-case hexadecimal digits")


def read_file(path: Path) -> bytes:
    """All bytes of a file of a bundle."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}): copy or download the bundle again") from error
