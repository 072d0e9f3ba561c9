"""Slides, pixels and lesions of weak sets, scored in one pass and held against whole maps."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import small_bundle
from command_line import assert_one_line, run
from made_camelyon16 import GLASS, HOLE, LESION, MPP, SIZE, SPECK, make_testing, make_training, write_slide
from painted_mosaic import make_weak, paint_graded

from glassrt.engine.bundles.bundle import Bundle, open_bundle
from glassrt.engine.bundles.tensors import TensorSpec
from glassrt.engine.errors import DatasetError, SlideError, UsageError
from glassrt.engine.geometry.boxes import Box
from glassrt.engine.geometry.coverage import cover
from glassrt.engine.maps import canvas
from glassrt.engine.maps.canvas import Tile
from glassrt.engine.maps.evidence import LIMIT, log_odds
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.tissue.scope import find_scope
from glassrt.engine.tasks.segment import lay_windows, segment
from glassrt.engine.tasks.segmentation import choose_map_size, open_grid
from glassrt.training.datasets import camelyon16, glas
from glassrt.training.datasets.weak import CLASSES, NoLesion
from glassrt.training.evaluate import evaluate
from glassrt.training.evaluations import weak
from glassrt.training.froc import LEVEL_MPP, find_candidates, find_lesions, froc_curve, match, mean_sensitivity
from glassrt.training.slide_metrics import bootstrap_auc, roc_auc

WINDOW, STRIDE, BATCH = small_bundle.WINDOW, small_bundle.STRIDE, 16


class Darkness:
    """A hand-made runtime whose malign logit is how dark the pixels of an output are."""

    name, device, isa, version, precision, batch, streams = "darkness", "none", "", "0", "fp32", BATCH, 1
    inputs = (TensorSpec("image", "uint8", (BATCH, WINDOW, WINDOW, 3)),)
    outputs = (TensorSpec("logits", "float32", (BATCH, 2, WINDOW // STRIDE, WINDOW // STRIDE)),)

    def __init__(self, steepness: float) -> None:
        self.steepness = steepness

    def infer(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        side = WINDOW // STRIDE
        light = inputs["image"].reshape(-1, side, STRIDE, side, STRIDE, 3).mean((2, 4, 5), dtype=np.float32)
        dark = (110 - light) * np.float32(self.steepness)
        return {"logits": np.stack([-dark / 2, dark / 2], axis=1)}

    def close(self) -> None:
        pass


def make_bundle(folder: Path, mpp: float) -> Bundle:
    """A small bundle that tells benign from malign; its network's weights are random."""
    path = small_bundle.make_bundle(folder / "small.glass")
    classes = [{"name": name, "color": [9, 9, number]} for number, name in enumerate(CLASSES)]
    changes = {"classes": classes, "mpp": mpp, "scales": [1.0], "flips": False}
    small_bundle.write_manifest(path, small_bundle.read_manifest(path) | changes)
    return open_bundle(path)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle"), MPP)


