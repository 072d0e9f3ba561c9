"""The strips or tiles of a TIFF page, decoded whole and strictly: none may be missing, short or damaged."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import SlideError, first_line
from glassrt.engine.geometry.boxes import Box, Size
from glassrt.engine.slides.pictures.picture import check_extent
from glassrt.engine.slides.tiff.jpeg import JPEG, decode_jpeg
from glassrt.engine.slides.tiff.pages import size_of
from glassrt.engine.slides.tiff.samples import SEPARATE_PLANES

# Those whose decoders tell of damage. LZW and PackBits have no checksum: what they give is counted.
COMPRESSIONS = (1, 5, JPEG, 8, 32946, 32773, 50000, 34925)  # and none, deflate twice, zstd, LZMA
COUNTED = {5: imagecodecs.lzw_decode, 32773: imagecodecs.packbits_decode}
LOWEST_BIT_FIRST = 2  # fill order


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


def size_of_part(page: Any) -> Size:
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
