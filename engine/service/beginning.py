"""What a client says of a slide that it is about to scan, and the session that is made of it."""

import base64
import binascii
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from glassrt.engine.errors import SlideError
from glassrt.engine.geometry.boxes import Box
from glassrt.engine.service.refusals import Refused
from glassrt.engine.service.settings import Settings
from glassrt.engine.slides.slide import Overview
from glassrt.engine.tasks.scan import MOST_BACKLOG, PATIENCE_S

if TYPE_CHECKING:
    from glassrt.engine.slides.push import PushSlide

MOST_LEVELS = 32
MOST_NAMED = 200  # bytes of a slide's name
MOST_OVERVIEW = 64 << 20  # pixels
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
DEFAULT = "glas-glands"


class Begin(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /slides`. `bounds` are left, top, right, bottom in level-0 pixels."""

    levels: list[list[int]]
    mpp: float
    tile: list[int] | int
    name: str
    bundle: str = DEFAULT
    bounds: list[int] | None = None
    jpeg_tables: str = ""
    photometric: Literal["ycbcr", "rgb"] = "ycbcr"
    precision: str | None = None
    backend: str | None = None
    map_mpp: float | None = None
    tissue: Literal["auto", "all"] = "auto"
    patience_ms: float = 1000 * PATIENCE_S
    backlog: int = MOST_BACKLOG
    overview: bool = False
    lease: bool = False


def make_slide(told: Begin, settings: Settings) -> "PushSlide":
    """The slide that a client tells of. Raises Refused and SlideError."""
    from glassrt.engine.slides.push import PushSlide

    sizes = [*told.levels, told.tile] if isinstance(told.tile, list) else told.levels
    if not 1 <= len(told.levels) <= MOST_LEVELS or any(len(each) != 2 for each in sizes):
        raise Refused(400, f"levels and tile are [width, height] in pixels, 1 to {MOST_LEVELS} levels")
    levels = [(width, height) for width, height in told.levels]
    if levels[0][0] > 0 and levels[0][1] > 0 and levels[0][0] * levels[0][1] > settings.pixels:
        raise Refused(413, f"{levels[0][0]} x {levels[0][1]} pixels; the server takes {settings.pixels:.3g} at most")
    if not 0 <= told.patience_ms <= 10_000 or not 1 <= told.backlog <= 65_536:
        raise Refused(400, "patience_ms is to be from 0 to 10000, backlog from 1 to 65536 windows")
    tile = told.tile if isinstance(told.tile, int) else (told.tile[0], told.tile[1])
    bounds = None
    if told.bounds is not None:
        bounds = make_box("bounds", told.bounds)
        if not (
            bounds.left >= 0 and bounds.top >= 0 and bounds.right <= levels[0][0] and bounds.bottom <= levels[0][1]
        ):
            raise Refused(400, f"bounds {told.bounds} reach out of {levels[0][0]} x {levels[0][1]} pixels")
    return PushSlide(levels, told.mpp, tile, told.name, bounds, decode_base64(told.jpeg_tables), told.photometric)


def make_box(name: str, told: list[int]) -> Box:
    """A box of level-0 pixels. Raises Refused."""
    if len(told) != 4 or told[0] >= told[2] or told[1] >= told[3] or max(map(abs, told)) > 1 << 31:
        raise Refused(400, f"{name} {str(told)[:60]}: expected left, top, right, bottom in level-0 pixels")
    return Box(*told)


def decode_base64(text: str) -> bytes:
    """The bytes of base64. Raises Refused."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(400, "jpeg_tables is no base64") from error


def check_name(name: str, out: Path) -> None:
    """Raise Refused for a name that no folder of results can have, FolderTaken where another slide's result is."""
    from glassrt.engine.files import refuse_foreign
    from glassrt.engine.production.entries import find_fault
    from glassrt.engine.results.origin import RESULT, read_origin

    fault = "is empty" if not name else find_fault(name)
    if not fault and (name.casefold() == "jobs" or name.endswith((".", " "))):
        fault = "is that of a folder which belongs there" if name.casefold() == "jobs" else "is no name for a folder"
    if not fault and len(name.encode()) > MOST_NAMED:
        fault = f"is longer than {MOST_NAMED} bytes"
    if fault:
        raise Refused(400, f"the name {name[:60]!r} {fault}")
    refuse_foreign(out / name, RESULT)
    if origin := read_origin(out / name):
        raise Refused(409, f"{out / name} holds the result of {origin}; give the slide another name")


def read_overview(content: bytes, frame: Box) -> Overview:
    """A picture of the whole slide from PNG or JPEG. Raises Refused and SlideError."""
    from glassrt.engine.slides.pictures.images import read_picture

    width, height = read_extent(content)
    if width * height > MOST_OVERVIEW:
        raise Refused(413, f"the overview has {width} x {height} pixels; {MOST_OVERVIEW} are the most")
    with tempfile.TemporaryDirectory(prefix="glassrt-") as folder:
        path = Path(folder, "overview")
        path.write_bytes(content)
        try:
            return Overview(read_picture(path).pixels, frame)
        except SlideError as error:
            raise SlideError(str(error).replace(str(path), "the overview")) from error


def read_extent(content: bytes) -> tuple[int, int]:
    """Width and height that a picture says it has. Raises Refused."""
    if content.startswith(PNG) and len(content) >= 24:
        return int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    if content.startswith(JPEG):
        import simplejpeg

        try:
            height, width = simplejpeg.decode_jpeg_header(content)[:2]
        except ValueError as error:
            raise Refused(400, "the overview is a damaged JPEG") from error
        return int(width), int(height)
    raise Refused(400, "the overview is neither PNG nor JPEG")


def describe_begin(told: Begin) -> dict[str, Any]:
    """What a session was begun with, as it is told to clients."""
    return {"name": told.name, "bundle": told.bundle, "levels": told.levels, "mpp": told.mpp, "tile": told.tile}
