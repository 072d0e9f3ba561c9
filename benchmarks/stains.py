"""Real tissue in other stains, on glass with marks: pictures whose tissue is known by the way they were made."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.pictures.images import read_image
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.tissue.density import soften
from glassrt.engine.slides.tissue.tissue import TISSUE_MPP

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

WHITE = 243.0
# Optical densities of red, green and blue: Ruifrok and Johnston 2001 and the vectors published with ImageJ's
# Colour Deconvolution, which scikit-image and HistomicsTK use too.
HAEMATOXYLIN, EOSIN, DAB = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)
METHYL_BLUE, PONCEAU = (0.80, 0.59, 0.11), (0.10, 0.74, 0.67)
METHYLENE_BLUE, GIEMSA_EOSIN = (0.83, 0.51, 0.20), (0.09, 0.95, 0.28)
PAS = (0.18, 0.97, 0.15)


class Stain(NamedTuple):
    """What stands for haematoxylin and for eosin, and how dense: a factor for each."""

    nuclei: tuple[float, float, float]
    rest: tuple[float, float, float]
    nuclei_density: float = 1.0
    rest_density: float = 1.0


STAINS = {
    "H&E": Stain(HAEMATOXYLIN, EOSIN),
    "H&E, 0.3 of the density": Stain(HAEMATOXYLIN, EOSIN, 0.3, 0.3),
    "H&E, twice the density": Stain(HAEMATOXYLIN, EOSIN, 2.0, 2.0),
    "DAB, haematoxylin": Stain(HAEMATOXYLIN, DAB, 0.6, 1.0),
    "DAB in nuclei alone": Stain(DAB, HAEMATOXYLIN, 1.0, 0.25),
    "haematoxylin alone, pale": Stain(HAEMATOXYLIN, HAEMATOXYLIN, 0.4, 0.12),
    "Masson trichrome": Stain(PONCEAU, METHYL_BLUE),
    "Giemsa": Stain(METHYLENE_BLUE, GIEMSA_EOSIN),
    "PAS": Stain(HAEMATOXYLIN, PAS, 0.6, 1.0),
}
MARKS = {
    "red pen": (200, 30, 50),
    "green pen": (20, 130, 100),
    "blue pen": (30, 60, 190),
    "black pen": (25, 25, 28),
    "purple pen": (110, 40, 150),
    "pink pen": (240, 110, 180),
}
CLEAR, FAINT = 0.2, 0.02  # density of both stains: surely tissue, surely none
BETWEEN_UM = 60  # around tissue, where neither is counted


class Picture(NamedTuple):
    """RGB at `TISSUE_MPP`, and where it surely shows tissue and surely none; the rest is not judged."""

    pixels: Pixels
    tissue: Mask
    nothing: Mask


def unmix(pixels: Pixels) -> NDArray[np.float32]:
    """Densities `[H, W, 2]` of haematoxylin and eosin by least squares, none below 0."""
    white = np.percentile(pixels, 99.5, axis=(0, 1)).clip(215, 255)
    density = np.log((white + 1) / (pixels.astype(np.float32) + 1))
    vectors = np.array([unit(HAEMATOXYLIN), unit(EOSIN)])
    return np.asarray((density @ np.linalg.pinv(vectors)).clip(0, None), np.float32)


def paint(amounts: NDArray[np.float32], stain: Stain) -> Pixels:
    """Densities of two stains as RGB on glass."""
    density = amounts[..., :1] * stain.nuclei_density * unit(stain.nuclei)
    density = density + amounts[..., 1:] * stain.rest_density * unit(stain.rest)
    return np.asarray((WHITE * np.exp(-density)).round(), np.uint8)


def unit(vector: tuple[float, float, float]) -> NDArray[np.float32]:
    """The vector at length 1."""
    return np.asarray(np.array(vector) / np.linalg.norm(vector), np.float32)


def find_truth(amounts: NDArray[np.float32], size: tuple[int, int]) -> tuple[Mask, Mask]:
    """Where densities surely mean tissue, and surely none, at another (width, height)."""
    total = cv2.resize(amounts.sum(-1), size, interpolation=cv2.INTER_AREA)
    reach = 2 * int(BETWEEN_UM / TISSUE_MPP) + 1
    near = cv2.dilate((total > FAINT + 0.02).astype(np.uint8), np.ones((reach, reach), np.uint8))
    return total > CLEAR, near == 0


def shrink(pixels: Pixels, mpp: float) -> Pixels:
    """A picture at `TISSUE_MPP`, as the engine reads it."""
    return np.concatenate([*GridReader(ArraySlide(pixels, mpp), TISSUE_MPP).read_strips(1)])


def stained(pixels: Pixels, mpp: float, stain: Stain | None) -> Picture:
    """A picture of real haematoxylin and eosin in another stain; as it is without one."""
    amounts = unmix(pixels)
    small = shrink(pixels if stain is None else paint(amounts, stain), mpp)
    return Picture(small, *find_truth(amounts, (small.shape[1], small.shape[0])))


def read_tissue(data: Path) -> Iterator[tuple[str, Pixels, float]]:
    """Set, pixels and micrometres per pixel of the real pictures: colon, breast and skin."""
    for path in sorted((data / "glas").glob("*.bmp")):
        if "anno" not in path.name:
            yield "GlaS", read_image(path), 0.62
    for path in sorted((data / "ucsb").glob("*.tif")):
        yield "UCSB", read_image(path), 0.5
    for path in sorted((data / "crchisto").glob("*/*.bmp")):
        yield "CRCHisto", read_image(path), 0.55
    for path in sorted((data / "slides" / "tissue").glob("tissue-*.png")):
        yield "CAMELYON", read_image(path), 4.0
    with open_slide(data / "slides" / "CMU-1-Small-Region.svs") as slide:
        grid = GridReader(slide, slide.mpp)
        yield "demo slide", np.concatenate([*grid.read_strips(2)]), slide.mpp


def mark_picture(picture: Picture, ink: tuple[int, int, int], width_um: float, soft_um: float) -> Picture:
    """A stroke of a pen across a picture. Ink on glass is none; tissue beneath it is not judged."""
    height, width = picture.pixels.shape[:2]
    stroke: NDArray[np.float32] = np.zeros((height, width), np.float32)
    points = np.array([[0.05, 0.2], [0.4, 0.75], [0.7, 0.3], [0.95, 0.8]]) * (width, height)
    thick = max(1, round(width_um / TISSUE_MPP))
    cv2.polylines(stroke, [points.round().astype(np.int32)], False, 1.0, thick, cv2.LINE_AA)
    stroke = soften(stroke, max(0.3, soft_um / TISSUE_MPP))
    density = np.log(WHITE / (np.array(ink, np.float32) + 1)) * stroke[..., None]
    pixels = (picture.pixels * np.exp(-density)).round().clip(0, 255).astype(np.uint8)
    return Picture(pixels, picture.tissue & (stroke < 0.02), picture.nothing & (stroke > 0.3))
