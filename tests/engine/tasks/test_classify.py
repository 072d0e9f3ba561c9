"""A slide's tiles told apart: what the engine finds is what the network's plain statement gives on the very tiles."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from command_line import run
from small_mil import CLASSES, MPP, SIDE, encode, head, make_bundle

from glassrt.engine import ArraySlide, open_bundle, open_slide, score
from glassrt.engine.errors import BundleError, UsageError
from glassrt.engine.flow.cut import cut_windows
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.tasks.segment import lay_windows, segment_image
from glassrt.engine.watch import Clock


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "small.glass", "classification", classes=3)


@pytest.fixture(scope="module")
def scored(bundle: Path, demo_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scored")
    done = run(
        *("score", demo_slide, "--bundle", bundle, "--out", out, "--backend", "ort", "--precision", "fp32"),
        *("--tissue", "all", "--map-mpp", MPP * SIDE),
    )
    assert done.returncode == 0, done.stderr
    assert "tiles.csv" in done.stdout
    return out / demo_slide.stem


@pytest.fixture(scope="module")
def told(bundle: Path, demo_slide: Path) -> tuple[np.ndarray, np.ndarray]:
    """Where the upper left corners of all tiles lie, in pixels of level 0, and their probabilities."""
    with open_slide(demo_slide) as slide:
        grid = GridReader(slide, MPP)
        plan = lay_windows(grid, open_bundle(bundle))
        tiles = cut_windows(grid, plan, np.arange(len(plan.windows)), Clock())["tile"]
        corners = plan.windows[:, 1:] * np.array(slide.levels[0].size) / (grid.width, grid.height)
    powers = np.exp(head(encode(tiles), 3)[1])
    return corners, powers / powers.sum(1, keepdims=True)


def test_the_table_has_every_tile(scored: Path, told: tuple[np.ndarray, np.ndarray]) -> None:
    corners, probabilities = told
    with (scored / "tiles.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["x", "y", "class", *(f"{name}_probability" for name in CLASSES)]
    assert len(rows) == len(corners) > 1000
    places = np.array([[int(row["x"]), int(row["y"])] for row in rows])
    assert np.abs(places - np.maximum(corners, 0)).max() <= 0.5
    found = np.array([[float(row[f"{name}_probability"]) for name in CLASSES] for row in rows])
    assert np.abs(found - probabilities).max() < 1e-5
    assert [row["class"] for row in rows] == [CLASSES[at] for at in found.argmax(1)]
    assert len({row["class"] for row in rows}) == 3


def test_the_figures_count_tiles_by_class(scored: Path, told: tuple[np.ndarray, np.ndarray]) -> None:
    _, probabilities = told
    tiles = json.loads((scored / "result.json").read_text())["tiles"]
    assert list(tiles) == list(CLASSES)
    assert sum(each["tiles"] for each in tiles.values()) == len(probabilities)
    for at, name in enumerate(CLASSES):
        assert tiles[name]["tiles"] == (probabilities.argmax(1) == at).sum()
        assert tiles[name]["share"] == pytest.approx(tiles[name]["tiles"] / len(probabilities))
        assert tiles[name]["mean_probability"] == pytest.approx(probabilities[:, at].mean(), abs=1e-5)


def test_a_tile_is_a_pixel_of_the_map(scored: Path, told: tuple[np.ndarray, np.ndarray]) -> None:
    corners, probabilities = told
    shown = tifffile.imread(scored / "map.ome.tif")
    columns, rows = (corners.T // SIDE).astype(int)
    # The last tiles begin earlier, so as to end where the slide does: there logits are means.
    inner = (columns < shown.shape[2] - 2) & (rows < shown.shape[1] - 2)
    assert inner.sum() > 1000
    for at in (1, 2):
        assert np.abs(shown[at, rows[inner], columns[inner]] / 255 - probabilities[inner, at]).max() < 0.02
    assert (scored / "overlay.png").is_file()


def test_a_slide_without_tissue_has_no_tiles(bundle: Path, tmp_path: Path) -> None:
    result = score(ArraySlide(np.full((512, 512, 3), 240, np.uint8), MPP), open_bundle(bundle), tmp_path / "out")
    assert result.tiles is None
    assert (tmp_path / "out" / "tiles.csv").read_text().splitlines() == [
        "x,y,class,stroma_probability,gland_probability,fat_probability"
    ]


def test_maps_of_pixels_are_refused(bundle: Path) -> None:
    opened = open_bundle(bundle)
    with pytest.raises(UsageError, match=r"is for tiles of slides as a whole: use `glassrt score`$"):
        segment_image(np.zeros((128, 128, 3), np.uint8), MPP, opened, open_backend(opened, "ort"))


def test_flips_are_refused_as_such(bundle: Path) -> None:
    with pytest.raises(UsageError, match=r"^flips: tiles are seen at one scale, not mirrored"):
        open_bundle(bundle).replace(None, True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"output_stride": 32}, "output_stride 32 is not window 64: a tile has one class"),
        ({"flips": True}, "tiles are seen at one scale, not mirrored"),
        ({"scales": [1.0, 2.0]}, "tiles are seen at one scale, not mirrored"),
    ],
)
def test_manifests_that_say_otherwise_are_refused(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        open_bundle(make_bundle(tmp_path / "small.glass", "classification", classes=3, **changes))
