"""Whether a slide's results are still those of its file, its bundle and the options: what a later batch skips by."""

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

import msgspec

from glassrt.engine.errors import SlideError
from glassrt.engine.production.places import identify, is_address, list_beside
from glassrt.engine.production.wire import Order, Setup
from glassrt.engine.slides.tissue.annotations import ALL, AUTO, choose_mask
from glassrt.engine.system import BINARY, CLOSE_ON_EXEC, NON_BLOCK

PIECE = 1 << 16  # bytes of each of three places in a file


def identify_input(address: str) -> str:
    """A file's size, when it was changed, and the sha256 of its beginning, middle and end; nothing where it cannot be
    read, which scoring it will tell of; of files that belong to it name, size and time. Slides have gigabytes: all of
    them would take longer than scoring some. Of what lies elsewhere, what its server says.
    """
    if is_address(address):
        return identify(address)
    try:
        with os.fdopen(os.open(address, os.O_RDONLY | NON_BLOCK | CLOSE_ON_EXEC | BINARY), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                return ""
            content = hashlib.sha256()
            for place in (0, max(0, found.st_size // 2 - PIECE // 2), max(0, found.st_size - PIECE)):
                file.seek(place)
                content.update(file.read(PIECE))
    except OSError:
        return ""
    beside = [f"{each.name} {told.st_size} {told.st_mtime_ns}" for each, told in list_beside(Path(address))]
    return "\n".join([f"{found.st_size} {found.st_mtime_ns} {content.hexdigest()}", *beside])


def identify_work(setup: Setup, order: Order) -> str:
    """The sha256 of all else that results depend on: the bundle by its own sha256, and the options."""
    mask = ""
    with suppress(SlideError):  # where there is none, scoring will tell
        chosen = choose_mask(order.tissue, Path(order.path))
        mask = "" if chosen in (AUTO, ALL) else identify_input(str(chosen))
    told = [order.identity, order.backend, order.precision, setup.scales, setup.flip]
    content = msgspec.json.encode([*told, order.map_mpp, order.mpp, order.tissue, mask])
    return hashlib.sha256(content).hexdigest()
