"""What an image file holds beside one picture: others, a resolution, sizes that no memory holds; what is no file."""

import os
import resource
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from made_images import (
    HEIGHT,
    PLAIN,
    WIDTH,
    pillow,
    strips,
    write,
)
from PIL import Image

from glassrt.engine.errors import GlassError, SlideError
from glassrt.engine.slides.readers import open_slide


def animated_png() -> bytes:
    content = BytesIO()
    Image.fromarray(PLAIN).save(content, "PNG", save_all=True, append_images=[Image.fromarray(PLAIN[::-1].copy())])
    return content.getvalue()


def two_jpegs() -> bytes:
    content = BytesIO()
    Image.fromarray(PLAIN).save(content, "MPO", save_all=True, append_images=[Image.fromarray(PLAIN[::-1].copy())])
    return content.getvalue()


def pages(*given: np.ndarray, **options: object) -> bytes:
    content = BytesIO()
    with tifffile.TiffWriter(content, ome=bool(options.pop("ome", False)), imagej=bool(options.get("imagej"))) as file:
        options.pop("imagej", None)
        for each in given:
            file.write(each, photometric="rgb", **options)
    return content.getvalue()


SMALL = cv2.resize(PLAIN, (62, 40), interpolation=cv2.INTER_AREA)


def full_size_below() -> bytes:
    """A small page first, whose own subordinate page is the picture, as raw cameras write it."""
    content = BytesIO()
    with tifffile.TiffWriter(content) as file:
        file.write(SMALL, photometric="rgb", subifds=1, metadata=None)
        file.write(PLAIN, photometric="rgb", metadata=None)
    return content.getvalue()


SEVERAL: dict[str, tuple[str, bytes, str]] = {
    "animated PNG": ("a.png", animated_png(), "holds 2 pictures"),
    "JPEGs in one file": ("a.jpg", two_jpegs(), "holds several pictures"),
    "focal planes": ("a.tif", pages(PLAIN, PLAIN[::-1], metadata=None), "holds 2 pictures of 310 x 200"),
    "a stack": ("a.tif", pages(np.stack([PLAIN] * 3)), "holds 3 pictures"),
    "a stack in one directory": ("a.tif", pages(np.stack([PLAIN] * 3), metadata={}, contiguous=True), "3 pictures"),
    "a stack of ImageJ": ("a.tif", pages(np.stack([PLAIN] * 3), imagej=True, metadata={"axes": "ZYXS"}), "3 pictures"),
    "focal planes in OME": ("a.ome.tif", pages(np.stack([PLAIN] * 3), ome=True, metadata={"axes": "ZYXS"}), "3 pict"),
    "series in OME": ("a.ome.tif", pages(PLAIN, PLAIN[:180], ome=True), "several pictures .page 1 of 310 x 200"),
    "a thumbnail first": ("a.tif", pages(SMALL, PLAIN, metadata=None), "page 1 of 62 x 40, page 2 of 310 x 200"),
    "a picture below its thumbnail": ("a.tif", full_size_below(), "page 1 of 62 x 40, page 2 of 310 x 200"),
    "one page a colour": (
        "a.tif",
        strips(np.ascontiguousarray(PLAIN.transpose(2, 0, 1)), photometric="minisblack"),
        "holds 3 pictures of 310 x 200",
    ),
}


@pytest.mark.parametrize("case", SEVERAL)
def test_of_several_pictures_none_is_taken(tmp_path: Path, case: str) -> None:
    name, content, says = SEVERAL[case]
    with pytest.raises(SlideError, match=says):
        open_slide(write(tmp_path, name, content), 0.5)


def test_smaller_copies_beside_the_picture_are_left_aside(tmp_path: Path) -> None:
    content = BytesIO()
    with tifffile.TiffWriter(content) as file:
        stated = {"photometric": "rgb", "metadata": None, "resolutionunit": "CENTIMETER"}
        file.write(PLAIN, resolution=(20_000, 20_000), **stated)
        file.write(SMALL, resolution=(4000, 4000), subfiletype=1, **stated)
    with open_slide(write(tmp_path, "a.tif", content.getvalue())) as slide:
        assert tuple(level.size for level in slide.levels) == ((WIDTH, HEIGHT),)
        assert slide.mpp == pytest.approx(0.5)


