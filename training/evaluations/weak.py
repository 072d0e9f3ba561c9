"""A bundle that learned from slides' labels: how well it tells slides, pixels and lesions, in one pass over each slide.

Slides are ranked by log-odds pooled over the tissue that the engine finds, as `engine.maps.evidence` has it, pixels by
their own, lesions as CAMELYON16 does. Memory grows with a slide's map at 7.8 micrometres alone.
"""

import math
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.errors import OutputError
from glassrt.engine.files import prepare_folder
from glassrt.engine.geometry.boxes import Box, Size, bands
from glassrt.engine.geometry.coverage import cover
from glassrt.engine.maps.canvas import TILE, Tile
from glassrt.engine.maps.evidence import LIMIT, Evidence, SlideScores, log_odds
from glassrt.engine.results.figures import physical_mpp
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.slide import Slide
from glassrt.engine.slides.tissue.masks import Mask
from glassrt.engine.tasks.segment import lay_windows, segment
from glassrt.engine.tasks.segmentation import choose_map_size, open_grid
from glassrt.training import metrics
from glassrt.training.datasets.labelled import Truth
from glassrt.training.datasets.weak import WeakSlide
from glassrt.training.evaluations.slides import check_classes
from glassrt.training.froc import LEVEL_MPP, TARGETS, Hits, find_candidates, find_lesions, froc_curve, match
from glassrt.training.froc import mean_sensitivity as score_curve
from glassrt.training.mapping import find_tissue
from glassrt.training.plots import draw_curves
from glassrt.training.slide_metrics import OddsHistogram, bootstrap_auc, roc_auc, roc_curve

MALIGN = 1  # the number of that class
ETA = 1.0  # percent of the tissue, whose most malign pixels are the third score of a slide
SEED = 1  # of the interval's draws
NOTHING = SlideScores(-math.inf, -math.inf, -math.inf)  # of a slide without tissue: none is less suspected
SCORES = {
    "percentile_99": "99th percentile",
    "maximum": "maximum",
    "top": f"top {ETA:g} %",
}  # the first is the main one


class WeakSet(Protocol):
    """A module of `training/datasets` that finds slides with labels."""

    @property
    def CLASSES(self) -> tuple[str, ...]:
        """What the classes of its truth are called: benign and malign."""

    def find_slides(self, folder: Path, split: str) -> list[WeakSlide]:
        """The slides of a split. Raises DatasetError."""


class Finding(NamedTuple):
    """What a slide's map says of it; `hits` is None where its truth is not known."""

    malign: bool
    scores: SlideScores
    hits: Hits | None


class PixelCounts:
    """Pixels of all slides: `[2, 2]` as `metrics.confusion` at a probability of 0.5, and their log-odds by truth."""

    def __init__(self) -> None:
        self.confusion = np.zeros((2, 2), np.int64)
        self.odds = OddsHistogram()

    def add(self, odds: NDArray[np.float32], malign: Mask, ranked: Mask) -> None:
        """Add pixels `[h, w]` and whether each is `malign`; those that are `ranked` count in the pixel AUC."""
        self.confusion += metrics.confusion(malign.view(np.uint8), (odds > 0).view(np.uint8), 2)
        self.odds.add(odds[ranked], malign[ranked])


def score(
    labelled: WeakSet,
    title: str,
    bundle: Bundle,
    backend: Backend,
    data: Path,
    split: str,
    progress: Callable[[int, int], None],
    left_out: Collection[Path],
    plots: Path | None = None,
) -> tuple[dict[str, float], int]:
    """Scores from 0 to 1 by name, and the number of slides, but for the files `left_out`; `title` names the set.

    `slide AUC low` and `high` are the ends of a 95 % interval. What is not defined, of one label only or without a
    lesion, is NaN; scores of pixels and lesions are not given where no slide's truth is known. ROC and FROC curves are
    drawn into the folder `plots`. Raises DatasetError, SlideError or OutputError.
    """
    check_classes(bundle, labelled.CLASSES, title)
    slides = [slide for slide in labelled.find_slides(data, split) if slide.path not in left_out]
    if plots is not None:
        prepare_plots(plots)  # fails before hours are spent
    pixels, findings = PixelCounts(), list[Finding]()
    for done, slide in enumerate(slides, start=1):
        findings.append(examine(slide, bundle, backend, pixels))
        progress(done, len(slides))
    if plots is not None:
        draw(plots, f"{title}, {split}", findings)
    return summarise(findings, pixels), len(slides)


def prepare_plots(folder: Path) -> None:
    """Make a folder for curves. Raises OutputError, which names the option that the folder was given with."""
    try:
        prepare_folder(folder)
    except OutputError as error:
        raise OutputError(re.sub("--out$", "--plots", str(error))) from error


