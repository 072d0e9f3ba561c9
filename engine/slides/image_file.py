"""Plain images as slides."""

from pathlib import Path

from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.pictures.images import read_picture
from glassrt.engine.slides.resolution import choose_mpp

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}


def open_image(path: Path, mpp: float | None) -> ArraySlide | None:
    """A PNG, JPEG, BMP or TIFF image, in memory; None for other files, by their names. Raises as `open_slide`."""
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return None
    picture = read_picture(path)
    mpp = choose_mpp(picture.mpp_x, picture.mpp_y, mpp, str(path), picture.doubt)
    return ArraySlide(picture.pixels, mpp, path.stem, f"{picture.form} image", path)
