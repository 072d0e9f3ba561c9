"""Masks of tissue that people or other programs made: images, and GeoJSON as QuPath writes it.

Both lie over what viewers show of the slide: the whole level 0, or the part from `origin` of `size` in its pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import SlideError, UsageError
from glassrt.engine.files import is_same_file
from glassrt.engine.geometry.boxes import Box, Size
from glassrt.engine.slides.frames import place_part
from glassrt.engine.slides.slide import Slide
from glassrt.engine.slides.tissue.mask_images import read_picture
from glassrt.engine.slides.tissue.masks import Mask
from glassrt.engine.slides.tissue.outlines import draw

AUTO, ALL = WORDS = ("auto", "all")
PICTURES = (".png", ".tif", ".tiff")
OUTLINES = (".geojson", ".json")


def read_mask(path: Path, slide: Slide, origin: tuple[int, int] = (0, 0), size: Size | None = None) -> Mask:
    """A mask over the whole slide from a file. Raises SlideError for one that is malformed, empty or does not fit."""
    if slide.path is not None and is_same_file(str(path), slide.path):
        raise SlideError(f"{path}: is the slide itself; name a mask of its tissue")
    whole = slide.levels[0].size
    shown = size or whole
    suffix = path.suffix.lower()
    try:
        if suffix in PICTURES:
            mask = check_mask(read_picture(path), shown, str(path))
        elif suffix in OUTLINES:
            mask = draw(path, shown, slide.mpp)
        else:
            known = ", ".join((*PICTURES, *OUTLINES))
            raise SlideError(f"{path}: a mask of tissue ends in one of {known}")
    except OSError as error:
        raise SlideError(f"{path}: the mask cannot be read ({error.strerror or error})") from error
    frame = Box(*origin, origin[0] + shown[0], origin[1] + shown[1])
    return place_part(mask, frame, whole, False)


def check_tissue(tissue: str, slides: Sequence[Path]) -> None:
    """Raise UsageError, before any work, for one mask for many slides, or none at all."""
    path = Path(tissue)
    if tissue in WORDS or (tissue and path.is_dir()):
        return
    if not path.is_file():
        raise UsageError(
            f"--tissue {tissue or repr(tissue)}: not {' or '.join(WORDS)}, nor a mask or folder that exists"
        )
    if len(slides) > 1:
        raise UsageError(
            f"--tissue {tissue}: one mask fits one slide; name a folder of masks called like the slides for several"
        )


def choose_mask(tissue: str, slide: Path) -> str | Path:
    """The mask of one slide: in a folder the file of its name. Raises SlideError where there is none, or two."""
    folder = Path(tissue)
    if tissue in WORDS or not folder.is_dir():
        return tissue
    named = [folder / f"{slide.stem}{suffix}" for suffix in (*OUTLINES, *PICTURES)]
    found = [path for path in named if path.is_file()]
    if len(found) != 1:
        problem = (
            f"both {found[0].name} and {found[1].name}" if found else f"no mask called {slide.stem}.geojson or .png"
        )
        raise SlideError(f"{slide}: {folder} holds {problem}; give each slide one")
    return found[0]


def check_mask(mask: NDArray[Any], shown: Size, name: str) -> Mask:
    """A mask `[H, W]` as booleans, if it has the shape of what it lies over and marks something."""
    if mask.ndim != 2 or not mask.size or not (mask.dtype == np.bool_ or np.issubdtype(mask.dtype, np.integer)):
        raise SlideError(f"{name}: expected whole numbers [H, W], got {mask.dtype} {list(mask.shape)}")
    height, width = mask.shape
    expected = width * shown[1] / shown[0]
    if abs(height - expected) > max(1.0, 0.01 * expected) and abs(width - height * shown[0] / shown[1]) > 1:
        raise SlideError(
            f"{name}: {width} x {height} pixels have another shape than the slide's {shown[0]} x {shown[1]}: "
            "is it the mask of this slide?"
        )
    marked: Mask = mask != 0
    if not marked.any():
        raise SlideError(f"{name}: marks no tissue: every pixel is 0")
    return marked
