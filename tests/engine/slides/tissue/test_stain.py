from pathlib import Path

import numpy as np
import pytest

from glassrt.benchmarks.stains import STAINS, shrink, stained
from glassrt.engine import ArraySlide, open_bundle
from glassrt.engine.slides.pictures.images import read_image
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.tissue.glass import find_glass
from glassrt.engine.slides.tissue.stain import compare_stain, share_beyond
from glassrt.engine.slides.tissue.survey import look_over

BUNDLE = open_bundle()
WINDOW = BUNDLE.example_window


def warning(pixels: np.ndarray, mpp: float) -> str:
    assert WINDOW is not None
    survey = look_over(ArraySlide(pixels, mpp), 1)
    return compare_stain(survey.colours, survey.glass, WINDOW, BUNDLE.manifest.name)


@pytest.mark.parametrize("bundle", ["glas-glands", "glas-glands-weak"])
def test_the_shipped_examples_are_haematoxylin_and_eosin(bundle: str) -> None:
    example = open_bundle(bundle).example_window
    assert example is not None
    window = shrink(example, 2.0)
    share = share_beyond(window.reshape(-1, 3), find_glass([window]))
    assert share is not None
    assert share < 0.05


def test_no_real_haematoxylin_and_eosin_is_warned_of(data: Path) -> None:
    """Colon, breast, skin and lymph node; the two of 61 crops of colon with blue ink or dye in them may be."""
    warned = []
    paths = [path for path in sorted((data / "glas").glob("*.bmp")) if "anno" not in path.name][::3]
    paths += sorted((data / "ucsb").glob("*.tif")) + sorted((data / "crchisto").glob("*/*.bmp"))[::3]
    for path in paths:
        if warning(read_image(path), 0.55):
            warned.append(path.name)
    assert len(warned) <= 2, warned
    with open_slide(data / "slides" / "CMU-1-Small-Region.svs") as slide:
        assert not warning(slide.read_level(0, (0, 0), slide.levels[0].size), slide.mpp)
    for path in (data / "slides" / "tissue").glob("tissue-*.png"):
        assert not warning(read_image(path), 4.0)


@pytest.mark.parametrize("name", ["DAB, haematoxylin", "DAB in nuclei alone", "Masson trichrome", "Giemsa"])
def test_other_stains_are_warned_of(data: Path, demo_slide: Path, name: str) -> None:
    with open_slide(demo_slide) as slide:
        skin = slide.read_level(0, (0, 0), slide.levels[0].size)
    tile = read_image(data / "slides" / "tissue" / "tissue-level2-1784-6289-5880-10386.png")
    for pixels, mpp in ((skin, 0.499), (tile, 4.0)):
        assert "not stained like the example in glas-glands" in warning(stained(pixels, mpp, STAINS[name]).pixels, 8.0)


def test_nothing_is_said_of_glass() -> None:
    assert not warning(np.full((300, 300, 3), 241, np.uint8), 8.0)


def test_pixels_lighter_than_the_glass_in_every_colour_are_no_stain() -> None:
    """Their hue is none: it would come out as NaN, which counts as a hue like any other."""
    lighter = np.tile(np.array([[255, 254, 205]], np.uint8), (1000, 1))
    stain = np.tile(np.array([[140, 90, 40]], np.uint8), (1000, 1))
    glass = find_glass([np.full((300, 300, 3), 195, np.uint8)])
    with np.errstate(all="raise"):
        assert share_beyond(np.concatenate([lighter, stain]), glass) == 1.0
        assert share_beyond(lighter, glass) is None
