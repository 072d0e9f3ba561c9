"""Patch labels: which kinds of tissue a patch holds, and nothing about where. What OEEM learns from.

Source: OEEM, section 3.1; the share that counts as present is from the authors' code.
"""

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.views import window_starts

PRESENT_SHARE = 0.05
Scalar = TypeVar("Scalar", bound=np.generic)


class Patch(NamedTuple):
    """A square of an image of the set, and for each class whether it is present there (`[C]`, bool)."""

    image: int
    left: int
    top: int
    side: int
    present: NDArray[np.bool_]

    def cut(self, plane: NDArray[Scalar]) -> NDArray[Scalar]:
        """The patch's part of an array `[H, W, ...]`, as a view."""
        return plane[self.top : self.top + self.side, self.left : self.left + self.side]


def label_patches(masks: list[NDArray[np.uint8]], classes: int, side: int, stride: int) -> list[Patch]:
    """All patches of all images; masks hold class numbers. The last patch of a row ends at the border."""
    patches = []
    for image, mask in enumerate(masks):
        for top in window_starts(mask.shape[0], side, stride):
            for left in window_starts(mask.shape[1], side, stride):
                cut = mask[top : top + side, left : left + side]
                shares = np.bincount(cut.ravel(), minlength=256)[:classes] / cut.size
                patches.append(Patch(image, left, top, side, shares > PRESENT_SHARE))
    return patches


def absent_classes(shape: tuple[int, int], classes: int, patches: list[Patch]) -> NDArray[np.bool_]:
    """`[C, H, W]`: the classes that some patch over a pixel does not hold; none where the labels rule out all.

    A patch with less than `PRESENT_SHARE` of a class loses that little, whatever its neighbours hold.
    """
    absent = np.zeros((classes, *shape), np.bool_)
    for patch in patches:
        for class_plane, present in zip(absent, patch.present, strict=True):
            patch.cut(class_plane)[...] |= not present
    return absent & ~absent.all(axis=0)
