"""TIFF files that scanners and converters write, made from given pixels."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Tile = tuple[int, int]

MPP = 0.5
STATED: dict[str, Any] = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER", "metadata": None}
APERIO = "Aperio Image Library v11.2.1\r\n{0}x{1} [0,0 {0}x{1}] (256x256) |AppMag = 20|MPP = 0.5000"


def stained(width: int, height: int, seed: int = 0) -> Pixels:
    """Blurred noise in the colours of a stain."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    share = cv2.GaussianBlur(noise, (0, 0), 2).astype(np.float32)[..., None] / 255
    return np.rint(share * (245, 240, 245) + (1 - share) * (120, 30, 150)).astype(np.uint8)


def cut_tiles(pixels: Pixels, side: int = 256) -> Iterator[Pixels]:
    """Whole tiles, filled up with white."""
    for top in range(0, pixels.shape[0], side):
        for left in range(0, pixels.shape[1], side):
            tile = np.full((side, side, 3), 255, np.uint8)
            part = pixels[top : top + side, left : left + side]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def encode(pixels: Pixels, codec: str) -> bytes:
    """One tile as a TIFF file holds it."""
    pixels = np.ascontiguousarray(pixels)
    match codec:
        case "none":
            return pixels.tobytes()
        case "lzw":
            return bytes(imagecodecs.lzw_encode(pixels))
        case "deflate":
            return bytes(imagecodecs.zlib_encode(pixels))
        case "jpeg":
            return bytes(imagecodecs.jpeg8_encode(pixels, level=98, subsampling="444"))
        case _:
            return bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", level=0, reversible=True))


COMPRESSION = {"none": 1, "lzw": 5, "deflate": 8, "jpeg": 7, "jpeg2000": 33005}


def write_tiles(path: Path, size: tuple[int, int], tiles: Iterable[bytes], codec: str, **options: Any) -> Path:
    """A page of `size` (width, height) in tiles of 256, which are encoded already."""
    given = {"tile": (256, 256), "photometric": "rgb", **STATED, **options}
    if codec == "jpeg":
        given |= {"photometric": "ycbcr", "subsampling": (1, 1)}
    with tifffile.TiffWriter(path) as file:
        compression = COMPRESSION[codec]
        file.write(iter(tiles), shape=(size[1], size[0], 3), dtype=np.uint8, compression=compression, **given)
    return path


def write_pages(path: Path, pages: Sequence[tuple[Pixels, dict[str, Any]]], **options: Any) -> Path:
    """Pictures as pages, tiled unless a page's own options say `tile=None`."""
    with tifffile.TiffWriter(path) as file:
        for pixels, own in pages:
            file.write(pixels, **{"tile": (256, 256), "photometric": "rgb", **STATED, **options, **own})
    return path


def write_scn(path: Path, pixels: Pixels, place: tuple[int, int], whole: tuple[int, int]) -> Path:
    """A Leica slide of one scan that begins at `place` of a slide area of `whole` pixels; half that size as level 1."""
    unit = round(MPP * 1000)  # nanometres a pixel
    overview = np.full((whole[1] // 16, whole[0] // 16, 3), 230, np.uint8)
    levels = [pixels, np.ascontiguousarray(pixels[::2, ::2])]

    def image(name: str, ifd: int, pages: Sequence[Pixels], begin: tuple[int, int], size: tuple[int, int]) -> str:
        sides = [f'sizeX="{page.shape[1]}" sizeY="{page.shape[0]}"' for page in pages]
        listed = "".join(f'<dimension {each} r="{number}" ifd="{ifd + number}"/>' for number, each in enumerate(sides))
        return (
            f'<image name="{name}" uuid="urn:uuid:{ifd}"><creationDate>2020-01-01T00:00:00Z</creationDate>'
            f'<device model="m" version="1"/><pixels {sides[0]}>{listed}</pixels>'
            f'<view sizeX="{size[0] * unit}" sizeY="{size[1] * unit}" offsetX="{begin[0] * unit}" '
            f'offsetY="{begin[1] * unit}" spacingZ="0"/><scanSettings><objectiveSettings><objective>{20 if ifd else 1}'
            "</objective></objectiveSettings><illuminationSettings><numericalAperture>0.4</numericalAperture>"
            "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"
        )

    description = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="urn:uuid:8">'
        f'<collection name="c" uuid="urn:uuid:9" sizeX="{whole[0] * unit}" sizeY="{whole[1] * unit}">'
        f"{image('overview', 0, [overview], (0, 0), whole)}"
        f"{image('scan', 1, levels, place, (pixels.shape[1], pixels.shape[0]))}</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for number, page in enumerate([overview, *levels]):
            options = {"description": description} if number == 0 else {}
            file.write(page, tile=(256, 256), photometric="rgb", **STATED, **options)
    return path
