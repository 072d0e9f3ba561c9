"""A slide as a bag of tiles: what the engine finds is what the network's plain statement gives on the very tiles."""

import json
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import tifffile
from plain_batch import score_here
from small_mil import CLASSES, FEATURES, MPP, SIDE, encode, head, make_bundle

from glassrt.engine import ArraySlide, open_bundle, open_slide, score
from glassrt.engine.errors import BundleError, UsageError
from glassrt.engine.flow.cut import cut_windows
from glassrt.engine.geometry.plan import InputSpec, plan
from glassrt.engine.results.bag import draw_attention
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.tasks.segment import lay_windows
from glassrt.engine.watch import Clock


def every_tile(slide: Path, bundle: Path) -> tuple[np.ndarray, np.ndarray]:
    """All tiles of a slide, and their upper left corners in pixels of level 0."""
    with open_slide(slide) as opened:
        grid = GridReader(opened, MPP)
        plan = lay_windows(grid, open_bundle(bundle))
        tiles = cut_windows(grid, plan, np.arange(len(plan.windows)), Clock())["tile"]
        return tiles, plan.windows[:, 1:] * np.array(opened.levels[0].size) / (grid.width, grid.height)


def as_probabilities(logits: np.ndarray) -> np.ndarray:
    every = np.concatenate([np.zeros_like(logits), logits], -1) if logits.shape[-1] == 1 else logits
    powers = np.exp(every)
    return np.asarray(powers / powers.sum(-1, keepdims=True))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("pooling", ["attention", "max"])
def test_a_slide_is_the_bag_of_its_tiles(demo_slide: Path, tmp_path: Path, classes: int, pooling: str) -> None:
    path = make_bundle(tmp_path / "small.glass", classes=classes, pooling=pooling)
    with open_slide(demo_slide) as slide:
        result = score(slide, open_bundle(path), tmp_path / "out", "ort", tissue="all")
    tiles, corners = every_tile(demo_slide, path)
    features = encode(tiles)
    scores, logits = head(features, classes)
    weights = (scores == scores.max()).astype(float) if pooling == "max" else np.exp(scores - scores.max())
    weights /= weights.sum()
    whole = as_probabilities(weights @ logits)
    assert result.bag is not None
    assert list(result.bag.probabilities) == list(CLASSES[:classes])
    assert np.abs(np.array([*result.bag.probabilities.values()]) - whole).max() < 1e-5
    assert result.bag.tiles == len(tiles) == result.windows["run"] > 1000
    assert result.bag.effective_tiles == pytest.approx(1 / np.square(weights).sum(), rel=1e-4)
    first = result.bag.top[0]
    best = int(np.argmax(weights))
    assert (first.x, first.y) == pytest.approx(corners[best].tolist(), abs=0.5)
    assert first.attention == pytest.approx(weights[best], rel=1e-4)
    assert first.probabilities["gland"] == pytest.approx(as_probabilities(logits[best])[1], abs=1e-5)
    assert [tile.attention for tile in result.bag.top] == sorted(tile.attention for tile in result.bag.top)[::-1]
    with h5py.File(tmp_path / "out" / "features.h5") as file:
        assert np.abs(file["features"][:] - features).max() < 1e-4
        assert np.abs(file["coords"][:] - corners).max() <= 0.5


