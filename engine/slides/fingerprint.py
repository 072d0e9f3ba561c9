"""What a slide or image is known by, whatever it is called."""

import hashlib
from pathlib import Path

import openslide

PIECE = 1 << 20  # bytes of a file's beginning, middle and end that its fingerprint is made of


def fingerprint(path: Path) -> str:
    """What tells a slide or image from others: the same file has the same, whatever it is called.

    Of slides it is OpenSlide's, which is the same for all files of a slide that has several. Of all others it is the
    sha256 of the file's length and of its beginning, middle and end, which are all of it if it is small.
    """
    if found := slide_hash(path):
        return found
    with path.open("rb") as file:
        length = file.seek(0, 2)
        digest = hashlib.sha256(str(length).encode())
        for start in (0, max(0, length // 2 - PIECE // 2), max(0, length - PIECE)):
            file.seek(start)
            digest.update(file.read(PIECE))
    return digest.hexdigest()


def slide_hash(path: Path) -> str:
    """OpenSlide's own hash of what it opens as a scanner's slide; nothing for plain images and all others."""
    try:
        with openslide.OpenSlide(path) as slide:
            properties = dict(slide.properties)
    except (openslide.OpenSlideError, OSError):
        return ""
    if properties.get(openslide.PROPERTY_NAME_VENDOR) == "generic-tiff":
        return ""
    return properties.get(openslide.PROPERTY_NAME_QUICKHASH1, "")
