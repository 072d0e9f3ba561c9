"""Plain images: PNG, JPEG, BMP and TIFF read whole, as viewers show them, or refused in one line.

Damage must be told, so each format has a decoder that does. WebP and JPEG 2000 are left out for that: theirs make
up what a hole in the file took.
"""

from collections.abc import Callable
from pathlib import Path

from glassrt.engine.errors import SlideError, first_line
from glassrt.engine.slides.pictures.bmp import BMP, read_bmp
from glassrt.engine.slides.pictures.colours import check_stain
from glassrt.engine.slides.pictures.jpeg import JPEG, read_jpeg
from glassrt.engine.slides.pictures.picture import Picture
from glassrt.engine.slides.pictures.png import PNG, read_png
from glassrt.engine.slides.pictures.tiff import TIFF, read_tiff
from glassrt.engine.slides.slide import Pixels

# What a file of each format begins with, and what reads it.
FORMATS: tuple[tuple[bytes | tuple[bytes, ...], Callable[[Path], Picture]], ...] = (
    (PNG, read_png),
    (JPEG, read_jpeg),
    (TIFF, read_tiff),
    (BMP, read_bmp),
)


def read_image(path: Path) -> Pixels:
    """RGB `[H, W, 3]` of a plain image file, upright and over white."""
    return read_picture(path).pixels


def read_picture(path: Path) -> Picture:
    """A plain image file: RGB, format, and the resolution it states. Raises SlideError where it is not read rightly."""
    try:
        with path.open("rb") as file:
            beginning = file.read(8)
        decode = next((decode for marks, decode in FORMATS if beginning.startswith(marks)), None)
        if decode is None:
            raise SlideError(f"{path}: not a PNG, JPEG, BMP or TIFF image; convert it or copy it again")
        picture = decode(path)
    except SlideError:
        raise
    except MemoryError as error:
        raise SlideError(f"{path}: larger than the memory of this machine; save it as a tiled TIFF") from error
    except OSError as error:
        raise SlideError(
            f"{path}: reading failed ({error.strerror or error}); see to the disk or the network it is on"
        ) from error
    except (AttributeError, ArithmeticError, LookupError, TypeError) as error:  # values that no reader expects
        raise SlideError(f"{path}: damaged (its header makes no sense); copy it again") from error
    except Exception as error:  # each decoder has errors of its own
        raise SlideError(f"{path}: damaged ({first_line(error)}); copy it again") from error
    check_stain(picture.pixels, path)
    return picture
