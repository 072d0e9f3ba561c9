"""Plain images are read as viewers show them, or refused in one true line."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
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
    reversed_strips,
    strips,
    wide,
    write,
)
from made_tiffs import stained
from PIL import Image

from glassrt.engine import open_bundle, score
from glassrt.engine.errors import SlideError
from glassrt.engine.slides.pictures.images import read_image
from glassrt.engine.slides.readers import open_slide

SHARE = ALPHA[..., None] / 255
ON_WHITE = PLAIN * SHARE + 255 * (1 - SHARE)
PREMULTIPLIED = np.dstack([np.rint(PLAIN * SHARE), ALPHA]).astype(np.uint8)
OPAQUE = np.dstack([PLAIN, np.full_like(ALPHA, 255)])
HOT = PLAIN.astype(np.uint16) * 128
HOT[5, 5] = 65_535
HIDDEN = np.dstack([PLAIN, np.zeros_like(ALPHA)])
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
    "strips, bits reversed": ("a.tif", reversed_strips(PLAIN), 0),
    "strips with LZW, bits reversed": ("a.tif", reversed_strips(PLAIN, compression="lzw", predictor=True), 0),
    "strips with deflate, bits reversed": ("a.tif", reversed_strips(PLAIN, compression="zlib"), 0),
    "strips with PackBits, bits reversed": ("a.tif", reversed_strips(PLAIN, compression="packbits"), 0),
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
    "15 bits in 16, a pixel too bright": ("a.tif", strips(HOT), "16-bit samples fill 15 bits"),
    "15 bits in a PNG of 16, a pixel too bright": ("a.png", bytes(imagecodecs.png_encode(HOT)), "samples fill 15 bits"),
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
    "BMP with masks, all transparent": ("a.bmp", masked_bmp(HIDDEN), "all its pixels are fully transparent"),
    "PNG, all transparent": ("a.png", pillow(HIDDEN, "PNG"), "all its pixels are fully transparent, which viewers"),
    "strips, all transparent": ("a.tif", strips(HIDDEN, extrasamples=["unassalpha"]), "are fully transparent"),
    "strips, colours multiplied, all transparent": (
        "a.tif",
        strips(HIDDEN, extrasamples=["assocalpha"]),
        "are fully transparent",
    ),
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
        assert tuple(level.size for level in slide.levels) == ((WIDTH, HEIGHT),)
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


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"iCCP", b"x\0\0broken"),
        (b"sRGB", b"\x09"),
        (b"tIME", bytes(7)),
        (b"zTXt", b"broken"),
        (b"sBIT", b"\x09\x09\x09"),
        (b"eXIf", b"II*\0\xff\xff"),
        (b"acTL", bytes(4)),
    ],
)
def test_what_stands_beside_the_pixels_of_a_png_is_not_talked_about(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: bytes, content: bytes
) -> None:
    whole = pillow(PLAIN, "PNG")
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    assert np.array_equal(read_image(write(tmp_path, "a.png", whole[:33] + chunk + whole[33:])), PLAIN)
    assert capfd.readouterr() == ("", "")


def test_transparency_of_a_wrong_length_is_damage(tmp_path: Path) -> None:
    """Decoders leave it out, and show what lies beneath."""
    whole, content = pillow(PLAIN, "PNG"), b"tRNS" + bytes(3)
    chunk = struct.pack(">I", 3) + content + struct.pack(">I", zlib.crc32(content))
    with pytest.raises(SlideError, match="damaged"):
        read_image(write(tmp_path, "a.png", whole[:33] + chunk + whole[33:]))
