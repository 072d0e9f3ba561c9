"""Features that were stored before, scored with a head alone: as all of them at once would be."""

import csv
from pathlib import Path

import h5py
import numpy as np
import pytest
from command_line import assert_one_line, run
from small_mil import FEATURES, head, make_bundle

from glassrt.engine import open_bundle
from glassrt.engine.errors import SlideError, UsageError
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.tasks.stored import score_features


def store(path: Path, count: int, length: int = FEATURES, layout: str = "trident") -> np.ndarray:
    """A file of features of the kind that other tools write."""
    random = np.random.default_rng(count)
    features = random.normal(1, 0.5, (count, length)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file["feats" if layout == "stamp" else "features"] = features
        places = random.integers(0, 10_000, (count, 2))
        file["coords"] = places * 0.25 if layout == "stamp" else places
        if layout == "stamp":
            file.attrs["unit"] = "um"
    return features


@pytest.mark.parametrize(("classes", "layout", "count"), [(2, "trident", 700), (3, "stamp", 1), (2, "clam", 513)])
def test_a_file_is_one_bag(tmp_path: Path, classes: int, layout: str, count: int) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "head.glass", takes="features", classes=classes))
    features = store(tmp_path / "slide.h5", count, layout=layout)
    backend = open_backend(bundle, "ort", batch=256)
    result = score_features(tmp_path / "slide.h5", bundle, tmp_path / "out", backend)
    backend.close()
    scores, logits = head(features, classes)
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    every = np.concatenate([np.zeros((count, 1)), logits], 1) if classes == 2 else logits
    whole = np.exp(weights @ every)
    assert [*result.bag.probabilities.values()] == pytest.approx(whole / whole.sum(), abs=1e-6)
    assert (result.bag.tiles, result.unit) == (count, "um" if layout == "stamp" else "px")
    with open(tmp_path / "out" / "tiles.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["attention"]) for row in rows] == pytest.approx(weights, rel=1e-4)
    alone = np.exp(every)[:, 1] / np.exp(every).sum(1)
    assert [float(row["gland_probability"]) for row in rows] == pytest.approx(alone, abs=1e-5)
    with h5py.File(tmp_path / "slide.h5") as stored:
        assert [float(row["x"]) for row in rows] == pytest.approx(stored["coords"][:, 0], rel=1e-5)


@pytest.mark.parametrize(
    ("count", "length", "spoil", "fault"),
    [
        (4, 7, None, "features of 7 numbers, the bundle small takes 48"),
        (0, FEATURES, None, "holds no tiles"),
        (4, FEATURES, np.nan, "features 0 to 3 hold NaN"),
        (4, FEATURES, np.inf, "features 0 to 3 hold NaN or infinity"),
    ],
)
def test_features_that_make_no_bag_are_refused(
    tmp_path: Path, count: int, length: int, spoil: float | None, fault: str
) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "head.glass", takes="features"))
    store(tmp_path / "slide.h5", count, length)
    if spoil is not None:
        with h5py.File(tmp_path / "slide.h5", "a") as file:
            file["features"][2, 3] = spoil
    backend = open_backend(bundle, "ort", batch=256)
    with pytest.raises(SlideError, match=fault):
        score_features(tmp_path / "slide.h5", bundle, tmp_path / "out", backend)
    backend.close()
    assert not (tmp_path / "out").exists()


def test_a_bundle_of_tiles_takes_no_features(tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "small.glass"))
    store(tmp_path / "slide.h5", 2)
    backend = open_backend(bundle, "ort")
    with pytest.raises(UsageError, match="takes no features that were stored before"):
        score_features(tmp_path / "slide.h5", bundle, tmp_path / "out", backend)
    backend.close()


def test_the_command_scores_every_file_that_it_can(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "head.glass", takes="features")
    (tmp_path / "=torn.h5").write_text("no HDF5")
    store(tmp_path / "one.h5", 30)
    out = tmp_path / "out"
    done = run("score", "=torn.h5", tmp_path / "one.h5", "--bundle", bundle, "--out", out, cwd=tmp_path)
    assert_one_line(done, 3, "=torn.h5 is not opened as HDF5")
    assert "bag gland" in done.stdout
    store(tmp_path / "other.h5", 30, length=5)
    assert_one_line(run("score", tmp_path / "other.h5", "--bundle", bundle, "--out", out), 3, "features of 5 numbers")
    with open(out / "bags.csv", newline="") as file:
        torn, one, other = csv.DictReader(file)
    assert (torn["tiles"], one["tiles"], other["tiles"], one["error"]) == ("", "30", "", "")
    assert 0 < float(one["gland_bag_probability"]) < 1
    assert torn["error"].startswith("'=torn.h5 is not")  # as text for spreadsheets
    assert "5 numbers" in other["error"]
    assert (out / "one" / "result.json").is_file()
    assert not (out / "other").exists()
    (out / "bags.csv").write_text("my,table\n1,2\n")
    done = run("score", tmp_path / "one.h5", "--bundle", bundle, "--out", out)
    assert_one_line(done, 2, "is no table of bags of these classes")
    assert (out / "bags.csv").read_text() == "my,table\n1,2\n"
    done = run("score", tmp_path / "one.h5", "--bundle", bundle, "--out", tmp_path / "new", "--tissue", "all")
    assert_one_line(done, 2, "are of slides")
    assert_one_line(run("verify", bundle, "--tiles", tmp_path), 2, "takes features that were stored before")