CM, IN = {"resolutionunit": "CENTIMETER"}, {"resolutionunit": "INCH"}
OME = {"PhysicalSizeX": 0.62, "PhysicalSizeY": 0.62, "axes": "YXS"}
RESOLUTIONS: dict[str, tuple[str, bytes, float | str]] = {
    "per centimetre": ("a.tif", strips(PLAIN, resolution=(1e4 / 0.62,) * 2, **CM), 0.62),
    "per inch": ("a.tif", strips(PLAIN, resolution=(25_400 / 0.62,) * 2, **IN), 0.62),
    "OME-XML": ("a.ome.tif", pages(PLAIN, ome=True, metadata=OME), 0.62),
    "OME-XML in nanometres": (
        "a.ome.tif",
        pages(
            PLAIN,
            ome=True,
            metadata={"PhysicalSizeX": 620, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 620, "PhysicalSizeYUnit": "nm"},
        ),
        0.62,
    ),
    "ImageJ": ("a.tif", pages(PLAIN, imagej=True, resolution=(1 / 0.62,) * 2, metadata={"unit": "micron"}), 0.62),
    "PNG": ("a.png", pillow(PLAIN, "PNG", dpi=(25_400 / 0.62,) * 2), 0.62),
    "JPEG": ("a.jpg", pillow(PLAIN, "JPEG", dpi=(40_968, 40_968)), 0.62),
    "BMP": ("a.bmp", pillow(PLAIN, "BMP", dpi=(25_400 / 0.62,) * 2), 0.62),
    "a screen's": ("a.tif", strips(PLAIN, resolution=(72, 72), **IN), "claims 352.778 micro.* pass the true value"),
    "a printer's": ("a.tif", strips(PLAIN, resolution=(300, 300), **IN), "claims 84.6667 micro.*--mpp"),
    "no unit": ("a.tif", strips(PLAIN, resolution=(1e4, 1e4), resolutionunit="NONE"), "does not say its res.*--mpp"),
    "none": ("a.png", pillow(PLAIN, "PNG"), "does not say its resolution; pass it with --mpp"),
    "a screen's in PNG": ("a.png", pillow(PLAIN, "PNG", dpi=(96, 96)), "which no scan has"),
    "uneven": ("a.tif", strips(PLAIN, resolution=(2e4, 1e4), **CM), "not square .0.5 x 1 micrometres"),
}


@pytest.mark.parametrize("case", RESOLUTIONS)
def test_the_resolution_that_an_image_states_is_read(tmp_path: Path, case: str) -> None:
    name, content, expected = RESOLUTIONS[case]
    path = write(tmp_path, name, content)
    if isinstance(expected, str):
        with pytest.raises(GlassError, match=expected):
            open_slide(path)
        return
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["far.tif", "far.png"])
def test_pixels_that_are_not_square_are_refused_with_mpp_too(tmp_path: Path, name: str) -> None:
    content = {
        "far.tif": strips(PLAIN, resolution=(2e4, 1e4), **CM),
        "far.png": pillow(PLAIN, "PNG", dpi=(50_800, 25_400)),
    }[name]
    with pytest.raises(SlideError, match="not square"):
        open_slide(write(tmp_path, name, content), 0.5)