def summarise(findings: Sequence[Finding], pixels: PixelCounts) -> dict[str, float]:
    """The scores by name."""
    labels = [each.malign for each in findings]
    by_score = {name: [getattr(each.scores, name) for each in findings] for name in SCORES}
    main = by_score["percentile_99"]
    low, high = bootstrap_auc(main, labels, SEED)
    scores = {"slide AUC": roc_auc(main, labels), "slide AUC low": low, "slide AUC high": high}
    scores |= {f"slide AUC by {SCORES[name]}": roc_auc(by_score[name], labels) for name in ("maximum", "top")}
    hits = [each.hits for each in findings if each.hits is not None]
    if hits:
        scores["pixel AUC"] = pixels.odds.auc()
        scores["IoU malign"] = float(metrics.iou_per_class(pixels.confusion)[MALIGN])
        scores["FROC"] = score_curve(*froc_curve(hits))
    return scores


def draw(folder: Path, title: str, findings: Sequence[Finding]) -> None:
    """Write `roc.png` and `froc.png`."""
    labels = [each.malign for each in findings]
    slides = {SCORES[name]: roc_curve([getattr(each.scores, name) for each in findings], labels) for name in SCORES}
    draw_curves(folder / "roc.png", f"Slides of {title}", ("false alarm rate", "sensitivity"), 1.0, slides)
    lesions = {"lesions": froc_curve([each.hits for each in findings if each.hits is not None])}
    axes = ("mean false alarms a slide", "sensitivity")
    draw_curves(folder / "froc.png", f"Lesions of {title}", axes, max(TARGETS), lesions)


def examine(weak: WeakSlide, bundle: Bundle, backend: Backend, pixels: PixelCounts) -> Finding:
    """Run a bundle on a slide, once; its pixels are added to `pixels` where its truth is known."""
    with open_slide(weak.path, weak.mpp) as slide:
        grid = open_grid(slide, bundle)
        size = choose_map_size(grid, bundle, None)
        scope = find_tissue(slide)
        evidence = Evidence(MALIGN, ETA, scope.tissue, size)
        view = None if weak.truth is None else TruthView(weak.truth, scope.tissue, size, level_size(slide), pixels)

        def place(tile: Tile) -> None:
            evidence.place(tile)
            if view is not None:
                view.place(tile)

        segment(grid, lay_windows(grid, bundle, scope.searched), bundle, backend, size, place)
        hits = None if view is None else view.finish(physical_mpp(slide, *level_size(slide)))
    return Finding(weak.malign, evidence.scores() or NOTHING, hits)


def level_size(slide: Slide) -> Size:
    """(width, height) of the slide at the level that lesions are told apart at."""
    width, height = (max(1, round(length * slide.mpp / LEVEL_MPP)) for length in slide.levels[0].size)
    return width, height


class TruthView:
    """Holds a slide's map against its truth, tile by tile.

    `size` is the map's, `level` that of the part which is kept, (width, height). What was not analysed is benign to the
    map. In the pixel AUC counts the tissue, where the map has an opinion, and all that is malign.
    """

    def __init__(self, truth: Truth, tissue: Mask, size: Size, level: Size, pixels: PixelCounts) -> None:
        self._truth, self._tissue, self._size, self._pixels = truth, tissue, size, pixels
        self._odds = np.full(level[::-1], -LIMIT, np.float32)
        # A pixel of the level has the value of the map's at its centre.
        self._columns, self._rows = (
            ((np.arange(count) + 0.5) * (of_map / count)).astype(np.int64)
            for count, of_map in zip(level, size, strict=True)
        )
        self._placed: set[tuple[int, int]] = set()

    def place(self, tile: Tile) -> None:
        """Add one tile; in any order."""
        height, width = tile.analysed.shape
        malign = self._cut(tile.left, tile.top, width, height)
        odds = np.where(tile.analysed, log_odds(tile.probabilities, MALIGN), np.float32(-LIMIT))
        tissue = cover(self._tissue, self._size, tile.left, tile.top, (width, height)) > 0
        self._pixels.add(odds, malign, malign | (tissue & tile.analysed))
        self._keep(odds, tile.left, tile.top)
        self._placed.add((tile.left, tile.top))

    def finish(self, mpp: float) -> Hits:
        """Add the tiles that no window touched; return what the kept part, at `mpp`, hits."""
        for top, bottom in bands(self._size[1], TILE):
            for left, right in bands(self._size[0], TILE):
                if (left, top) not in self._placed:
                    malign = self._cut(left, top, right - left, bottom - top)
                    self._pixels.add(np.full(malign.shape, -LIMIT, np.float32), malign, malign)
        height, width = self._odds.shape
        malign = self._truth.cut(Box(0, 0, width, height), (width, height)) == MALIGN
        return match(find_candidates(self._odds), find_lesions(malign, mpp))

    def _cut(self, left: int, top: int, width: int, height: int) -> Mask:
        malign: Mask = self._truth.cut(Box(left, top, left + width, top + height), self._size) == MALIGN
        return malign

    def _keep(self, odds: NDArray[np.float32], left: int, top: int) -> None:
        height, width = odds.shape
        first, end = np.searchsorted(self._rows, (top, top + height)).tolist()
        start, stop = np.searchsorted(self._columns, (left, left + width)).tolist()
        rows, columns = self._rows[first:end] - top, self._columns[start:stop] - left
        self._odds[first:end, start:stop] = odds[np.ix_(rows, columns)]
