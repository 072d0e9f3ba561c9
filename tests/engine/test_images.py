"""Plain images are read as viewers show them, or refused in one true line."""

import os
import resource
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from made_images import (
    ALPHA,
    GREY,
    HEIGHT,
    PLAIN,
    RGBA,
    TURNED,
    UNSEEN,
    WIDTH,
    exif,
    masked_bmp,
    palette,
    pillow,
    strips,
    wide,
    write,
)
from made_tiffs import stained
from PIL import Image

from glassrt.engine import open_bundle, score
from glassrt.engine.errors import GlassError, SlideError
from glassrt.engine.images import read_image
from glassrt.engine.slide import open_slide

SHARE = ALPHA[..., None] / 255
ON_WHITE = PLAIN * SHARE + 255 * (1 - SHARE)
PREMULTIPLIED = np.dstack([np.rint(PLAIN * SHARE), ALPHA]).astype(np.uint8)
OPAQUE = np.dstack([PLAIN, np.full_like(ALPHA, 255)])
UNMARKED = {"extrasamples": ["unspecified"]}

# name of the file, its content, the largest difference that its form explains
SEEN: dict[str, tuple[str, bytes, int]] = {
    "PNG": ("a.png", pillow(PLAIN, "PNG"), 0),
    "PNG with 16 bits": ("a.png", wide(PLAIN), 0),
    "PNG under another name": ("a.jpg", pillow(PLAIN, "PNG"), 0),
    "JPEG": ("a.jpg", pillow(PLAIN, "JPEG", quality=98, subsampling=0), 12),
    "progressive JPEG": ("a.jpeg", pillow(PLAIN, "JPEG", quality=98, subsampling=0, progressive=True), 12),
    "JPEG with bytes behind its end": ("a.jpg", pillow(PLAIN, "JPEG", quality=98, subsampling=0) + b"more", 12),
    "BMP": ("a.bmp", pillow(PLAIN, "BMP"), 0),
    "BMP with 32 bits": ("a.bmp", pillow(np.dstack([PLAIN, np.zeros_like(ALPHA)]), "BMP"), 0),
    "BMP with masks": ("a.bmp", masked_bmp(OPAQUE), 0),
    "strips": ("a.tif", strips(PLAIN), 0),
    "big-endian strips": ("a.tif", strips(PLAIN, byteorder=">"), 0),
    "one strip": ("a.tif", strips(PLAIN, rowsperstrip=HEIGHT), 0),
    "strips with LZW": ("a.tif", strips(PLAIN, compression="lzw", predictor=True), 0),
    "strips with deflate": ("a.tif", strips(PLAIN, compression="zlib"), 0),
    "strips with PackBits": ("a.tif", strips(PLAIN, compression="packbits"), 0),
    "strips with zstd": ("a.tif", strips(PLAIN, compression="zstd"), 0),
    "strips with LZMA": ("a.tif", strips(PLAIN, compression="lzma"), 0),
    "strips with JPEG": ("a.tif", pillow(PLAIN, "TIFF", compression="jpeg", quality=98), 30),
    "strips with JPEG in YCbCr": ("a.tif", strips(PLAIN, compression="jpeg", compressionargs={"level": 98}), 30),
    "strips of one colour": ("a.tif", strips(PLAIN.transpose(2, 0, 1).copy(), planarconfig="separate"), 0),
    "strips with 16 bits": ("a.tif", strips(PLAIN.astype(np.uint16) * 257), 0),
    "strips with 16 bits, big-endian": ("a.tif", strips(PLAIN.astype(np.uint16) * 257, byteorder=">"), 0),
    "strips with 10 bits, packed": ("a.tif", strips(PLAIN.astype(np.uint16) * 4 + 2, bitspersample=10), 2),
    "tiles with zstd": ("a.tif", strips(PLAIN, compression="zstd", rowsperstrip=None, tile=(64, 64)), 0),
    "palette in TIFF": ("a.tif", pillow(PLAIN, "TIFF", "P"), 60),
}

SEEN_THROUGH: dict[str, tuple[str, bytes]] = {
    "PNG": ("a.png", pillow(RGBA, "PNG")),
    "PNG with 16 bits": ("a.png", wide(RGBA)),
    "BMP with masks": ("a.bmp", masked_bmp(RGBA)),
    "strips": ("a.tif", strips(RGBA, extrasamples=["unassalpha"])),
    "strips, colours multiplied": ("a.tif", strips(PREMULTIPLIED, extrasamples=["assocalpha"])),
    "strips with 16 bits": ("a.tif", strips(RGBA.astype(np.uint16) * 257, extrasamples=["unassalpha"])),
    "strips with 16 bits, colours multiplied": (
        "a.tif",
        strips(PREMULTIPLIED.astype(np.uint16) * 257, extrasamples=["assocalpha"]),
    ),
    "strips of one colour": (
        "a.tif",
        strips(RGBA.transpose(2, 0, 1).copy(), planarconfig="separate", extrasamples=["unassalpha"]),
    ),
    "tiles": ("a.tif", strips(RGBA, rowsperstrip=None, tile=(64, 64), extrasamples=["unassalpha"])),
}


