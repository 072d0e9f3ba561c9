"""Features of a slide's tiles in HDF5, in the layouts that TRIDENT, CLAM and STAMP read.

Each is as those projects document and write it: `features` `[N, d]` with `coords` `[N, 2]` of the tiles' upper left
corners, x and y, in pixels of level 0 (`trident`, `clam`), or `feats` with `coords` in micrometres (`stamp`).
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, get_args

import h5py
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.parts import LONGEST_TEXT, Making
from glassrt.engine.errors import FolderTaken, SlideError, first_line
from glassrt.engine.geometry.boxes import Indices
from glassrt.engine.geometry.plan import Plan
from glassrt.engine.slides.slide import Slide
from glassrt.engine.system import claim_room

Layout = Literal["trident", "clam", "stamp"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
ROOM = 1 << 16  # bytes that HDF5 needs beside the tables
ORIGIN = "glassrt_slide"  # the attribute that says of which file the features are
SIDES, RESOLUTIONS = (16, 4096), (0.05, 20.0)  # of tiles, beyond which no file is believed; as manifests have them
MPP_AT_1X = 10.0  # what scanners call 20x has half a micrometre a pixel


class Tiles(NamedTuple):
    """Where a slide's tiles lie: their upper left corners `[N, 2]` in pixels of level 0, their side there and as the
    network sees it, in pixels of `mpp` micrometres, and how much of that two neighbours share.
    """

    corners: Indices
    base_side: int
    side: int
    mpp: float
    overlap: int


def lay_tiles(slide: Slide, plan: Plan, mpp: float, stride: int) -> Tiles:
    """The tiles of a plan of windows, in its order."""
    base, size = np.array(slide.levels[0].size), np.array(plan.size)
    corners = np.rint(np.maximum(plan.windows[:, 1:], 0) * base / size).astype(np.int64)
    side = round(float(plan.window * base[0] / size[0]))
    return Tiles(corners, side, plan.window, mpp, plan.window - stride)


class Place(NamedTuple):
    """Where a table lies in its file: its first byte, the bytes of a row, and what its numbers are."""

    offset: int
    width: int
    kind: np.dtype[Any]


class FeatureFile:
    """The table of an HDF5 file, which is filled with the features of tiles, some at a time.

    Rows are written where HDF5 has laid the table, without it: what its caches hold would be lost on a full disk, with
    the process.
    """

    def __init__(self, file: BinaryIO, place: Place, name: str) -> None:
        self._file, self._place, self._name = file, place, name

    def write(self, indices: Indices, features: NDArray[np.float32]) -> None:
        """Put the features `[n, d]` of tiles in their rows. Raises SlideError for what float16 cannot hold."""
        with np.errstate(over="ignore"):
            kept = np.ascontiguousarray(features, self._place.kind)
        if not np.isfinite(kept).all():
            raise SlideError(f"{self._name}: its features are too large for float16; leave --half out")
        if np.array_equal(indices, np.arange(indices[0], indices[0] + len(indices))):
            self._put(int(indices[0]), kept)
            return
        for index, row in zip(indices.tolist(), kept, strict=True):
            self._put(index, row)

    def _put(self, row: int, values: NDArray[Any]) -> None:
        self._file.seek(self._place.offset + row * self._place.width)
        self._file.write(values.data)


@contextmanager
def write_features(
    path: Path, layout: Layout, slide: Slide, tiles: Tiles, length: int, encoder: str, half: bool = False
) -> Iterator[FeatureFile]:
    """A file at `path` to fill with the features of a slide's tiles, float32, or float16 if `half`.

    Raises OSError where it cannot be written.
    """
    name, coords, told, at_coords = DESCRIBE[layout](slide, tiles, encoder)
    kind = np.dtype(np.float16 if half else np.float32)
    size = len(coords) * (length * kind.itemsize + coords.dtype.itemsize * 2)
    with open(path, "wb") as file:
        claim_room(file.fileno(), size + ROOM)  # a full disk is told here
    with h5py.File(path, "w") as file:
        place = lay_table(file, name, (len(coords), length), kind)
        corners = lay_table(file, "coords", coords.shape, coords.dtype)
        told = {**told, ORIGIN: "" if slide.path is None else os.path.realpath(slide.path)}
        beside = {"encoder": encoder} if layout == "trident" else {}
        for attributes, values in ((file.attrs, told), (file["coords"].attrs, at_coords), (file[name].attrs, beside)):
            for key, value in values.items():
                attributes[key] = value
    with open(path, "r+b") as file:
        claim_room(file.fileno(), os.path.getsize(path))
        file.seek(corners.offset)
        file.write(np.ascontiguousarray(coords).data)
        yield FeatureFile(file, place, slide.name)


def lay_table(file: h5py.File, name: str, shape: tuple[int, int], kind: np.dtype[Any]) -> Place:
    """A table in one piece, whose place in the file is fixed before anything is in it."""
    laid = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    laid.set_layout(h5py.h5d.CONTIGUOUS)
    laid.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    laid.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    laid.set_obj_track_times(False)  # the same features make the same file
    space = h5py.h5s.create_simple(shape)
    made = h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(kind), space, dcpl=laid)
    return Place(made.get_offset() or 0, shape[1] * kind.itemsize, kind)


def refuse_other(path: Path, slide: Path | str | None, encoder: str) -> None:
    """Raise FolderTaken where something stands at `path` but features of this slide by an encoder of this name."""
    if not os.path.lexists(path):
        return
    held = ""
    try:
        with h5py.File(path, "r") as file:
            made_by = file.attrs.get("extractor", file.attrs.get("encoder"))
            held = str(file.attrs.get(ORIGIN, "")) if made_by == encoder else ""
    except OSError:
        pass
    if slide is None or held != os.path.realpath(slide):
        raise FolderTaken(
            f"{path} holds something else than features of this slide by {encoder}, and is not replaced: choose "
            "another --out, or move it"
        )


Described = tuple[str, NDArray[Any], Mapping[str, Any], Mapping[str, Any]]


def describe_trident(slide: Slide, tiles: Tiles, encoder: str) -> Described:
    """What TRIDENT's `coords` say."""
    width, height = slide.levels[0].size
    told = {
        "patch_size": tiles.side,
        "patch_size_level0": tiles.base_side,
        "level0_magnification": round(MPP_AT_1X / slide.mpp),
        "target_magnification": round(MPP_AT_1X / tiles.mpp),
        "overlap": tiles.overlap,
        "name": Path(slide.name).stem,
        "savetodir": "",
        "level0_width": width,
        "level0_height": height,
    }
    return "features", tiles.corners, {"encoder": encoder}, told


