"""Features of a slide's tiles in HDF5, in the layouts that TRIDENT, CLAM and STAMP read.

Each is as those projects document and write it: `features` `[N, d]` with `coords` `[N, 2]` of the tiles' upper left
corners, x and y, in pixels of level 0 (`trident`, `clam`), or `feats` with `coords` in micrometres (`stamp`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import h5py
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.errors import UsageError, first_line
from glassrt.engine.geometry.boxes import Indices
from glassrt.engine.geometry.plan import Plan
from glassrt.engine.slides.slide import Slide

Layout = Literal["trident", "clam", "stamp"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
ROWS = 1024  # of a chunk on disk
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


class FeatureFile:
    """An HDF5 file that is filled with the features of tiles, some at a time."""

    def __init__(self, file: h5py.File, name: str, count: int, length: int, kind: str) -> None:
        rows = (max(1, min(count, ROWS)), length)
        self._table = file.create_dataset(name, (count, length), kind, chunks=rows, maxshape=(None, length))

    def write(self, indices: Indices, features: NDArray[np.float32]) -> None:
        """Put the features `[n, d]` of tiles in their rows. Raises UsageError for what float16 cannot hold."""
        kept = features.astype(self._table.dtype)
        if not np.isfinite(kept).all():
            raise UsageError("features are too large for float16: leave --half out")
        first, end = int(indices[0]), int(indices[-1]) + 1
        if end - first == len(indices):  # as they come, but for scans
            self._table[first:end] = kept
            return
        for index, row in zip(indices.tolist(), kept, strict=True):
            self._table[index] = row


@contextmanager
def write_features(
    path: Path, layout: Layout, slide: Slide, tiles: Tiles, length: int, encoder: str, half: bool = False
) -> Iterator[FeatureFile]:
    """A file at `path` to fill with the features of a slide's tiles, float32, or float16 if `half`.

    Raises OSError where it cannot be written.
    """
    name, coords, told, at_coords = DESCRIBE[layout](slide, tiles, encoder)
    with h5py.File(path, "w") as file:
        table = FeatureFile(file, name, len(tiles.corners), length, "float16" if half else "float32")
        places = file.create_dataset("coords", data=coords)
        for attributes, values in ((file.attrs, told), (places.attrs, at_coords)):
            for key, value in values.items():
                attributes[key] = value
        yield table


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
    """An opened file of features: the table `[N, d]`, read in parts, and where the tiles lie `[N, 2]`."""

    table: h5py.Dataset
    coords: NDArray[Any]
    unit: Literal["px", "um"]


@contextmanager
def read_features(path: Path) -> Iterator[Stored]:
    """The features in a file of any of the layouts. Raises UsageError for a file that is of none."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UsageError(f"{path} is not opened as HDF5 ({first_line(error)}): name a file of features") from error
    with file:
        name = next((each for each in ("features", "feats") if isinstance(file.get(each), h5py.Dataset)), None)
        if name is None or not isinstance(file.get("coords"), h5py.Dataset):
            held = ", ".join(sorted(file)) or "nothing"
            raise UsageError(f"{path} holds {held}: expected `features` or `feats`, and `coords`")
        table, coords = file[name], file["coords"]
        if table.ndim != 2 or table.dtype.kind != "f" or coords.shape != (len(table), 2):
            raise UsageError(
                f"{path}: {name} {list(table.shape)} of {table.dtype} and coords {list(coords.shape)}: expected floats "
                "[N, d] and [N, 2]"
            )
        yield Stored(table, coords[:], "um" if file.attrs.get("unit") == "um" else "px")