@pytest.fixture(scope="module")
def backend(bundle: Bundle) -> Iterator[Backend]:
    with closing(open_backend(bundle, "ort", precision="fp32")) as opened:
        yield opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A test set of five slides, one of which is not outlined in full."""
    folder = tmp_path_factory.mktemp("camelyon16")
    labels = {1: "Tumor", 2: "Normal", 3: "Normal", 4: "Tumor", 114: "Tumor"}
    make_testing(folder, labels, (LESION, HOLE, SPECK))
    return folder


def score_plainly(bundle: Bundle, backend: Backend, folder: Path, split: str) -> dict[str, float]:
    """The scores from maps that are kept whole, of the tissue that the engine finds."""
    pixels: list[tuple[np.ndarray, ...]] = []
    slides, hits = [], []
    for found in camelyon16.find_slides(folder, split):
        with open_slide(found.path) as slide:
            grid, scope = open_grid(slide, bundle), find_scope(slide, "auto", 2)
            size = choose_map_size(grid, bundle, None)
            odds = np.full(size[::-1], np.nan)

            def place(tile: Tile, odds: np.ndarray = odds) -> None:
                part = np.s_[
                    tile.top : tile.top + tile.analysed.shape[0], tile.left : tile.left + tile.analysed.shape[1]
                ]
                odds[part] = np.where(tile.analysed, log_odds(tile.probabilities, 1), np.nan)

            segment(grid, lay_windows(grid, bundle, scope.searched), bundle, backend, size, place)
        tissue = (cover(scope.tissue, size, 0, 0, size) > 0) & ~np.isnan(odds)
        ordered = np.sort(odds[tissue])
        top = ordered[-max(1, round(len(ordered) / 100)) :].mean()
        slides.append((found.malign, np.percentile(ordered, 99), ordered[-1], top))
        if found.truth is None:
            continue
        truth = found.truth.cut(Box(0, 0, *size), size) > 0
        filled = np.where(np.isnan(odds), -LIMIT, odds)
        pixels.append((truth.ravel(), filled.ravel(), (tissue | truth).ravel()))
        level = tuple(round(length * MPP / LEVEL_MPP) for length in SIZE)
        rows, columns = (
            ((np.arange(n) + 0.5) * of / n).astype(int) for n, of in zip(level[::-1], size[::-1], strict=True)
        )
        lesions = find_lesions(found.truth.cut(Box(0, 0, *level), level) > 0, LEVEL_MPP)
        hits.append(match(find_candidates(filled[np.ix_(rows, columns)].astype(np.float32)), lesions))
    labels, *scores = zip(*slides, strict=True)
    truth, odds, ranked = (np.concatenate(each) for each in zip(*pixels, strict=True))
    low, high = bootstrap_auc(scores[0], labels, weak.SEED)
    return {
        "slide AUC": roc_auc(scores[0], labels),
        "slide AUC low": low,
        "slide AUC high": high,
        "slide AUC by maximum": roc_auc(scores[1], labels),
        "slide AUC by top 1 %": roc_auc(scores[2], labels),
        "pixel AUC": roc_auc(np.rint(odds[ranked].astype(np.float32).astype(np.float64) * 100), truth[ranked]),
        "IoU malign": (truth & (odds > 0)).sum() / (truth | (odds > 0)).sum(),
        "FROC": mean_sensitivity(*froc_curve(hits)),
    }


@pytest.mark.parametrize("tile", [512, 48])
@pytest.mark.parametrize("steepness", [None, 0.05, 3.0])
def test_slides_score_as_their_whole_maps_do(
    bundle: Bundle,
    backend: Backend,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    tile: int,
    steepness: float | None,
) -> None:
    """With random weights, and with a hand-made network whose probabilities are all 1 where it is sure."""
    runtime: Any = backend if steepness is None else Darkness(steepness)
    expected = score_plainly(bundle, runtime, folder, "test")
    monkeypatch.setattr(canvas, "TILE", tile)
    monkeypatch.setattr(weak, "TILE", tile)
    told: list[tuple[int, int]] = []
    report = evaluate(bundle, runtime, "camelyon16", folder, progress=lambda done, total: told.append((done, total)))
    assert told == [(number, 5) for number in range(1, 6)]
    assert (report["dataset"], report["split"], report["images"]) == ("camelyon16", "test", 5)
    assert list(report["scores"]) == list(expected)
    assert report["scores"] == pytest.approx({name: 100 * value for name, value in expected.items()}, abs=1e-2)


def test_a_network_that_sees_lesions_finds_all(bundle: Bundle, folder: Path) -> None:
    scores = evaluate(bundle, Darkness(0.5), "camelyon16", folder)["scores"]
    assert [
        scores[name] for name in ("slide AUC", "slide AUC low", "slide AUC high", "slide AUC by maximum", "FROC")
    ] == [100] * 5
    assert scores["pixel AUC"] > 99.5
    assert scores["IoU malign"] > 90
    blind = evaluate(bundle, Darkness(-0.5), "camelyon16", folder)["scores"]
    assert blind["pixel AUC"] < 1
    assert blind["IoU malign"] < 1


def test_slides_whose_lesions_are_not_all_outlined_count_as_slides_alone(bundle: Bundle, folder: Path) -> None:
    paths = {slide.name: slide.path for slide in camelyon16.find_slides(folder, "test")}
    full = evaluate(bundle, Darkness(0.05), "camelyon16", folder)
    without = evaluate(bundle, Darkness(0.05), "camelyon16", folder, left_out=[paths["test_114"]])
    assert (full["images"], without["images"]) == (5, 4)
    for name in ("pixel AUC", "IoU malign", "FROC"):
        assert full["scores"][name] == without["scores"][name]


def test_scores_that_are_not_defined_are_not_given(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    slides = camelyon16.find_slides(folder, "test")
    benign = [slide.path for slide in slides if not slide.malign]
    malign = [slide.path for slide in slides if slide.malign]
    plots = tmp_path / "plots"
    scores = evaluate(bundle, Darkness(0.5), "camelyon16", folder, left_out=malign, plots=plots)["scores"]
    assert all(math.isnan(value) for value in scores.values())
    assert sorted(path.name for path in plots.iterdir()) == ["froc.png", "roc.png"]
    scores = evaluate(bundle, Darkness(0.5), "camelyon16", folder, left_out=benign)["scores"]
    assert [name for name, value in scores.items() if not math.isnan(value)] == ["pixel AUC", "IoU malign", "FROC"]
    labels = tmp_path / "labels"
    place = make_training(labels, 1, 1)
    shutil.rmtree(place / "lesion_annotations")
    scores = evaluate(bundle, Darkness(0.5), "camelyon16", labels, "train")["scores"]
    assert scores["slide AUC"] == 100
    assert not scores.keys() & {"pixel AUC", "IoU malign", "FROC"}


def test_what_is_malign_counts_where_no_tissue_was_found(bundle: Bundle, tmp_path: Path) -> None:
    """A slide of bare glass is the least suspected, and all of its lesion is missed."""
    place = make_training(tmp_path, 1, 2)
    glass = np.full((SIZE[1], SIZE[0], 3), GLASS, np.uint8)
    write_slide(place / "tumor" / "tumor_002.tif", glass)
    scores = evaluate(bundle, Darkness(0.5), "camelyon16", tmp_path, "train")["scores"]
    assert scores["slide AUC"] == 50
    assert 45 < scores["IoU malign"] < 50  # the other slide's is above 90
    assert scores["FROC"] == 50
    assert 45 < scores["pixel AUC"] < 51


def test_weak_mosaics_are_scored_where_labels_lie(tmp_path: Path) -> None:
    """The same name of a set, told apart by what the folder holds."""
    images = tmp_path / "glas"
    images.mkdir()
    made = make_weak(paint_graded(images), tmp_path / "made")
    bundle = make_bundle(tmp_path, glas.MPP)
    report = evaluate(bundle, Darkness(0.1), "mosaic", made)
    assert (report["dataset"], report["split"], report["images"]) == ("mosaic", "test", 4)
    assert "FROC" in report["scores"]
    (made / "labels.csv").unlink()
    with pytest.raises(DatasetError, match="tells benign, malign apart; a mosaic needs non-gland"):
        evaluate(bundle, Darkness(0.1), "mosaic", made)
    with pytest.raises(DatasetError, match="tells other, gland apart; CAMELYON16 needs benign, malign"):
        evaluate(open_bundle(), Darkness(0.1), "camelyon16", made)


def test_the_command_shows_scores_and_draws_curves(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    out, plots = tmp_path / "scores.json", tmp_path / "new" / "plots"
    words = ("evaluate", bundle.path, "--data", folder, "--dataset", "camelyon16")
    done = run(*words, "--json", out, "--plots", plots, "--backend", "ort")
    assert done.returncode == 0, done.stderr
    assert "small on camelyon16 test, 5 slides," in done.stdout
    scores = json.loads(out.read_text())["scores"]
    assert all(f"{value:.2f}" in done.stdout for value in scores.values())
    for name in ("roc.png", "froc.png"):
        assert cv2.imread(str(plots / name)) is not None
    (tmp_path / "file").touch()
    done = run(*words, "--plots", tmp_path / "file")
    assert_one_line(done, 2, f"{tmp_path / 'file'}: a file stands where a folder is needed; choose another --plots")


def test_sets_without_labels_of_slides_have_no_curves(bundle: Bundle, tmp_path: Path) -> None:
    for dataset in ("glas", "bach", "mosaic"):
        with pytest.raises(
            UsageError, match=f"--plots: {dataset} has no curves; camelyon16, labels and weak mosaics have"
        ):
            evaluate(bundle, Darkness(1), dataset, tmp_path, plots=tmp_path / "plots")
    assert not (tmp_path / "plots").exists()


@pytest.mark.parametrize("place", [(3, 5), (2, 5), (3, 4), (0, 0)])
@pytest.mark.parametrize("tile", [4, 8])
def test_lesions_are_sought_at_the_middles_of_coarser_pixels(place: tuple[int, int], tile: int) -> None:
    """Of a map of 8 x 8 pixels, every second row and column is seen at a level of 4 x 4."""
    view = weak.TruthView(NoLesion(), np.ones((1, 1), np.bool_), (8, 8), (4, 4), weak.PixelCounts())
    probabilities = np.full((2, 8, 8), np.float32(0.5))
    probabilities[:, place[0], place[1]] = 0.25, 0.75
    for top in range(0, 8, tile):
        for left in range(0, 8, tile):
            part = probabilities[:, top : top + tile, left : left + tile]
            view.place(Tile(top, left, part, np.ones(part.shape[1:], np.bool_)))
    expected = () if place != (3, 5) else (pytest.approx(math.log(3)),)
    assert view.finish(LEVEL_MPP) == ((), expected)


def test_a_slide_whose_tissue_is_in_doubt_is_scored_whole() -> None:
    pixels = np.full((300, 400, 3), 120, np.uint8) + np.random.default_rng(0).integers(0, 9, (300, 400, 1), np.uint8)
    pixels[:, :, 1] -= 60
    with pytest.raises(SlideError, match="pass --tissue all"):
        find_scope(ArraySlide(pixels, MPP), "auto", 1)
    assert weak.find_tissue(ArraySlide(pixels, MPP)).source == "all"
    grey = np.arange(400 * 300, dtype=np.uint32).reshape(300, 400, 1).repeat(3, 2).astype(np.uint8)
    with pytest.raises(SlideError, match="all its pixels are grey"):
        weak.find_tissue(ArraySlide(grey, MPP))
