"""CAMELYON16's free-response ROC: how many lesions are found at how many false alarms a slide.

Source: the challenge's evaluation (Ehteshami Bejnordi et al., JAMA 2017) and its published script, at the slides' level
5, 7.8 micrometres a pixel. What lies nearer than 37.5 micrometres to an outline belongs to its lesion, and holes are
filled; what then is shorter than 275 micrometres is a group of isolated tumour cells, on which a hit is neither true
nor false. A lesion is found once, with the best score that hits it.

The script has two versions of the final score. Here is the newer: the sensitivity where, with a falling threshold, the
mean number of false alarms first reaches a target, without interpolation. The script also drops its lowest threshold,
which is that of missed lesions; where none is missed, here nothing is dropped.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

LEVEL_MPP = 0.243 * 2**5  # of the level that lesions are told apart at
MARGIN_UM = 75 / 2
ISOLATED_UM = 275.0
TARGETS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # mean false alarms a slide

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Lesions(NamedTuple):
    """`numbers` `[H, W]` is 0 outside of lesions and their number within; `isolated` are those that do not count."""

    numbers: NDArray[np.int32]
    isolated: frozenset[int]

    @property
    def to_find(self) -> int:
        """How many lesions count."""
        return int(self.numbers.max(initial=0)) - len(self.isolated)


class Candidate(NamedTuple):
    """Where a suspected lesion is most suspicious, in pixels, and how much it is there."""

    row: int
    column: int
    score: float


class Hits(NamedTuple):
    """Of one slide: the best score on each lesion, minus infinity for missed ones, and the scores of false alarms."""

    lesions: tuple[float, ...]
    false_alarms: tuple[float, ...]


def find_lesions(malign: Mask, mpp: float) -> Lesions:
    """The lesions of a slide's truth `[H, W]` at `mpp` micrometres per pixel."""
    if not malign.any():
        return Lesions(np.zeros(malign.shape, np.int32), frozenset())
    outside = (~malign).view(np.uint8)
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Squares of distances are whole numbers, so comparing these is exact.
    near = np.rint(np.square(distance.astype(np.float64))) < (MARGIN_UM / mpp) ** 2
    numbers = np.asarray(cv2.connectedComponents(fill_holes(near).view(np.uint8), connectivity=8)[1], np.int32)
    short = np.flatnonzero(major_axes(numbers) < ISOLATED_UM / mpp) + 1
    return Lesions(numbers, frozenset(short.tolist()))


def fill_holes(mask: Mask) -> Mask:
    """The mask with all that it surrounds: from where no 4-connected way outside of it leads to the border."""
    _, numbers = cv2.connectedComponents((~mask).view(np.uint8), connectivity=4)
    border = np.unique(np.concatenate([numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]]))
    filled: Mask = ~np.isin(numbers, border[border > 0])
    return filled


def major_axes(numbers: NDArray[np.int32]) -> Floats:
    """Of each numbered region, in pixels: the long axis of the ellipse with its second moments."""
    rows, columns = np.nonzero(numbers)
    index = numbers[rows, columns] - 1
    sizes = np.bincount(index)
    down, across = (each - (np.bincount(index, each) / sizes)[index] for each in (rows, columns))
    yy, xx, xy = (np.bincount(index, each) / sizes for each in (down * down, across * across, down * across))
    largest = (yy + xx) / 2 + np.sqrt(((yy - xx) / 2) ** 2 + xy**2)  # eigenvalue of the covariance
    axes: Floats = 4 * np.sqrt(largest)
    return axes


def find_candidates(odds: NDArray[np.floating]) -> list[Candidate]:
    """One of each 8-connected component of log-odds above 0, which is a probability above 0.5: its maximum.

    Scores are log-odds, which rank where probabilities are all 1. Of equal pixels the first one stands for all.
    """
    count, numbers = cv2.connectedComponents((odds > 0).astype(np.uint8), connectivity=8)
    places = np.flatnonzero(numbers)
    order = places[np.lexsort((places, -odds.ravel()[places], numbers.ravel()[places]))]
    firsts = order[np.searchsorted(numbers.ravel()[order], np.arange(1, count))]
    width = odds.shape[1]
    return [Candidate(place // width, place % width, float(odds.flat[place])) for place in firsts.tolist()]


def match(candidates: Sequence[Candidate], lesions: Lesions) -> Hits:
    """What the candidates hit on the map of lesions, whose pixels they are in."""
    numbers = range(1, int(lesions.numbers.max(initial=0)) + 1)
    best = {number: -np.inf for number in numbers if number not in lesions.isolated}
    false_alarms = []
    for candidate in candidates:
        number = int(lesions.numbers[candidate.row, candidate.column])
        if not number:
            false_alarms.append(candidate.score)
        elif number in best:
            best[number] = max(best[number], candidate.score)
    return Hits(tuple(best.values()), tuple(false_alarms))


def froc_curve(slides: Sequence[Hits]) -> tuple[Floats, Floats]:
    """Mean false alarms a slide `[k]` and sensitivities `[k]` from (0, 0): a point for each score, falling.

    Both are empty where there is no lesion.
    """
    lesions = np.array([score for slide in slides for score in slide.lesions])
    false_alarms = np.array([score for slide in slides for score in slide.false_alarms])
    if not lesions.size:
        return np.empty(0), np.empty(0)
    thresholds = np.unique(np.concatenate([lesions[lesions > -np.inf], false_alarms]))[::-1]
    mean_false = np.array([(false_alarms >= threshold).sum() for threshold in thresholds]) / len(slides)
    found = np.array([(lesions >= threshold).mean() for threshold in thresholds])
    return np.concatenate([[0.0], mean_false]), np.concatenate([[0.0], found])


def mean_sensitivity(mean_false: Floats, found: Floats, targets: Sequence[float] = TARGETS) -> float:
    """The challenge's score of a curve as from `froc_curve`: the mean of the sensitivities at `targets`.

    Where so many false alarms are never reached, it is that of all candidates. NaN for an empty curve.
    """
    if not found.size:
        return float("nan")
    return float(np.mean([found[min(int(np.searchsorted(mean_false, target)), len(found) - 1)] for target in targets]))