def fluorescence() -> np.ndarray:
    """Nuclei in blue on black."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for x in range(20, WIDTH, 40):
        cv2.circle(pixels, (x, 100), 14, (0, 20, 220), -1)
    return pixels


REFUSED: dict[str, tuple[str, bytes, str]] = {
    "grey PNG": ("a.png", pillow(GREY, "PNG"), "is grey, so no stain can be told"),
    "grey PNG with 16 bits": ("a.png", bytes(imagecodecs.png_encode(GREY.astype(np.uint16) * 257)), "is grey"),
    "grey PNG with transparency": ("a.png", pillow(np.dstack([GREY, ALPHA]), "PNG", "LA"), "is grey"),
    "grey JPEG": ("a.jpg", pillow(GREY, "JPEG"), "is grey"),
    "grey BMP": ("a.bmp", pillow(GREY, "BMP"), "all its pixels are grey"),
    "grey saved as colour": ("a.png", pillow(np.dstack([GREY] * 3), "PNG"), "all its pixels are grey"),
    "grey strips": ("a.tif", strips(GREY, photometric="minisblack"), "no RGB picture .photometric minisblack, 1 s"),
    "grey strips, white is 0": ("a.tif", strips(GREY, photometric="miniswhite"), "no RGB picture"),
    "fluorescence": ("a.png", pillow(fluorescence(), "PNG"), "its ground is dark, as in fluorescence"),
    "fluorescence with noise": (
        "a.png",
        pillow(fluorescence() + np.random.default_rng(0).integers(0, 12, (HEIGHT, WIDTH, 3), dtype=np.uint8), "PNG"),
        "its ground is dark",
    ),
    "CMYK JPEG": ("a.jpg", pillow(PLAIN, "JPEG", "CMYK"), "holds inks"),
    "CMYK strips": ("a.tif", pillow(PLAIN, "TIFF", "CMYK"), "holds inks"),
    "Lab": ("a.tif", pillow(PLAIN, "TIFF", "LAB"), "holds CIELab, whose look depends on a profile"),
    "CMYK tiles": (
        "a.tif",
        strips(np.dstack([PLAIN, GREY]), photometric="separated", rowsperstrip=None, tile=(64, 64)),
        "holds inks",
    ),
    "Lab tiles": ("a.tif", strips(PLAIN, photometric="cielab", rowsperstrip=None, tile=(64, 64)), "holds CIELab"),
    "YCbCr without JPEG": ("a.tif", strips(PLAIN, photometric="ycbcr"), "YCbCr"),
    "12 bits in 16": ("a.tif", strips(PLAIN.astype(np.uint16) * 16), "16-bit samples fill 12 bits"),
    "15 bits in 16": ("a.tif", strips(PLAIN.astype(np.uint16) * 128), "16-bit samples fill 15 bits"),
    "12 bits in a PNG of 16": (
        "a.png",
        bytes(imagecodecs.png_encode(PLAIN.astype(np.uint16) * 16)),
        "16-bit samples fill 12 bits",
    ),
    "signed": ("a.tif", strips(PLAIN.astype(np.int16)), "samples of int16"),
    "32 bits": ("a.tif", strips(PLAIN.astype(np.uint32) << 24), "samples of uint32"),
    "float": ("a.tif", strips((PLAIN / 255).astype(np.float32)), "samples of float32"),
    "half": ("a.tif", strips((PLAIN / 255).astype(np.float16)), "samples of float16"),
    "an unknown fourth sample": ("a.tif", strips(RGBA, **UNMARKED), "does not say what its fourth sample is"),
    "five samples": ("a.tif", strips(np.dstack([RGBA, GREY]), extrasamples=["unspecified"] * 2), "5 samples a pixel"),
    "32 bits of BMP without masks": ("a.bmp", pillow(RGBA, "BMP"), "fourth byte of its pixels may be transparency"),
    "JPEG 2000 strips": ("a.tif", strips(PLAIN, compression="jpeg2000"), "its compression .JPEG_?2000.* is not read"),
    "WebP strips": ("a.tif", strips(PLAIN, compression="webp"), "its compression .WEBP. is not read"),
    "WebP": ("a.png", pillow(PLAIN, "WEBP"), "not a PNG, JPEG, BMP or TIFF"),
    "GIF": ("a.png", pillow(PLAIN, "GIF"), "not a PNG, JPEG, BMP or TIFF"),
    "JPEG 2000": ("a.jpg", pillow(PLAIN, "JPEG2000"), "not a PNG, JPEG, BMP or TIFF"),
    "JPEG 2000 by its own name": ("a.jp2", pillow(PLAIN, "JPEG2000"), "not a slide that OpenSlide reads, nor a PNG"),
    "DICOM that is no slide": ("a.dcm", bytes(128) + b"DICM" + bytes(500), "a.dcm: .*not"),
    "an empty file": ("a.png", b"", "not a PNG, JPEG, BMP or TIFF"),
    "an empty slide": ("a.svs", b"", "not a slide"),
}


@pytest.mark.parametrize("case", SEEN)
def test_images_are_read_as_viewers_show_them(tmp_path: Path, case: str) -> None:
    name, content, tolerance = SEEN[case]
    with open_slide(write(tmp_path, name, content), 0.5) as slide:
        assert slide.level_sizes == ((WIDTH, HEIGHT),)
        read = slide.read_level(0, (0, 0), (WIDTH, HEIGHT))
    assert read.dtype == np.uint8
    assert np.abs(read.astype(int) - PLAIN).max() <= tolerance


@pytest.mark.parametrize("case", SEEN_THROUGH)
def test_what_is_transparent_shows_white(tmp_path: Path, case: str) -> None:
    with open_slide(write(tmp_path, *SEEN_THROUGH[case]), 0.5) as slide:
        read = slide.read_level(0, (0, 0), (WIDTH, HEIGHT))
    assert np.abs(read - ON_WHITE).max() < 2.1
    assert (read[:, 0] == 255).all()


def test_transparent_colours_of_a_palette_show_white(tmp_path: Path) -> None:
    opacity = bytes([0, 128, *[255] * 254])
    image = Image.open(BytesIO(palette(UNSEEN)))
    image.save(tmp_path / "a.png", "PNG", transparency=opacity)
    share = np.frombuffer(opacity, np.uint8)[np.asarray(image)][..., None] / 255
    expected = np.asarray(image.convert("RGB")) * share + 255 * (1 - share)
    assert np.abs(read_image(tmp_path / "a.png") - expected).max() < 0.6


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_one_reading_is_refused(tmp_path: Path, case: str) -> None:
    name, content, says = REFUSED[case]
    path = write(tmp_path, name, content)
    with pytest.raises(SlideError, match=says) as caught:
        open_slide(path, 0.5)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("form", ["png", "jpg", "tif"])
def test_turned_pictures_are_shown_upright(tmp_path: Path, form: str, turn: int) -> None:
    stored = np.ascontiguousarray(TURNED[turn](PLAIN))
    if form == "tif":
        content = strips(stored, extratags=[(274, 3, 1, turn, True)])
    else:
        options = {"quality": 98, "subsampling": 0} if form == "jpg" else {}
        content = pillow(stored, {"png": "PNG", "jpg": "JPEG"}[form], exif=exif(turn), **options)
    read = read_image(write(tmp_path, f"a.{form}", content))
    assert read.shape == PLAIN.shape
    assert np.abs(read.astype(int) - PLAIN).max() <= (12 if form == "jpg" else 0)


def test_sides_of_pixels_turn_with_the_picture(tmp_path: Path) -> None:
    content = strips(PLAIN, resolution=(20_000, 10_000), resolutionunit="CENTIMETER", extratags=[(274, 3, 1, 6, True)])
    with pytest.raises(SlideError, match=r"not square .1 x 0\.5 micrometres"):
        open_slide(write(tmp_path, "a.tif", content), 0.5)


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
        assert slide.level_sizes == ((WIDTH, HEIGHT),)
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
        assert slide.level_sizes == ((WIDTH, HEIGHT),)


def test_a_blank_image_is_read(tmp_path: Path) -> None:
    for level in (0, 200, 255):
        read = read_image(write(tmp_path, "a.png", pillow(np.full_like(PLAIN, level), "PNG")))
        assert (read == level).all()


def test_unscanned_black_beside_tissue_is_no_fluorescence(tmp_path: Path) -> None:
    pixels = np.zeros((1000, 1000, 3), np.uint8)
    pixels[:200, :300] = stained(300, 200)
    assert np.array_equal(read_image(write(tmp_path, "a.png", pillow(pixels, "PNG"))), pixels)


@pytest.mark.parametrize(
    ("samples", "says"),
    [(np.dstack([GREY] * 3), "all its pixels are grey"), (fluorescence(), "its ground is dark, as in fluorescence")],
)
def test_slides_without_a_stain_are_refused_not_empty(tmp_path: Path, samples: np.ndarray, says: str) -> None:
    """What OpenSlide reads is held to the same: it could not be seen, which is not that nothing was there."""
    path = write(tmp_path, "a.tif", strips(samples, rowsperstrip=None, tile=(64, 64)))
    with open_slide(path, 0.5) as slide, pytest.raises(SlideError, match=says):
        score(slide, open_bundle("glas-glands"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
