"""What a bundle asks for beside the map: scores of the whole slide, and heat in its picture."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import small_bundle
import tifffile
from plain_batch import score_here
from plain_network import PSPNET
from small_dual import make_dual

from glassrt.engine import ArraySlide, open_slide, score
from glassrt.engine.bundles.bundle import Bundle, open_bundle
from glassrt.engine.maps.mapfile import NOT_ANALYSED

NAMES = ("maximum_log_odds", "percentile_99_log_odds", "top_log_odds")


def asking(folder: Path, **more: object) -> Bundle:
    """The bundle in `folder`, asking for scores of glands and more."""
    manifest = small_bundle.read_manifest(folder)
    small_bundle.write_manifest(folder, {**manifest, "slide_scores": {"of": "gland", "eta": 5}, **more})
    return open_bundle(folder)


@pytest.fixture(scope="module")
def glands(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The plain network, asking for scores and heat."""
    folder = shutil.copytree(PSPNET, tmp_path_factory.mktemp("bundles") / "asks.glass")
    return asking(folder, scales=[1.0], overlay="heat")


@pytest.fixture(scope="module")
def scored(demo_slide: Path, glands: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a batch of the demo slide."""
    out = tmp_path_factory.mktemp("scored") / "out"
    (outcome,) = score_here([demo_slide], out, bundle=glands.path)
    assert outcome.result is not None
    return out


def test_scores_stand_in_result_and_summary_and_agree_with_the_map(scored: Path, demo_slide: Path) -> None:
    result = json.loads((scored / demo_slide.stem / "result.json").read_text())
    scores = result["slide_scores"]
    assert (scores["of"], scores["eta"]) == ("gland", 5)
    assert list(scores) == ["of", "eta", *NAMES]
    with open(scored / "summary.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert [float(row[f"gland_{name}"]) for name in NAMES] == pytest.approx([scores[name] for name in NAMES], rel=1e-4)
    classes, probability = tifffile.imread(scored / demo_slide.stem / "map.ome.tif")
    highest = probability[classes != NOT_ANALYSED].max() / 255
    assert 1 / (1 + np.exp(-scores["maximum_log_odds"])) == pytest.approx(highest, abs=1 / 255)
    assert scores["maximum_log_odds"] >= scores["top_log_odds"]
    assert scores["maximum_log_odds"] >= scores["percentile_99_log_odds"]


def test_the_picture_shows_heat_and_greys_what_was_not_analysed(scored: Path, demo_slide: Path) -> None:
    folder = scored / demo_slide.stem
    picture = cv2.imread(str(folder / "overlay.png"), cv2.IMREAD_COLOR_RGB).astype(int)
    classes, probability = tifffile.imread(folder / "map.ome.tif")
    shape = picture.shape[1::-1]
    low, none = (
        cv2.resize(each.astype(np.uint8), shape, interpolation=cv2.INTER_NEAREST) > 0
        for each in (probability > 250, classes == NOT_ANALYSED)
    )
    red, _, blue = np.moveaxis(picture, 2, 0)
    low[:60], none[:60] = False, False  # where the scale stands
    assert (red[low] - blue[low]).mean() > 60
    assert picture[none].mean() == pytest.approx(0.6 * 243 + 0.4 * 190, abs=6)  # glass, greyed
    assert len(np.unique(picture[12, 12:136], axis=0)) > 60  # a scale of colours


@pytest.mark.parametrize("kind", ["segmentation", "dual"])
@pytest.mark.parametrize("asks", [True, False])
def test_any_kind_of_bundle_gives_scores_if_it_asks(tmp_path: Path, kind: str, asks: bool) -> None:
    make = small_bundle.make_bundle if kind == "segmentation" else make_dual
    folder = make(tmp_path / "small.glass")
    bundle = asking(folder) if asks else open_bundle(folder)
    pixels = np.random.default_rng(0).integers(60, 200, (200, 240, 3), np.uint8)
    result = score(ArraySlide(pixels, 0.5), bundle, tmp_path / "out", "ort", precision="fp32", tissue="all")
    assert (result.slide_scores is not None) == asks
    assert json.loads((tmp_path / "out" / "result.json").read_text())["slide_scores"] == (
        {name: getattr(result.slide_scores, name) for name in ("of", "eta", *NAMES)} if asks else None
    )


def test_a_slide_without_tissue_has_no_score(tmp_path: Path, glands: Bundle) -> None:
    result = score(ArraySlide(np.full((600, 600, 3), 243, np.uint8), 0.5), glands, tmp_path / "out", "ort")
    assert result.note.startswith("no tissue found")
    assert result.slide_scores is None


def test_scores_are_those_of_the_tissue_asked_for(tmp_path: Path, glands: Bundle, demo_slide: Path) -> None:
    """Within a mask, the map stays; what lies beside it does not speak."""
    mask = np.zeros((297, 222), np.bool_)
    mask[20:60, 100:160] = True
    with open_slide(demo_slide) as slide:
        result = score(slide, glands, tmp_path / "out", "ort", precision="fp32", tissue=mask)
    _, probability = tifffile.imread(tmp_path / "out" / "map.ome.tif")
    inside = cv2.resize(mask.view(np.uint8), probability.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    assert result.slide_scores is not None
    found = 255 / (1 + np.exp(-result.slide_scores.maximum_log_odds))
    assert probability[inside].max() - 1 <= found <= probability[cv2.dilate(inside.view(np.uint8), None) > 0].max() + 1
    assert found < probability.max() - 10
