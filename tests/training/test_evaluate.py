"""Scores on labelled slides, held against whole maps; the sets that `evaluate` knows, and their splits."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import small_bundle
from command_line import GLASSRT
from made_bach import REGIONS, annotations, make_set, write_slide
from made_tiffs import MPP, stained
from numpy.typing import NDArray

from glassrt.engine.bundles.bundle import Bundle, open_bundle
from glassrt.engine.errors import DatasetError
from glassrt.engine.geometry.boxes import Box, Size
from glassrt.engine.maps.canvas import TILE
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.tasks.segment import segment_image
from glassrt.training import metrics
from glassrt.training.datasets import bach, glas, mosaic
from glassrt.training.datasets.labelled import Truth
from glassrt.training.evaluate import SETS, evaluate
from glassrt.training.evaluations.slides import count_pixels

SIZES = {6: (660, 540), 7: (310, 230)}  # more than a tile of the map, and less
REPORTED = ["dataset", "split", "images", "bundle", "scales", "flips", "backend", "scores"]


def copy_bundle(bundle: Bundle, path: Path, names: Sequence[str], mpp: float) -> Bundle:
    """The same bundle with other names of classes and another resolution."""
    shutil.copytree(bundle.path, path)
    classes = [{"name": name, "color": [9, 9, number]} for number, name in enumerate(names)]
    small_bundle.write_manifest(path, small_bundle.read_manifest(path) | {"classes": classes, "mpp": mpp})
    return open_bundle(path)


@pytest.fixture(scope="module")
def grading(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small bundle that tells BACH's classes apart."""
    folder = tmp_path_factory.mktemp("grading")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_bundle, "CLASSES", len(bach.CLASSES))
        made = small_bundle.make_bundle(folder / "made.glass")
    return copy_bundle(open_bundle(made), folder / "grading.glass", bach.CLASSES, MPP)


@pytest.fixture(scope="module")
def backend(grading: Bundle) -> Iterator[Backend]:
    with closing(open_backend(grading, "ort", precision="fp32")) as opened:
        yield opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set whose split `train` has slides of several sizes."""
    folder = tmp_path_factory.mktemp("bach")
    slides = make_set(folder, (1, 2, 3, 4, 5, 8, 9))
    for number, size in SIZES.items():
        write_slide(slides / f"A{number:02}.svs", stained(*size, seed=number))
        (slides / f"A{number:02}.xml").write_text(annotations("".join(each.xml() for each in REGIONS)))
    return folder


@pytest.mark.parametrize("mpp", [0.5, 0.8, 0.25])
def test_slides_score_as_their_whole_maps_do(
    grading: Bundle, backend: Backend, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mpp: float
) -> None:
    """At the slides' resolution, a coarser one and a finer one."""
    bundle = copy_bundle(grading, tmp_path / "other.glass", bach.CLASSES, mpp)
    monkeypatch.setitem(bach.SPLITS, "train", tuple(SIZES))
    counts = np.zeros((4, 4), np.int64)
    for (number, size), slide in zip(SIZES.items(), bach.find_slides(folder, "train"), strict=True):
        prediction = segment_image(stained(*size, seed=number), MPP, bundle, backend).argmax(axis=0)
        height, width = prediction.shape
        counts += metrics.confusion(slide.truth.cut(Box(0, 0, width, height), (width, height)), prediction, 4)
    assert (counts.sum(axis=1) > 0).all()
    assert (counts.sum(axis=0) > 0).sum() > 2  # a network that says one thing would prove nothing
    told: list[tuple[int, int]] = []
    report = evaluate(bundle, backend, "bach", folder, "train", lambda done, total: told.append((done, total)))
    expected = {"mIoU": metrics.mean_iou(counts), "accuracy": metrics.accuracy(counts)}
    expected |= {"score": metrics.bach_score(counts)}
    expected |= {f"IoU {name}": metrics.iou_per_class(counts)[row] for row, name in enumerate(bach.CLASSES)}
    assert list(report["scores"]) == list(expected)
    assert report["scores"] == {name: round(100 * value, 3) for name, value in expected.items()}
    assert told == [(1, 2), (2, 2)]
    assert list(report) == REPORTED
    assert (report["dataset"], report["split"], report["images"]) == ("bach", "train", 2)


