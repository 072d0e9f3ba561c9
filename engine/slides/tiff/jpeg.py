"""JPEG as TIFF pages hold it: without the tables, in colours that the page names."""

from typing import Any

import simplejpeg

from glassrt.engine.slides.slide import Pixels
from glassrt.engine.slides.tiff.samples import YCBCR

JPEG = 7  # compression
ADOBE_MARKER = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"  # and one byte: 0 for RGB, 1 for YCbCr


def decode_jpeg(content: bytes, page: Any) -> Pixels:
    """RGB of one JPEG tile; ValueError where it is damaged, which most decoders only warn of."""
    # Tiles leave out the tables, and the page, not the tile, says whether colours are RGB or YCbCr.
    marker = ADOBE_MARKER + bytes([page.photometric == YCBCR])
    whole = content[:2] + marker + (page.jpegtables or b"")[2:-2] + content[2:]
    tile: Pixels = simplejpeg.decode_jpeg(whole, "RGB", fastdct=False, fastupsample=False, strict=True)
    return tile