def unscaled(form: str, x: int, y: int) -> bytes:
    """An image that states the ratio of its resolutions along x and y, without a unit."""
    if form == "PNG":
        whole, content = pillow(PLAIN, "PNG"), b"pHYs" + struct.pack(">IIB", x, y, 0)
        return whole[:33] + struct.pack(">I", 9) + content + struct.pack(">I", zlib.crc32(content)) + whole[33:]
    if form == "JPEG":
        whole = pillow(PLAIN, "JPEG")
        assert whole[6:11] == b"JFIF\0"
        return whole[:13] + struct.pack(">BHH", 0, x, y) + whole[18:]
    if form == "EXIF":
        exif = Image.Exif()
        exif.update({282: float(x), 283: float(y), 296: 1})
        return pillow(PLAIN, "JPEG", exif=exif.tobytes())
    layout = {"rowsperstrip": None, "tile": (64, 64)} if form == "tiles" else {}
    return strips(PLAIN, resolution=(x, y), resolutionunit="NONE", **layout)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "EXIF", "strips", "tiles"])
def test_pixels_that_are_not_square_in_an_unknown_unit_are_refused(tmp_path: Path, form: str) -> None:
    name = {"PNG": "a.png", "JPEG": "a.jpg", "EXIF": "a.jpg"}.get(form, "a.tif")
    with open_slide(write(tmp_path, name, unscaled(form, 100, 101)), 0.5) as slide:
        assert slide.mpp == 0.5
    for x, y, times in ((1, 2, "2"), (2, 1, "0.5")):
        path = write(tmp_path, name, unscaled(form, x, y))
        with pytest.raises(SlideError, match=rf"a\..*: pixels are not square \({times} times as wide as high\)"):
            open_slide(path, 0.5)


def huge_png() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 1_000_000, 1_000_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def huge_tiff() -> bytes:
    content = bytearray(strips(PLAIN))
    with tifffile.TiffFile(BytesIO(content)) as file:
        for code in (256, 257, 278):
            tag = file.pages.first.tags[code]
            struct.pack_into("<HI", content, tag.offset + 2, 4, 1)
            struct.pack_into("<I", content, tag.offset + 8, 1_000_000)
    return bytes(content)


def huge_bmp() -> bytes:
    content = bytearray(pillow(PLAIN, "BMP"))
    struct.pack_into("<ii", content, 18, 1_000_000, 1_000_000)
    return bytes(content)


def huge_tile() -> bytes:
    content = bytearray(strips(PLAIN, rowsperstrip=None, tile=(64, 64), compression="zstd"))
    with tifffile.TiffFile(BytesIO(content)) as file:
        for code in (322, 323):
            tag = file.pages.first.tags[code]
            struct.pack_into("<HII", content, tag.offset + 2, 4, 1, 1_000_000)
    return bytes(content)


@pytest.mark.parametrize("make", [huge_png, huge_tiff, huge_bmp, huge_tile])
def test_sizes_that_no_memory_holds_are_refused_before_decoding(tmp_path: Path, make: Callable[[], bytes]) -> None:
    suffix = {huge_png: "png", huge_bmp: "bmp"}.get(make, "tif")
    path = write(tmp_path, f"a.{suffix}", make())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SlideError, match=r"1000000 x 1000000 pixels(, which none has| are more.*pyramidal)"):
        open_slide(path, 0.5)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_a_sparse_file_without_end_is_not_read_into_memory(tmp_path: Path) -> None:
    path = write(tmp_path, "a.png", pillow(PLAIN, "PNG"))
    os.truncate(path, 2**36)
    with pytest.raises(SlideError, match="are more than an image has"):
        open_slide(path, 0.5)


@pytest.mark.parametrize("name", ["loop.png", "nowhere.png", "null.png", "folder.png"])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "folder.png":
        path.mkdir()
    else:
        path.symlink_to({"loop.png": path, "nowhere.png": tmp_path / "none", "null.png": Path("/dev/zero")}[name])
    with pytest.raises(SlideError, match=r"cannot be reached|does not exist|not a file"):
        open_slide(path, 0.5)


def test_a_link_to_an_image_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(write(tmp_path, "a.png", pillow(PLAIN, "PNG")))
    with open_slide(tmp_path / "link.png", 0.5) as slide:
        assert tuple(level.size for level in slide.levels) == ((WIDTH, HEIGHT),)