def test_a_tile_is_a_pixel_of_the_map(demo_slide: Path, tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "small.glass")
    with open_slide(demo_slide) as slide:
        score(slide, open_bundle(path), tmp_path / "out", "ort", tissue="all", map_mpp=MPP * SIDE)
    tiles, corners = every_tile(demo_slide, path)
    gland = as_probabilities(head(encode(tiles))[1])[:, 1]
    shown = tifffile.imread(tmp_path / "out" / "map.ome.tif")[1]
    columns, rows = (corners.T // SIDE).astype(int)
    # The last tiles begin earlier, so as to end where the slide does: there logits are means.
    inner = (columns < shown.shape[1] - 2) & (rows < shown.shape[0] - 2)
    assert inner.sum() > 1000
    assert np.abs(shown[rows[inner], columns[inner]] / 255 - gland[inner]).max() < 0.02


def test_pictures_show_the_tiles_that_decide(demo_slide: Path, tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "small.glass")
    with open_slide(demo_slide) as slide:
        result = score(slide, open_bundle(path), tmp_path / "out", "ort")
        assert result.bag is not None
        top = result.bag.top[0]
        side = round(SIDE * MPP / slide.mpp)
        wanted = slide.read_level(0, (int(top.x), int(top.y)), (side, side))
    sheet = cv2.imread(str(tmp_path / "out" / "top_tiles.png"))[:190, :190, ::-1]
    assert np.abs(sheet.astype(int) - cv2.resize(wanted, (190, 190), interpolation=cv2.INTER_AREA)).mean() < 6
    overlay, attention = (cv2.imread(str(tmp_path / "out" / name)) for name in ("overlay.png", "attention.png"))
    assert attention.shape == overlay.shape
    ratio = attention.shape[1] / slide.levels[0].size[0]
    y, x = (round((place + side / 2) * ratio) for place in (top.y, top.x))
    blue, _, red = attention[y, x].astype(int)
    assert red > blue + 60  # the highest attention is red


def test_a_slide_without_tissue_is_no_bag(tmp_path: Path) -> None:
    white = np.full((400, 400, 3), 243, np.uint8)
    tifffile.imwrite(tmp_path / "white.tif", white, resolution=(20000, 20000), resolutionunit=3)
    with open_slide(tmp_path / "white.tif") as slide:
        result = score(slide, open_bundle(make_bundle(tmp_path / "small.glass")), tmp_path / "out", "ort")
    assert result.bag is None
    assert "no tissue" in result.note
    assert not (tmp_path / "out" / "top_tiles.png").exists()
    with h5py.File(tmp_path / "out" / "features.h5") as file:
        assert file["features"].shape == (0, FEATURES)


def test_the_summary_has_each_slide_s_probability(demo_slide: Path, tmp_path: Path) -> None:
    (outcome,) = score_here([demo_slide], tmp_path / "out", bundle=make_bundle(tmp_path / "small.glass"))
    assert outcome.result is not None
    assert outcome.result.bag is not None
    columns, row = (line.split(",") for line in (tmp_path / "out" / "summary.csv").read_text().splitlines())
    told = float(row[columns.index("gland_bag_probability")])
    assert told == pytest.approx(outcome.result.bag.probabilities["gland"], rel=1e-5)
    stored = json.loads((tmp_path / "out" / demo_slide.stem / "result.json").read_text())
    assert stored["bag"]["probabilities"] == outcome.result.bag.probabilities


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"output_stride": 32}, "output_stride 32 is not window 64"),
        ({"scales": [0.5]}, r"`scales` has to be \[1\]"),
        ({"flips": True}, "not mirrored"),
        ({"pooling": "median"}, "pooling"),
        ({"features": 0}, "features"),
        ({"features": 47}, r"means .*\[N, 47\]"),
    ],
)
def test_a_bundle_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, object], fault: str) -> None:
    with pytest.raises(BundleError, match=fault):
        open_backend(open_bundle(make_bundle(tmp_path / "small.glass", **changes)), "ort")


def test_what_a_bundle_is_not_for_is_told(demo_slide: Path, tmp_path: Path) -> None:
    stored = open_bundle(make_bundle(tmp_path / "head.glass", takes="features"))
    encoder = open_bundle(make_bundle(tmp_path / "encoder.glass", kind="encoder"))
    with open_slide(demo_slide) as slide:
        with pytest.raises(UsageError, match="takes features that were stored before, not slides"):
            score(slide, stored, tmp_path / "out", "ort")
        with pytest.raises(UsageError, match="of the kind encoder, which tells no classes: run `glassrt embed`"):
            score(slide, encoder, tmp_path / "out", "ort")
    with pytest.raises(UsageError, match="of the kind encoder"):
        encoder.replace((0.5,), None)
    assert not (tmp_path / "out").exists()


def test_a_lone_tile_is_a_region(tmp_path: Path) -> None:
    """Also where the map's pixels, of which a tile has sixteen, are a little smaller than a sixteenth."""
    path = make_bundle(tmp_path / "small.glass")
    random = np.random.default_rng(0)
    blocks = np.kron(random.integers(40, 250, (72, 72, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    slide = ArraySlide(blocks[:1150, :1150], MPP)
    result = score(slide, open_bundle(path), tmp_path / "out", "ort", tissue="all")
    assert result.map["mpp"] < MPP * SIDE / 4
    classes = tifffile.imread(tmp_path / "out" / "map.ome.tif")[0]
    count, _, found, _ = cv2.connectedComponentsWithStats((classes == 1).astype(np.uint8), connectivity=4)
    lone = (found[1:, cv2.CC_STAT_AREA] == 16).sum()
    assert lone > 5
    assert result.classes["gland"].regions == (found[1:, cv2.CC_STAT_AREA] >= 8).sum() < count


def test_attention_covers_every_tile_that_there_is() -> None:
    """Whatever their side in pixels of the picture, and though the last ones begin earlier."""
    tiles = plan((27 * 200 + 11, 27 * 30 + 1), (1.0,), False, [InputSpec("tile", 27)], 27)
    assert len(tiles.windows) == 201 * 31
    attention = np.zeros(len(tiles.windows), np.float32)
    last = int(np.flatnonzero((tiles.windows[:, 1:] == (27 * 199 + 11, 0)).all(1))[0])
    attention[last] = 1
    white = np.full((320, 2000, 3), 255, np.uint8)
    picture = draw_attention(white, tiles, 27, attention)[40:]  # below the scale of colours
    assert (picture == 255).all(axis=2).all()  # none is grey
    attention[:] = 1
    assert (draw_attention(white, tiles, 27, attention)[40:] == picture[0, 0]).all(axis=2).sum() == 0
