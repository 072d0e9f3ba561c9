"""Files of features as TRIDENT, CLAM and STAMP lay them out, read as those tools' loaders read them."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from small_mil import FEATURES, MPP, SIDE, encode, make_bundle

from glassrt.engine import open_bundle, open_slide
from glassrt.engine.bundles.parts import Making
from glassrt.engine.errors import FolderTaken, SlideError
from glassrt.engine.flow.cut import cut_windows
from glassrt.engine.geometry.plan import InputSpec, plan
from glassrt.engine.results.features import LAYOUTS, Layout, lay_tiles, read_features, write_features
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.tasks.tiles import embed, place_file
from glassrt.engine.watch import Clock


def embed_demo(demo: Path, folder: Path, layout: Layout, half: bool = False, kind: str = "encoder") -> Path:
    bundle = open_bundle(make_bundle(folder / "small.glass", kind=kind))
    path = place_file(folder, layout, demo.stem, bundle)
    path.parent.mkdir(parents=True, exist_ok=True)
    backend = open_backend(bundle, "ort", batch=3)
    with open_slide(demo) as slide:
        embedded = embed(slide, bundle, path, backend, layout, half)
    backend.close()
    with h5py.File(path) as file:
        assert embedded.tiles == len(file["coords"])
    return path


def cut_at(demo: Path, corners: np.ndarray) -> np.ndarray:
    """What a slide shows at upper left corners in pixels of level 0, at the bundle's resolution (the demo's own)."""
    with open_slide(demo) as slide:
        grid = GridReader(slide, MPP)
        assert grid.width == slide.levels[0].size[0]
        every = plan((grid.width, grid.height), (1.0,), False, [InputSpec("tile", SIDE)], SIDE)
        number = {tuple(place): index for index, place in enumerate(every.windows[:, 1:].tolist())}
        indices = np.array([number[tuple(place)] for place in corners.tolist()])
        return cut_windows(grid, every, indices, Clock())["tile"]


def test_trident_s_loader_reads_them(demo_slide: Path, tmp_path: Path) -> None:
    path = embed_demo(demo_slide, tmp_path, "trident")
    assert path.relative_to(tmp_path) == Path(f"20x_64px_0px_overlap/features_small/{demo_slide.stem}.h5")
    with h5py.File(path, "r") as file:  # as its loaders do
        features, coords, told = file["features"][:], file["coords"][:], dict(file["coords"].attrs)
        assert file["features"].attrs["encoder"] == "small"
    assert (features.dtype, coords.dtype) == (np.float32, np.int64)
    assert np.abs(features - encode(cut_at(demo_slide, coords))).max() < 1e-4
    assert told["patch_size"] == told["patch_size_level0"] == SIDE
    assert (told["level0_magnification"], told["target_magnification"], told["overlap"]) == (20, 20, 0)
    assert (told["level0_width"], told["level0_height"]) == (2220, 2967)
    assert told["name"] == demo_slide.stem


def test_clam_s_loader_reads_them(demo_slide: Path, tmp_path: Path) -> None:
    path = embed_demo(demo_slide, tmp_path, "clam", kind="mil")
    assert path.relative_to(tmp_path) == Path(f"h5_files/{demo_slide.stem}.h5")
    with h5py.File(path, "r") as file:
        features, coords = file["features"][:], file["coords"][:]
        side, level = file["coords"].attrs["patch_size"], file["coords"].attrs["patch_level"]
    assert (features.dtype, coords.dtype, side, level) == (np.float32, np.int32, SIDE, 0)
    assert np.abs(features - encode(cut_at(demo_slide, coords))).max() < 1e-4


def test_stamp_s_loader_reads_them(demo_slide: Path, tmp_path: Path) -> None:
    path = embed_demo(demo_slide, tmp_path, "stamp", half=True)
    with h5py.File(path, "r") as file:
        features, coords, told = file["feats"][:], file["coords"][:], dict(file.attrs)
    with open_slide(demo_slide) as slide:
        corners = np.rint(coords / slide.mpp).astype(int)
    wanted = encode(cut_at(demo_slide, corners))
    assert features.dtype == np.float16
    assert np.abs(features - wanted).max() < 2e-3
    assert (told["unit"], told["tile_size_px"], told["tile_size_um"], told["feat_type"]) == ("um", 64, 32.0, "tile")
    assert told["extractor"] == "small"


def test_tiles_lie_on_tissue(demo_slide: Path, tmp_path: Path) -> None:
    path = embed_demo(demo_slide, tmp_path, "trident")
    with read_features(path) as stored:
        kept = stored.coords[:]
    every = -(-2220 // SIDE) * -(-2967 // SIDE)
    assert every / 4 < len(kept) < every
    left_out = {(x, y) for x in range(0, 2150, SIDE) for y in range(0, 2900, SIDE)} - {*map(tuple, kept.tolist())}
    brightness = [cut_at(demo_slide, np.array(each)).mean() for each in (sorted(left_out)[:50], kept[:50])]
    assert brightness[0] > brightness[1] + 10


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_written_is_read_again(demo_slide: Path, tmp_path: Path, layout: Layout) -> None:
    with open_slide(demo_slide) as slide:
        tiles = lay_tiles(slide, plan((256, 128), (1.0,), False, [InputSpec("tile", SIDE)], SIDE), MPP, SIDE)
        values = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
        with write_features(tmp_path / "made.h5", layout, slide, tiles, 5, "made") as file:
            file.write(np.array([4, 6, 5, 7]), values[[4, 6, 5, 7]])  # in any order
            file.write(np.array([0, 1]), values[:2])
            file.write(np.array([3, 2]), values[[3, 2]])
        with read_features(tmp_path / "made.h5") as stored:
            np.testing.assert_array_equal(stored.table[:], values)
            pixels = stored.coords[:] / (slide.mpp if stored.unit == "um" else 1)
            np.testing.assert_allclose(pixels, tiles.corners)
            assert stored.making == (Making("made", None, None) if layout == "clam" else Making("made", SIDE, MPP))


@pytest.mark.parametrize(
    ("told", "at_coords", "making"),
    [
        ({}, {"patch_size": 512, "target_magnification": 40.0}, Making(None, 512, 0.25)),
        ({}, {"patch_size": "None", "target_magnification": "None"}, Making(None, None, None)),  # as TRIDENT has it
        ({"encoder": 7, "tile_size_um": 256.0, "tile_size_px": 0}, {}, Making(None, None, None)),
        ({"extractor": "uni", "tile_size_um": 256.0, "tile_size_px": 224}, {}, Making("uni", 224, 256 / 224)),
        ({"tile_size_um": [1.0, 2.0], "tile_size_px": np.nan}, {"target_magnification": -20}, Making(None, None, None)),
    ],
)
def test_a_file_says_how_it_was_made_if_it_can(tmp_path: Path, told: dict, at_coords: dict, making: Making) -> None:
    with h5py.File(tmp_path / "made.h5", "w") as file:
        file["features"], file["coords"] = np.zeros((2, 3)), np.zeros((2, 2))
        file.attrs.update(told)
        file["coords"].attrs.update(at_coords)
    with read_features(tmp_path / "made.h5") as stored:
        assert stored.making == making


def test_too_large_for_float16_is_told_and_nothing_is_left(demo_slide: Path, tmp_path: Path) -> None:
    with open_slide(demo_slide) as slide:
        tiles = lay_tiles(slide, plan((64, 64), (1.0,), False, [InputSpec("tile", SIDE)], SIDE), MPP, SIDE)
        with (
            write_features(tmp_path / "made.h5", "stamp", slide, tiles, 1, "made", half=True) as file,
            pytest.raises(SlideError, match="leave --half out"),
        ):
            file.write(np.array([0]), np.array([[7e4]], np.float32))


def test_a_slide_without_tissue_is_not_embedded(tmp_path: Path) -> None:
    import tifffile

    white = np.full((400, 400, 3), 243, np.uint8)
    tifffile.imwrite(tmp_path / "white.tif", white, resolution=(20000, 20000), resolutionunit=3)
    with pytest.raises(SlideError, match="no tissue"):
        embed_demo(tmp_path / "white.tif", tmp_path, "clam")
    assert not list((tmp_path / "h5_files").iterdir())


@pytest.mark.parametrize(
    ("held", "fault"),
    [
        ({}, "holds nothing: expected `features` or `feats`"),
        ({"features": np.zeros((2, FEATURES))}, "holds features: expected"),
        ({"features": np.zeros((2, 3)), "coords": np.zeros((3, 2))}, r"coords \[3, 2\]"),
        ({"features": np.zeros((2, 3, 4)), "coords": np.zeros((2, 2))}, r"features \[2, 3, 4\]"),
        ({"features": np.zeros((2, 3), np.int64), "coords": np.zeros((2, 2))}, "of int64"),
        ({"features": np.zeros((2, 3)), "coords": np.full((2, 2), b"here")}, r"coords \[2, 2\] of \|S4"),
    ],
)
def test_a_file_of_another_layout_is_refused(tmp_path: Path, held: dict[str, np.ndarray], fault: str) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        for name, values in held.items():
            file[name] = values
    with pytest.raises(SlideError, match=fault), read_features(tmp_path / "other.h5"):
        pass


def test_what_is_no_hdf5_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("features")
    for name in ("text.h5", "none.h5"):
        with pytest.raises(SlideError, match="is not opened as HDF5"), read_features(tmp_path / name):
            pass


def test_what_others_made_is_not_replaced(demo_slide: Path, tmp_path: Path) -> None:
    path = embed_demo(demo_slide, tmp_path, "clam")
    first = path.read_bytes()
    bundle = open_bundle(tmp_path / "small.glass")
    backend = open_backend(bundle, "ort", batch=3)
    with open_slide(demo_slide) as slide:
        embed(slide, bundle, path, backend, "clam")  # its own may be
        assert path.read_bytes() == first
        for key, value in (("glassrt_slide", "/lab2/slide.svs"), ("encoder", "uni")):
            with h5py.File(path, "a") as file:
                kept, file.attrs[key] = file.attrs[key], value
            with pytest.raises(FolderTaken, match="something else than features of this slide by small"):
                embed(slide, bundle, path, backend, "clam")
            with h5py.File(path, "a") as file:
                file.attrs[key] = kept
        path.write_text("notes")
        with pytest.raises(FolderTaken):
            embed(slide, bundle, path, backend, "clam")
    backend.close()
    assert path.read_text() == "notes"
