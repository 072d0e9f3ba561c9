"""Maps of disease beside the truth, as in Figure 3 of "Weakly Supervised Training of Pixel Resolution Segmentation
Models on Whole Slide Images", of runs that `glassrt bench beta-kl` made.

`python -m glassrt.benchmarks.beta_maps RUNS JPG` draws malign test slides of the first seed with the true outline,
under nothing, under Kullback-Leibler's map, and under that of beta-KL with dynamic sampling.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.bundle import open_bundle
from glassrt.engine.files import replace_file
from glassrt.engine.geometry.boxes import Box
from glassrt.engine.results.overlay import tint_heat
from glassrt.engine.runtimes.open import open_backend
from glassrt.training.datasets import weak_mosaic
from glassrt.training.mapping import Ground, map_slide, open_ground
from glassrt.training.suspicion import Suspicions

RUNS = {"Kullback-Leibler, uniform": "KL-uniform-1", "beta-KL, dynamic": "beta-rising-to-1-dynamic-1"}
SLIDES = "weak-1"
SHOWN = 3  # slides
MAP_MPP = 8.0
OUTLINE = (0, 160, 0)

Picture = NDArray[np.uint8]


def draw_maps(runs: Path, path: Path) -> None:
    """A row for each slide, as a JPEG. Raises BundleError, DatasetError, SlideError or OutputError."""
    from matplotlib.figure import Figure

    malign = [slide for slide in weak_mosaic.find_slides(runs / SLIDES, "test") if slide.malign][:SHOWN]
    grounds = [open_ground(slide, MAP_MPP, MAP_MPP) for slide in malign]
    columns = {"truth": [np.zeros(ground.map_size[::-1], np.float16) for ground in grounds]}
    columns |= {name: list(map_all(runs / run / "bundle.glass", grounds)) for name, run in RUNS.items()}
    figure = Figure(figsize=(3 * len(columns), 3 * SHOWN), dpi=100, layout="constrained")
    axes = figure.subplots(SHOWN, len(columns), squeeze=False)
    for column, (name, maps) in enumerate(columns.items()):
        axes[0][column].set_title(name)
        for row, (ground, suspicions) in enumerate(zip(grounds, maps, strict=True)):
            axes[row][column].imshow(draw_slide(ground, suspicions))
            axes[row][column].set_axis_off()
    with replace_file(path) as beside:
        figure.savefig(beside, format="jpeg")


def map_all(path: Path, grounds: list[Ground]) -> Iterator[Suspicions]:
    """Each slide's map by a bundle, of its whole area."""
    bundle = open_bundle(path)
    test = bundle.segmentation
    backend = open_backend(bundle, "ort", throughput=True)
    for ground in grounds:
        fine = open_ground(ground.slide, test.mpp, MAP_MPP)
        everywhere = np.ones(fine.map_size[::-1], np.bool_)
        yield map_slide(fine, everywhere, backend, bundle.manifest.window, test.output_stride)
        fine.grid.slide.close()
    backend.close()


def draw_slide(ground: Ground, suspicions: Suspicions) -> Picture:
    """A slide `[h, w, 3]` under its map with the true outline."""
    grid, (width, height) = ground.grid, ground.map_size
    pixels = grid.read(0, 0, width, height)
    # A map of other pixels may be one wider or narrower than the picture.
    whole = cv2.resize(suspicions.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
    values = np.rint(255 * whole).astype(np.uint8)
    picture = tint_heat(pixels, values, np.zeros_like(values), "malign") if values.any() else pixels.copy()
    assert ground.slide.truth is not None  # mosaics have it
    truth = ground.slide.truth.cut(Box(0, 0, width, height), (width, height))
    contours, _ = cv2.findContours(truth, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, OUTLINE, 3)
    return picture


if __name__ == "__main__":
    draw_maps(Path(sys.argv[1]), Path(sys.argv[2]))