def describe_clam(slide: Slide, tiles: Tiles, encoder: str) -> Described:
    """What CLAM's `coords` say: of patches of level 0, which all of its readers know."""
    size = slide.levels[0].size
    told = {
        "patch_size": tiles.base_side,
        "patch_level": 0,
        "downsample": (1.0, 1.0),
        "downsampled_level_dim": size,
        "level_dim": size,
        "name": Path(slide.name).stem,
        "save_path": "",
    }
    return "features", tiles.corners.astype(np.int32), {"encoder": encoder}, told


def describe_stamp(slide: Slide, tiles: Tiles, encoder: str) -> Described:
    """What files of STAMP 2 say."""
    told = {
        "stamp_version": "2.0.0",
        "extractor": encoder,
        "unit": "um",
        "tile_size_um": tiles.side * tiles.mpp,
        "tile_size_px": tiles.side,
        "feat_type": "tile",
        "written_by": f"glassrt {version('glassrt')}",
    }
    return "feats", tiles.corners * slide.mpp, told, {}


DESCRIBE: dict[Layout, Callable[[Slide, Tiles, str], Described]] = {
    "trident": describe_trident,
    "clam": describe_clam,
    "stamp": describe_stamp,
}


class Stored(NamedTuple):
    """An opened file of features: the table `[N, d]` and where the tiles lie `[N, 2]`, both read when they are needed,
    and what it says of how they were made.
    """

    table: h5py.Dataset
    coords: h5py.Dataset
    unit: Literal["px", "um"]
    making: Making


@contextmanager
def read_features(path: Path) -> Iterator[Stored]:
    """The features in a file of any of the layouts. Raises SlideError for a file that is of none."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise SlideError(f"{path} is not opened as HDF5 ({first_line(error)}): name a file of features") from error
    with file:
        name = next((each for each in ("features", "feats") if isinstance(file.get(each), h5py.Dataset)), None)
        if name is None or not isinstance(file.get("coords"), h5py.Dataset):
            held = ", ".join(sorted(file)) or "nothing"
            raise SlideError(f"{path} holds {held}: expected `features` or `feats`, and `coords`")
        table, coords = file[name], file["coords"]
        fitting = table.ndim == 2 and table.dtype.kind == "f" and coords.shape == (len(table), 2)
        if not fitting or coords.dtype.kind not in "iuf":
            raise SlideError(
                f"{path}: {name} {list(table.shape)} of {table.dtype} and coords {list(coords.shape)} of "
                f"{coords.dtype}: expected floats [N, d] and numbers [N, 2]"
            )
        yield Stored(table, coords, "um" if file.attrs.get("unit") == "um" else "px", read_making(file, table))


def read_making(file: h5py.File, table: h5py.Dataset) -> Making:
    """What an opened file says of its tiles: STAMP's for all, TRIDENT's beside the features and their places; CLAM's
    says no scale.
    """
    told, at_coords = file.attrs, file["coords"].attrs
    named = (table.attrs.get("encoder"), told.get("encoder"), told.get("extractor"))
    encoder = next((each for each in named if isinstance(each, str) and each not in ("", "None")), None)
    magnification = as_number(at_coords.get("target_magnification"))
    if math.isnan(magnification):
        side = as_number(told.get("tile_size_px"))
        mpp = as_number(told.get("tile_size_um")) / (side or math.nan)
    else:
        side, mpp = as_number(at_coords.get("patch_size")), MPP_AT_1X / (magnification or math.nan)
    return Making(
        encoder and encoder[:LONGEST_TEXT],
        round(side) if SIDES[0] <= side <= SIDES[1] else None,
        mpp if RESOLUTIONS[0] <= mpp <= RESOLUTIONS[1] else None,
    )


def as_number(value: object) -> float:
    """What an attribute holds; NaN for whatever is no number."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan
