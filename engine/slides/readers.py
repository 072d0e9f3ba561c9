"""Which readers of slides there are, and the one that a file is for."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

from glassrt.engine.errors import SlideError
from glassrt.engine.slides.image_file import open_image
from glassrt.engine.slides.openslide_file import open_openslide
from glassrt.engine.slides.slide import Slide

# Asked in turn with a file and what replaces its resolution; None where a file is not of a reader's kind.
READERS: tuple[Callable[[Path, float | None], Slide | None], ...] = (open_openslide, open_image)


def open_slide(path: Path | str, mpp: float | None = None, given: Path | str | None = None) -> Slide:
    """The slide or image at `path`; the caller closes it.

    `mpp` (micrometres per pixel of the full resolution) replaces what the file says; most plain images say nothing.
    `given` is whose results are of it where `path` is a copy: a file, or a text for an address elsewhere. Raises
    SlideError for a missing, broken or unscaled file.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise SlideError(f"{path} does not exist") from error
    except OSError as error:
        raise SlideError(f"{path}: cannot be reached ({error.strerror})") from error
    if not stat.S_ISREG(mode):
        raise SlideError(f"{path}: not a file")
    if not os.access(path, os.R_OK):
        raise SlideError(f"{path}: no permission to read it")
    for open_with in READERS:
        if (slide := open_with(path, mpp)) is not None:
            if given is not None:
                slide.path = given
            return slide
    raise SlideError(f"{path}: not a slide that OpenSlide reads, nor a PNG, JPEG, BMP or TIFF image")
