"""TIFF files that OpenSlide does not read (strips, compressions it lacks): one picture, decoded whole and strictly."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from glassrt.engine.errors import SlideError
from glassrt.engine.geometry.boxes import Size
from glassrt.engine.slides.pictures.colours import (
    UPRIGHT,
    check_opacity,
    over_white,
    premultiplied_over_white,
    to_eight_bits,
    turn_upright,
)
from glassrt.engine.slides.pictures.picture import Picture
from glassrt.engine.slides.pictures.tiff_parts import COMPRESSIONS, read_samples
from glassrt.engine.slides.slide import Pixels
from glassrt.engine.slides.tiff.jpeg import JPEG
from glassrt.engine.slides.tiff.pages import check_pictures, list_pages, orientation, size_of
from glassrt.engine.slides.tiff.resolution import stated_mpp
from glassrt.engine.slides.tiff.samples import (
    ASSOCIATED,
    COLOURS,
    PALETTE,
    SEPARATE,
    TRANSPARENCY,
    UNKNOWN_SAMPLE,
    YCBCR,
    check_colours,
    kind_of_transparency,
)

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
OWN_PLACE = "save the one to score as a file of its own"


def read_tiff(path: Path) -> Picture:
    """The picture of a TIFF file. Raises SlideError where there are several, or samples without one right reading."""
    with tifffile.TiffFile(path) as file:
        pages = list_pages(path, file, below=True)
        page = check_pictures(path, "", pages, biggest_size(path, pages))
        check_depth(path, file, page)
        check_form(path, page)
        stated = stated_mpp(path, file, page)
        turn = orientation(page)
        pixels = to_rgb(path, page, read_samples(path, page))
    if turn != UPRIGHT:
        pixels = turn_upright(pixels, turn)
        if turn in (5, 6, 7, 8):
            stated = stated._replace(x=stated.y, y=stated.x)
    return Picture(pixels, "tiff", *stated)


def biggest_size(path: Path, pages: list[Any]) -> Size:
    """Width and height of the biggest picture."""
    sizes = [size_of(page) for page in pages if not page.is_mask]
    if not sizes:
        raise SlideError(f"{path}: holds no picture; copy it again")
    return max(sizes, key=lambda size: size[0] * size[1])


def check_depth(path: Path, file: Any, page: Any) -> None:
    """Raise SlideError where one directory stands for several pictures, as ImageJ writes stacks."""
    pictures = int((file.imagej_metadata or {}).get("images", 1)) if file.is_imagej else 1
    shape = file.shaped_metadata[0].get("shape") if file.shaped_metadata else None
    if shape and len(file.pages) == 1:
        pictures = max(pictures, int(np.prod(shape)) // max(1, int(np.prod(page.shape))))
    if pictures > 1:
        raise SlideError(f"{path}: holds {pictures} pictures (a stack); {OWN_PLACE}")


def check_form(path: Path, page: Any) -> None:
    """Raise SlideError for samples that have no one reading as RGB, or a compression that hides damage."""
    kind = getattr(page.photometric, "name", str(page.photometric)).lower()
    colours = 1 if page.photometric == PALETTE else 3
    check_colours(path, page)
    if page.photometric not in COLOURS or page.samplesperpixel < colours:
        raise SlideError(
            f"{path}: holds no RGB picture (photometric {kind}, {page.samplesperpixel} samples a pixel), so no stain "
            "can be told; save it as RGB"
        )
    if page.samplesperpixel > colours + 1:
        raise SlideError(f"{path}: holds {page.samplesperpixel} samples a pixel; save it as RGB")
    if page.dtype is None or page.dtype.kind != "u" or page.dtype.itemsize > 2:
        name = f"{page.bitspersample} bits" if page.dtype is None else page.dtype.name
        raise SlideError(f"{path}: samples of {name} have no agreed range of grey levels; save it with 8 bits")
    if page.compression not in COMPRESSIONS:
        name = getattr(page.compression, "name", page.compression)
        raise SlideError(f"{path}: its compression ({name}) is not read; save it with deflate, LZW or none")
    jpeg = page.compression == JPEG
    if jpeg and (page.samplesperpixel, page.planarconfig, page.bitspersample) != (3, 1, 8):
        raise SlideError(f"{path}: JPEG data of another form than RGB with 8 bits; save it with deflate, LZW or none")
    if page.photometric == YCBCR and not jpeg:
        raise SlideError(f"{path}: holds luminance and chroma (YCbCr) without JPEG; save it as RGB")


def to_rgb(path: Path, page: Any, samples: NDArray[Any]) -> Pixels:
    """8-bit RGB over white of the samples of a page."""
    bits = int(page.bitspersample)
    transparent = page.samplesperpixel - (1 if page.photometric == PALETTE else 3)
    if page.photometric == PALETTE:
        if transparent or bits > 8:
            raise SlideError(f"{path}: a palette of a form that is not read; save it as RGB")
        return look_up(page.colormap, samples[..., 0])
    pixels = to_eight_bits(samples, bits, path)
    if not transparent:
        return pixels
    kind = kind_of_transparency(page)
    if kind in TRANSPARENCY:
        check_opacity(pixels, path)
    if kind == SEPARATE:
        return over_white(pixels)
    if kind == ASSOCIATED:
        return premultiplied_over_white(pixels)
    if pixels[..., 3].min() == 255:
        return np.ascontiguousarray(pixels[..., :3])
    raise SlideError(f"{path}: {UNKNOWN_SAMPLE}")


def look_up(palette: NDArray[Any], numbers: NDArray[Any]) -> Pixels:
    """The colours of a palette of 16 bits; some writers fill 8 only."""
    colours = palette.T if palette.max() < 256 else palette.T >> 8
    return np.ascontiguousarray(colours.astype(np.uint8)[numbers])
