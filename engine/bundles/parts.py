"""What manifests are made of: every value in bounds, so that nothing that one claims can exhaust a machine."""

import re
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

LONGEST_NAME = 64
LONGEST_TEXT = 4096
SAME_MPP = 0.05  # by what share resolutions may differ that are taken for one
FINEST_MPP, COARSEST_MPP = 0.05, 20.0  # micrometres per pixel, as any scan has
SMALLEST_SIDE, LARGEST_SIDE = 16, 4096  # pixels of a window

Channel = Annotated[int, msgspec.Meta(ge=0, le=255)]
Resolution = Annotated[float, msgspec.Meta(ge=FINEST_MPP, le=COARSEST_MPP)]
Scale = Annotated[float, msgspec.Meta(ge=0.1, le=10)]
Side = Annotated[int, msgspec.Meta(ge=SMALLEST_SIDE, le=LARGEST_SIDE)]
Step = Annotated[int, msgspec.Meta(ge=1, le=4096)]
Length = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]  # of an axis of features
Coordinate = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
Text = Annotated[str, msgspec.Meta(max_length=LONGEST_TEXT)]
Precision = Literal["fp32", "fp16", "int8"]  # of a graph
RunPrecision = Literal["fp32", "bf16", "fp16", "int8"]  # of a run: runtimes make bf16 of the fp32 graph
Target = Literal["any", "cpu", "gpu"]
Overlay = Literal["classes", "heat"]  # what a slide's picture shows: the likeliest classes, or one's probability
Role = Literal["main", "context", "fine"]  # of a network among those of its bundle


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


class SlideScoring(Strict, frozen=True):
    """Slides get a score each: how strongly their tissue speaks for the class named `of`, one of it being the mean of
    those `eta` percent that do most (Pinchaud, "Weakly Supervised Training of Pixel Resolution Segmentation Models on
    Whole Slide Images", section 3).
    """

    of: str
    eta: Annotated[float, msgspec.Meta(gt=0, le=100)]


class Making(Strict, frozen=True):
    """How features were made, None where nobody says it: the encoder's name, and of the tiles the side in pixels, as
    the encoder saw them, and how many micrometres such a pixel has.
    """

    encoder: Annotated[str, msgspec.Meta(max_length=LONGEST_TEXT)] | None = None
    side: Side | None = None
    mpp: Resolution | None = None

    def differ(self, meant: "Making") -> tuple[str, str] | None:
        """What this and what is `meant` say where both say something else, in words; None where they go together."""
        if self.encoder and meant.encoder and self.encoder != meant.encoder:
            mine, theirs = (f"features by {each.encoder[:LONGEST_NAME]!r}" for each in (self, meant) if each.encoder)
            return mine, theirs
        if self.side and meant.side and self.side != meant.side:
            return f"tiles of {self.side} px", f"tiles of {meant.side} px"
        if self.mpp and meant.mpp and abs(self.mpp / meant.mpp - 1) > SAME_MPP:
            mine, theirs = (f"tiles at {each.mpp:.3g} micrometres per pixel" for each in (self, meant))
            return mine, theirs
        return None


class Graph(Strict, frozen=True):
    """One ONNX file of a bundle, which computes its network of that `role` (see the kind's `networks`).

    `target` is the kind of device whose rules its numbers follow. `kept_float` names the layers of a lower precision
    that were left in float32 because they would cost accuracy. `weight_bits` of an int8 graph: 7 are right on every
    x86-64 processor, 8 (or None, as older bundles say) only where pairs of products are not added in sixteen bits.
    """

    file: str
    sha256: str
    precision: Precision = "fp32"
    role: Role = "main"
    target: Target = "any"
    kept_float: Annotated[tuple[Text, ...], msgspec.Meta(max_length=1000)] = ()
    weight_bits: Literal[7, 8] | None = None

    def __post_init__(self) -> None:
        check_pinned(self.file, "onnx", self.sha256)


class Example(Strict, frozen=True):
    """What the network of a role takes and exactly gives, which every runtime has to give when it opens: an .npz file
    of its inputs and outputs by name, one of each. One that is `painted` tells nothing of tissue.
    """

    file: str
    sha256: str
    role: Role = "main"
    painted: bool | msgspec.UnsetType = msgspec.UNSET  # not written where it is not

    def __post_init__(self) -> None:
        check_pinned(self.file, "npz", self.sha256)


class Teacher(Strict, frozen=True):
    """A bundle that a network learned from: its name, its identity, and the scales and flips that it was run with."""

    name: Text
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    scales: Annotated[tuple[Scale, ...], msgspec.Meta(min_length=1, max_length=32)]
    flips: bool


class Seen(Strict, frozen=True):
    """A slide or image that the lower precisions were made with, and so no measure of them.

    `fingerprint` is `ground.fingerprint` of the file; `box` is left, top, right, bottom of the part that was
    looked at, in pixels of level 0.
    """

    fingerprint: str
    box: tuple[Coordinate, Coordinate, Coordinate, Coordinate]


def is_name(text: str) -> bool:
    """Whether a text may be a bundle's name, which becomes part of files' names."""
    return re.fullmatch(r"\w[\w.+-]*", text) is not None and len(text) <= LONGEST_NAME


def check_pinned(file: str, suffix: str, sha256: str) -> None:
    """Raise ValueError unless a file is named plainly and pinned wholly."""
    if not re.fullmatch(rf"[\w.-]{{1,{LONGEST_NAME}}}\.{suffix}", file):
        raise ValueError(f"file {file[: 2 * LONGEST_NAME]!r} must be the plain name of an .{suffix} file in the bundle")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError("sha256 must be 64 lower-case hexadecimal digits")


def check_distinct(what: str, values: Iterable[object]) -> None:
    """Raise ValueError if any of several values comes twice."""
    values = list(values)
    if len(set(values)) < len(values):
        raise ValueError(f"{what} named twice")


def graph_precision(precision: RunPrecision) -> Precision:
    """The precision of the graph that a run in `precision` loads."""
    return "fp32" if precision == "bf16" else precision