def test_mosaics_score_as_their_whole_maps_do(grading: Bundle, backend: Backend, tmp_path: Path) -> None:
    bundle = copy_bundle(grading, tmp_path / "other.glass", mosaic.CLASSES, glas.MPP)
    counts = np.zeros((4, 4), np.int64)
    for number in (1, 2):
        path, classes = tmp_path / f"test_{number}.tif", (np.indices((560, 700)).sum(0) // (90 + number) % 4)
        mosaic.write_slide(stained(700, 560, seed=number), path)
        cv2.imwrite(str(tmp_path / f"test_{number}_classes.png"), classes.astype(np.uint8))
        with open_slide(path) as slide:
            pixels = slide.read_level(0, (0, 0), slide.levels[0].size)
        prediction = segment_image(pixels, glas.MPP, bundle, backend).argmax(axis=0)
        counts += metrics.confusion(classes, prediction, 4)
    report = evaluate(bundle, backend, "mosaic", tmp_path)
    assert (report["split"], report["images"]) == ("test", 2)
    assert report["scores"]["accuracy"] == round(100 * metrics.accuracy(counts), 3)
    assert report["scores"]["IoU adenomatous"] == round(100 * metrics.iou_per_class(counts)[2], 3)
    with pytest.raises(DatasetError, match="no split 'validation'; choose one of train, test"):
        evaluate(bundle, backend, "mosaic", tmp_path, "validation")
    with pytest.raises(DatasetError, match="a mosaic needs non-gland, healthy, adenomatous, differentiated"):
        evaluate(grading, backend, "mosaic", tmp_path)


class Noted(NamedTuple):
    """A truth that notes what it is asked for."""

    truth: Truth
    boxes: list[Box]

    def cut(self, box: Box, grid: Size) -> NDArray[np.uint8]:
        self.boxes.append(box)
        return self.truth.cut(box, grid)


def test_the_truth_is_asked_for_tile_by_tile(grading: Bundle, backend: Backend, folder: Path) -> None:
    slide = bach.find_slides(folder, "train")[4]
    noted = Noted(slide.truth, [])
    counts = count_pixels(slide._replace(truth=noted), grading, backend)
    assert counts.sum() == SIZES[6][0] * SIZES[6][1]
    assert max(max(box.size) for box in noted.boxes) == TILE
    assert len(noted.boxes) == 4


def test_files_can_be_left_out(grading: Bundle, backend: Backend, folder: Path) -> None:
    paths = [slide.path for slide in bach.find_slides(folder, "train")]
    few = evaluate(grading, backend, "bach", folder, "train", left_out=paths[1:])
    assert few["images"] == 1


def test_the_split_is_the_test_split_unless_named(grading: Bundle, backend: Backend, folder: Path) -> None:
    splits = {name: each.test_split for name, each in SETS.items()}
    assert splits == {
        "glas": "testA",
        "crchisto": "",
        "ucsb": "",
        "features": "",
        "mnist-bags": "10",
        **dict.fromkeys(("bach", "mosaic", "camelyon16", "kather", "pcam", "nuclei", "folders", "labels"), "test"),
    }
    report = evaluate(grading, backend, "bach", folder)
    assert (report["split"], report["images"]) == ("test", 1)
    with pytest.raises(DatasetError, match="no split 'testB'; choose one of train, validation, test"):
        evaluate(grading, backend, "bach", folder, "testB")
    with pytest.raises(DatasetError, match=r"--dataset camelyon17 is not known; choose glas, bach, mosaic, camelyon16"):
        evaluate(grading, backend, "camelyon17", folder)


def test_a_bundle_of_other_classes_is_refused(folder: Path, backend: Backend) -> None:
    with pytest.raises(DatasetError, match="tells other, gland apart; BACH needs normal, benign, in situ, invasive"):
        evaluate(open_bundle(), backend, "bach", folder)


def test_the_command_scores_slides_and_says_so(grading: Bundle, folder: Path, tmp_path: Path) -> None:
    words = [GLASSRT, "evaluate", grading.path, "--data", folder, "--dataset"]
    out = tmp_path / "scores.json"
    done = subprocess.run([*words, "bach", "--json", out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "small on bach test, 1 slides," in done.stdout
    report = json.loads(out.read_text())
    assert list(report) == REPORTED
    assert all(f"{value:.2f}" in done.stdout for value in report["scores"].values())
    done = subprocess.run([*words, "bach", "--split", "none"], capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.splitlines() == ["glassrt: BACH has no split 'none'; choose one of train, validation, test"]
    wide = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run([GLASSRT, "evaluate", "--help"], capture_output=True, text=True, env=wide)
    assert "the set's test split" in done.stdout
