"""What a bundle's `manifest.json` may say: every value in bounds, so that nothing it claims can exhaust a machine."""

import re
import unicodedata
from typing import Annotated, Any, Literal

import msgspec

LONGEST_NAME = 64
LONGEST_TEXT = 4096
LARGEST_LOGITS = 1 << 28  # bytes of one window's logits
OF_THE_SLIDE = {"tissue", "analysed"}  # what summary.csv names its areas of a whole slide after
MOST_OVERLAP = 8  # windows along an axis that cover a pixel

Channel = Annotated[int, msgspec.Meta(ge=0, le=255)]
Resolution = Annotated[float, msgspec.Meta(ge=0.05, le=20)]  # micrometres per pixel, as any scan has
Scale = Annotated[float, msgspec.Meta(ge=0.1, le=10)]
Side = Annotated[int, msgspec.Meta(ge=16, le=4096)]  # pixels of a window
Step = Annotated[int, msgspec.Meta(ge=1, le=4096)]
Coordinate = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
Text = Annotated[str, msgspec.Meta(max_length=LONGEST_TEXT)]
Precision = Literal["fp32", "fp16", "int8"]  # of a graph
RunPrecision = Literal["fp32", "bf16", "fp16", "int8"]  # of a run: runtimes make bf16 of the fp32 graph
Target = Literal["any", "cpu", "gpu"]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the manifest's parts: unknown keys and wrong types are refused with the key's path."""


class ClassInfo(Strict, frozen=True):
    """One class as users see it: its name and its RGB colour."""

    name: str
    color: tuple[Channel, Channel, Channel]

    def __post_init__(self) -> None:
        if not (0 < len(self.name) <= LONGEST_NAME and self.name.isprintable() and self.name == self.name.strip()):
            raise ValueError(
                f"class {self.name[: 2 * LONGEST_NAME]!r} must be named in 1 to {LONGEST_NAME} printable characters"
            )


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
    kept_float: Annotated[tuple[Text, ...], msgspec.Meta(max_length=1000)] = ()
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


class Seen(Strict, frozen=True):
    """A slide or image that the lower precisions were made with, and so no measure of them.

    `fingerprint` is `ground.fingerprint` of the file; `box` is left, top, right, bottom of the part that was
    looked at, in pixels of level 0.
    """

    fingerprint: str
    box: tuple[Coordinate, Coordinate, Coordinate, Coordinate]


class Manifest(Strict, frozen=True):
    """What a bundle is and how its network is to be run.

    Class 0 is the background: it has an area but no regions. `window` and `stride` are pixels at `mpp` times
    the scale; `output_stride` is input pixels per logit.
    """

    format: Literal[1]
    kind: Literal["segmentation"]
    name: str
    classes: Annotated[tuple[ClassInfo, ...], msgspec.Meta(min_length=2, max_length=255)]
    mpp: Resolution
    window: Side
    stride: Step
    output_stride: Step
    scales: Annotated[tuple[Scale, ...], msgspec.Meta(min_length=1, max_length=32)]
    flips: bool
    graphs: Annotated[tuple[Graph, ...], msgspec.Meta(min_length=1, max_length=16)]
    trained: Text
    licence: Text
    example: Example | None = None
    calibrated: Annotated[tuple[Seen, ...], msgspec.Meta(max_length=1000)] = ()
    verified: tuple[dict[str, Any], ...] = ()  # of bundles made before checks lay beside the manifest; not believed

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(
                f"name {self.name[: 2 * LONGEST_NAME]!r} must be letters, digits, dots, dashes and underlines, "
                f"{LONGEST_NAME} at most"
            )
        for name in ("trained", "licence"):
            if not all(each.isprintable() or each == "\n" for each in getattr(self, name)):
                raise ValueError(f"{name} holds characters that cannot be printed")
        check_windows(self.window, self.stride, self.output_stride, len(self.classes))
        names = [unicodedata.normalize("NFKC", each.name).casefold() for each in self.classes]
        check_distinct("class", names)
        if taken := OF_THE_SLIDE & {*names[1:]}:
            raise ValueError(
                f"class {min(taken)!r} has the name of an area that summary.csv gives of every slide; rename it"
            )
        check_distinct("scale", self.scales)
        check_distinct("graph", ((graph.precision, graph.target) for graph in self.graphs))


def check_windows(window: int, stride: int, output_stride: int, classes: int) -> None:
    """Raise ValueError for windows that leave pixels out, or that nobody could compute."""
    if stride > window:
        raise ValueError(f"stride {stride} exceeds window {window}: pixels would be left out")
    if stride * MOST_OVERLAP < window:
        raise ValueError(f"stride {stride} is less than an eighth of window {window}: too many windows for any slide")
    if window % output_stride:
        raise ValueError(f"window {window} is no multiple of output_stride {output_stride}")
    if 4 * classes * (window // output_stride) ** 2 > LARGEST_LOGITS:
        raise ValueError(
            f"logits of {classes} classes for window {window} at output_stride {output_stride} are too many"
        )


def check_distinct(kind: str, values: Any) -> None:
    """Raise ValueError if any of several values comes twice."""
    values = list(values)
    if len(set(values)) < len(values):
        raise ValueError(f"a {kind} is named twice")


def is_name(text: str) -> bool:
    """Whether a text may be a bundle's name, which becomes part of files' names."""
    return re.fullmatch(r"\w[\w.+-]*", text) is not None and len(text) <= LONGEST_NAME


def check_pinned(file: str, suffix: str, sha256: str) -> None:
    """Raise ValueError unless a file is named plainly and pinned wholly."""
    if not re.fullmatch(rf"[\w.-]{{1,{LONGEST_NAME}}}\.{suffix}", file):
        raise ValueError(f"file {file[: 2 * LONGEST_NAME]!r} must be the plain name of an .{suffix} file in the bundle")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError("sha256 must be 64 lower-case hexadecimal digits")
