"""Segmentation: a window in, the logits of each class over it out."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.kinds.shared import Shared
from glassrt.engine.bundles.parts import (
    LONGEST_NAME,
    ClassInfo,
    Overlay,
    Role,
    Scale,
    SlideScoring,
    Step,
    Teacher,
    check_distinct,
)
from glassrt.engine.bundles.tensors import Signature, TensorSpec

LARGEST_LOGITS = 1 << 28  # bytes of one window's logits
OF_THE_SLIDE = {"tissue", "analysed"}  # what summary.csv names its areas of a whole slide after


class Segmentation(Shared, frozen=True, kw_only=True, tag="segmentation"):
    """What a segmentation network tells apart, and the multi-scale test that it is run in.

    Class 0 is the background: it has an area but no regions. `output_stride` is input pixels per logit. A bundle may
    ask for `slide_scores`, and for an `overlay` other than of classes; what it does not ask for is not written, so that
    bundles keep their identity. `contour_of` names a class whose regions are told apart where they touch: the network
    gives one more plane of logits, for what of the class lies at the contour of a region. Regions below `smallest_um2`
    do not count; unset, those below one logit. `teachers` are the bundles that it learned from.
    """

    classes: Annotated[tuple[ClassInfo, ...], msgspec.Meta(min_length=2, max_length=255)]
    output_stride: Step
    scales: Annotated[tuple[Scale, ...], msgspec.Meta(min_length=1, max_length=32)]
    flips: bool
    slide_scores: SlideScoring | msgspec.UnsetType = msgspec.UNSET
    overlay: Overlay | msgspec.UnsetType = msgspec.UNSET
    contour_of: str | msgspec.UnsetType = msgspec.UNSET
    smallest_um2: Annotated[float, msgspec.Meta(gt=0, le=1e8)] | msgspec.UnsetType = msgspec.UNSET
    teachers: Annotated[tuple[Teacher, ...], msgspec.Meta(min_length=1, max_length=100)] | msgspec.UnsetType = (
        msgspec.UNSET
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_logits(self.window, self.output_stride, self.planes)
        check_classes(self.classes)
        check_distinct("a scale is", self.scales)
        if self.slide_scores:
            check_named("slide_scores.of", self.slide_scores.of, self.classes)
        if self.contour_of is not msgspec.UNSET:
            check_named("contour_of", self.contour_of, self.classes)

    @property
    def suspected(self) -> int:
        """The number of the class that slides are scored for, or else of the first but the background."""
        return [each.name for each in self.classes].index(self.slide_scores.of) if self.slide_scores else 1

    @property
    def contoured(self) -> int:
        """The number of the class whose regions contours tell apart, 0 for none."""
        if self.contour_of is msgspec.UNSET:
            return 0
        return [each.name for each in self.classes].index(self.contour_of)

    @property
    def smallest_region_um2(self) -> float:
        """The smallest region that counts."""
        if self.smallest_um2:
            return self.smallest_um2
        # What is smaller than one logit lies below the network's resolution; a tile's may have rounded sides.
        smallest = (self.mpp * self.output_stride) ** 2
        return smallest / 2 if self.output_stride == self.window else smallest

    @property
    def planes(self) -> int:
        """Planes of logits."""
        return len(self.classes) + (self.contour_of is not msgspec.UNSET)

    @property
    def networks(self) -> Mapping[Role, Signature]:
        side = self.window // self.output_stride
        image = TensorSpec("image", "uint8", (None, self.window, self.window, 3))
        logits = TensorSpec("logits", "float32", (None, self.planes, side, side))
        return {"main": Signature((image,), (logits,))}

    @property
    def views(self) -> tuple[tuple[float, ...], bool]:
        return self.scales, self.flips

    def classify(self, outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.int64] | None:
        """The likeliest class of each logit `[N, h, w]`."""
        (logits,) = outputs.values()
        if self.contoured:
            logits, contour = logits[:, :-1].copy(), logits[:, -1]
            logits[:, self.contoured] = np.logaddexp(logits[:, self.contoured], contour)
        classes: NDArray[np.int64] = logits.argmax(1)
        return classes


def check_classes(classes: Sequence[ClassInfo]) -> None:
    """Raise ValueError for classes whose names cannot stand beside each other in a table."""
    names = [unicodedata.normalize("NFKC", each.name).casefold() for each in classes]
    check_distinct("a class is", names)
    if taken := OF_THE_SLIDE & {*names[1:]}:
        raise ValueError(
            f"class {min(taken)!r} has the name of an area that summary.csv gives of every slide; rename it"
        )


def check_named(key: str, name: str, classes: Sequence[ClassInfo]) -> None:
    """Raise ValueError unless the manifest's `key` names a class other than the background."""
    if name not in (named := [each.name for each in classes[1:]]):
        raise ValueError(
            f"`$.{key}` names {name[: 2 * LONGEST_NAME]!r}, which is no class but the background: expected one of "
            f"{', '.join(named)}"
        )


def check_logits(window: int, output_stride: int, classes: int) -> None:
    """Raise ValueError for logits that do not tile a window, or that nobody could hold."""
    if window % output_stride:
        raise ValueError(f"window {window} is no multiple of output_stride {output_stride}")
    if 4 * classes * (window // output_stride) ** 2 > LARGEST_LOGITS:
        raise ValueError(
            f"logits of {classes} classes for window {window} at output_stride {output_stride} are too many"
        )
