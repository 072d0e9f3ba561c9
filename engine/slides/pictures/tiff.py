"""TIFF files that OpenSlide does not read (strips, compressions it lacks): one picture, decoded whole and strictly."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from glassrt.engine.errors import SlideError, first_line
from glassrt.engine.geometry.boxes import Box
from glassrt.engine.slides.pictures.colours import (
    UPRIGHT,
    check_opacity,
    over_white,
    premultiplied_over_white,
    to_eight_bits,
    turn_upright,
)
from glassrt.engine.slides.pictures.picture import Picture, check_extent
from glassrt.engine.slides.tiff_pages import (
    ASSOCIATED,
    SEPARATE,
    SEPARATE_PLANES,
    TRANSPARENCY,
    UNKNOWN_SAMPLE,
    check_colours,
    check_pictures,
    kind_of_transparency,
    list_pages,
    orientation,
    size_of,
)
from glassrt.engine.slides.tiff_resolution import stated_mpp
from glassrt.engine.slides.tiff_tiles import JPEG, RGB, YCBCR, decode_jpeg

Pixels = NDArray[np.uint8]

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PALETTE = 3  # photometric
# Those whose decoders tell of damage. LZW and PackBits have no checksum: what they give is counted.
COMPRESSIONS = (1, 5, JPEG, 8, 32946, 32773, 50000, 34925)  # and none, deflate twice, zstd, LZMA
COUNTED = {5: imagecodecs.lzw_decode, 32773: imagecodecs.packbits_decode}
LOWEST_BIT_FIRST = 2  # fill order
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


def biggest_size(path: Path, pages: list[Any]) -> tuple[int, int]:
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
    if page.photometric not in (RGB, PALETTE, YCBCR) or page.samplesperpixel < colours:
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


def read_samples(path: Path, page: Any) -> NDArray[Any]:
    """All samples `[H, W, S]`, from whole strips or tiles; SlideError where one is missing or damaged."""
    width, height = size_of(page)
    part_size = size_of_part(page)
    for size in (part_size, (width, height)):
        check_extent(path, *size, page.samplesperpixel * page.dtype.itemsize)
    needed = -(-width // part_size[0]) * -(-height // part_size[1])
    needed *= page.samplesperpixel if page.planarconfig == SEPARATE_PLANES else 1
    if not len(page.dataoffsets) == len(page.databytecounts) == needed:
        raise SlideError(
            f"{path}: damaged ({len(page.dataoffsets)} strips or tiles where {needed} are needed); copy it again"
        )
    samples = np.empty((height, width, page.samplesperpixel), page.dtype.newbyteorder("="))
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        for index, (plane, box) in enumerate(lay_parts(page)):
            place, offset, count = f"x {box.left}, y {box.top}", page.dataoffsets[index], page.databytecounts[index]
            if not count or not offset:
                raise SlideError(f"{path}: holds nothing at {place}; save it anew, or as a tiled TIFF")
            if offset + count > end:
                raise SlideError(f"{path}: damaged at {place} (the file ends before it); copy it again")
            file.seek(offset)
            part = decode_part(path, page, index, file.read(count), box)
            target = samples[box.top : box.bottom, box.left : box.right, plane]
            target[:] = part[: target.shape[0], : target.shape[1]]
    return samples


def size_of_part(page: Any) -> tuple[int, int]:
    """Width and height of the page's strips or tiles."""
    if page.is_tiled:
        return page.tilewidth, page.tilelength
    return page.imagewidth, min(page.rowsperstrip, page.imagelength)


def lay_parts(page: Any) -> Iterator[tuple[slice, Box]]:
    """Samples and place of each strip or tile, in the order in which they are stored, cut to the picture."""
    width, height = size_of(page)
    part_width, part_height = size_of_part(page)
    planes = [slice(number, number + 1) for number in range(page.samplesperpixel)]
    for plane in planes if page.planarconfig == SEPARATE_PLANES else [slice(None)]:
        for top in range(0, height, part_height):
            for left in range(0, width, part_width):
                yield plane, Box(left, top, min(left + part_width, width), min(top + part_height, height))


def decode_part(path: Path, page: Any, index: int, content: bytes, box: Box) -> NDArray[Any]:
    """`[h, w, samples]` of a strip or tile, which fills at least its `box`."""
    place = f"x {box.left}, y {box.top}"
    try:
        if page.compression == JPEG:
            part: NDArray[Any] = decode_jpeg(content, page)
        else:
            part = page.decode(content, index)[0][0]
            if page.compression in COUNTED:
                if page.fillorder == LOWEST_BIT_FIRST:
                    content = bytes(imagecodecs.bitorder_decode(content))
                count_samples(page, len(COUNTED[page.compression](content)), part)
    except Exception as error:  # each codec has errors of its own
        raise SlideError(f"{path}: damaged at {place} ({first_line(error)}); copy it again") from error
    height, width = part.shape[:2]
    if width < box.size[0] or height < box.size[1]:
        raise SlideError(
            f"{path}: damaged at {place} ({width} x {height} pixels where {box.size[0]} x {box.size[1]} are declared); "
            "copy it again"
        )
    return part


def count_samples(page: Any, decoded: int, part: NDArray[Any]) -> None:
    """Raise ValueError unless so many bytes were `decoded` as the part has, or as a whole strip would have."""
    row = -(-part.shape[1] * part.shape[2] * int(page.bitspersample) // 8)
    whole = page.tilelength if page.is_tiled else page.rowsperstrip
    if decoded not in (row * part.shape[0], row * whole):
        raise ValueError(f"{decoded} bytes where {row * part.shape[0]} are declared")


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
