"""A part of the demo slide, handed in as a scanner does."""

import itertools
import json
from pathlib import Path

import numpy as np
from plain_network import PSPNET

from glassrt.engine import open_bundle
from glassrt.engine.geometry.boxes import Size
from glassrt.engine.slides.push import PushSlide
from glassrt.engine.tasks.scan import ScanSession

BUNDLE = open_bundle(PSPNET)
FILES = ("map.ome.tif", "regions.geojson", "overlay.png")
SIDE = 240  # of the demo slide's tiles
MPP = 0.499


def in_rows(size: Size, side: int) -> list[Size]:
    return [(x, y) for y in range(0, size[1], side) for x in range(0, size[0], side)]


def in_snake(size: Size, side: int) -> list[Size]:
    rows = itertools.groupby(in_rows(size, side), key=lambda place: place[1])
    return [place for number, (_, row) in enumerate(rows) for place in [*row][:: -1 if number % 2 else 1]]


def at_random(size: Size, side: int) -> list[Size]:
    places = in_rows(size, side)
    np.random.default_rng(3).shuffle(places)
    return [(int(x), int(y)) for x, y in places]


def push_all(session: ScanSession, pixels: np.ndarray, places: list[Size], side: int = SIDE) -> None:
    for x, y in places:
        session.push(0, x, y, np.ascontiguousarray(pixels[y : y + side, x : x + side]))


def open_push(pixels: np.ndarray, side: int = SIDE, mpp: float = MPP) -> PushSlide:
    return PushSlide([(pixels.shape[1], pixels.shape[0])], mpp, side, name="array")


def assert_same(one: Path, other: Path) -> None:
    for name in FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    told = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    for each in told:
        del each["seconds"], each["slide"]["source"]
    assert told[0] == told[1]
