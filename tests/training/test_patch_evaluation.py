"""How bundles that tell tiles apart are scored on patches: against scores worked by hand."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import assert_one_line, run
from made_crchisto import make_image
from small_mil import CLASSES, SIDE, encode, head, make_bundle

from glassrt.engine.bundles.bundle import open_bundle
from glassrt.engine.errors import DatasetError
from glassrt.engine.runtimes.open import open_backend
from glassrt.training.datasets import nuclei
from glassrt.training.datasets.kather import CLASSES as KATHER
from glassrt.training.evaluate import evaluate


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "small.glass", "classification", classes=3)


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """A folder a class of noise, what the network says of each patch, and the labels that the folders give."""
    folder, random = tmp_path_factory.mktemp("patches"), np.random.default_rng(5)
    means = random.integers(60, 200, (30, SIDE // 16, SIDE // 16, 3))
    pixels = np.kron(means, np.ones((1, 16, 16, 1))).astype(np.uint8)
    logits = head(encode(pixels), 3)[1]
    labels = np.where(random.random(30) < 0.6, logits.argmax(1), random.integers(0, 3, 30))
    for number, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
        place = folder / "test" / CLASSES[label].upper()
        place.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place / f"{number:02}.png"), picture[..., ::-1])
    return folder, logits, labels


def test_scores_are_those_worked_by_hand(bundle: Path, patches: tuple[Path, np.ndarray, np.ndarray]) -> None:
    folder, logits, labels = patches
    opened = open_bundle(bundle)
    report = evaluate(opened, open_backend(opened, "ort", 4), "folders", folder)
    likeliest, scores = logits.argmax(1), report["scores"]
    assert (report["split"], report["images"]) == ("test", 30)
    assert 40 < scores["accuracy"] < 95
    assert scores["accuracy"] == pytest.approx(100 * (likeliest == labels).mean(), abs=1e-3)
    recalls = [(likeliest[labels == at] == at).mean() for at in range(3)]
    assert scores["balanced accuracy"] == pytest.approx(100 * np.mean(recalls), abs=1e-3)
    hits, found, true = (np.array([f(at) for at in range(3)]) for f in (
        lambda at: ((likeliest == at) & (labels == at)).sum(), lambda at: (likeliest == at).sum(),
        lambda at: (labels == at).sum(),
    ))  # fmt: skip
    assert scores["F1"] == pytest.approx(100 * np.mean(2 * hits / (found + true)), abs=1e-3)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    aucs = [np.mean(shares[labels == at, at][:, None] > shares[labels != at, at][None]) for at in range(3)]
    assert scores["AUROC"] == pytest.approx(100 * np.mean(aucs), abs=1e-3)


def test_the_command_scores_them(bundle: Path, patches: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    words = ("evaluate", bundle, "--data", patches[0], "--dataset", "folders", "--backend", "ort")
    done = run(*words, "--json", tmp_path / "scores.json")
    assert done.returncode == 0, done.stderr
    assert "balanced accuracy" in json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert "30 patches" in done.stdout
    assert_one_line(run(*words, "--split", "validation"), 2, "validation does not exist: name a split")


def make_nuclear(folder: Path, mpp: float) -> Path:
    """A bundle that tells nuclei apart and learned from two images."""
    manifest = (
        make_bundle(folder, "classification", classes=4, mpp=mpp, learned_from=["img2", "img5"]) / "manifest.json"
    )
    names = [{"name": name, "color": [0, at, 9]} for at, name in enumerate(nuclei.CLASSES)]
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"classes": names}))
    return folder


def test_patches_as_wide_as_a_window_are_resized_to_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """27 pixels of 0.55 micrometres are 14.85: a window of 64 at 0.232, and not at 0.3."""
    opened = open_bundle(make_nuclear(tmp_path / "fits.glass", 27 * 0.55 / SIDE))
    for number in range(1, 6):
        make_image(tmp_path / "set", number, fibroblast=[[30.0, 20.0]], others=[[30.0, 30.0], [20.0, 25.0]])
    backend = open_backend(opened, "ort")
    report = evaluate(opened, backend, "nuclei", tmp_path / "set")
    patches = nuclei.find_patches(tmp_path / "set", "test")
    windows = np.stack([cv2.resize(patches.load(at), (SIDE, SIDE)) for at in range(3)])
    said = head(encode(windows), 4)[1].argmax(1)
    assert report["scores"]["accuracy"] == pytest.approx(100 * (said == patches.labels).mean(), abs=1e-3)
    assert caplog.messages == [
        f"3 of 3 patches are of slides that {opened.path} learned from, such as img5: scores on others will be lower"
    ]
    caplog.clear()
    evaluate(opened, backend, "nuclei", tmp_path / "set", "all")
    assert caplog.messages[0].startswith("6 of 15 patches are of slides")
    other = open_bundle(make_nuclear(tmp_path / "wide.glass", 0.3))
    with pytest.raises(DatasetError, match=r"patch 1 is 14\.85 micrometres wide, windows of .* are 19\.2"):
        evaluate(other, backend, "nuclei", tmp_path / "set")


def test_patches_of_another_kind_are_refused(bundle: Path, tmp_path: Path) -> None:
    opened = open_bundle(bundle)
    backend = open_backend(opened, "ort")

    def paint(name: str, side: int) -> None:
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "1.png"), np.zeros((side, side, 3), np.uint8))

    paint("gland", SIDE)
    paint("stroma", SIDE)
    with pytest.raises(DatasetError, match=r"tells stroma, gland, fat apart; .* has gland, stroma"):
        evaluate(opened, backend, "folders", tmp_path, "all")
    paint("fat", 32)
    with pytest.raises(DatasetError, match=r"fat/1\.png is 32 x 32 px, .* takes 64 x 64: cut or resize them"):
        evaluate(opened, backend, "folders", tmp_path, "all")
    kather = tmp_path / ".kather"  # no class
    for number, name in enumerate(KATHER, start=1):
        (kather / f"{number:02}_{name}").mkdir(parents=True)
        cv2.imwrite(str(kather / f"{number:02}_{name}" / "HE-01_1.png"), np.zeros((SIDE, SIDE, 3), np.uint8))
    with pytest.raises(DatasetError, match="has no patches of the split test: choose another one"):
        evaluate(opened, backend, "kather", kather)
    with pytest.raises(DatasetError, match="is of the kind segmentation, which does not tell tiles apart"):
        evaluate(open_bundle(), open_backend(open_bundle(), "ort"), "folders", tmp_path, "all")
