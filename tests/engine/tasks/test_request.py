"""What a slide is scored with, as a value that can be sent, compared and written down."""

import json
import pickle
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from plain_batch import read_all, score_here

from glassrt.engine import ArraySlide, open_bundle, open_slide, score
from glassrt.engine.errors import SlideError
from glassrt.engine.tasks.request import Request, describe_tissue

REQUEST = Request(
    slide="/slides/a.svs",
    bundle="/bundles/glas.glass",
    identity="0" * 64,
    runtime="openvino",
    precision="int8",
    scales=(0.75, 1.0),
    flips=True,
    map_mpp=None,
    mpp=0.5,
    tissue="auto",
)


def test_a_request_comes_out_of_another_process_as_it_went_in() -> None:
    again = pickle.loads(pickle.dumps(REQUEST))
    assert again == REQUEST
    assert hash(again) == hash(REQUEST)
    assert again.digest == REQUEST.digest
    assert msgspec.json.decode(msgspec.json.encode(REQUEST), type=Request) == REQUEST


@pytest.mark.parametrize(
    "change",
    [
        {"slide": "/slides/b.svs"},
        {"identity": "1" * 64},
        {"runtime": "ort"},
        {"precision": "fp32"},
        {"scales": (1.0, 0.75)},
        {"flips": False},
        {"map_mpp": 2.0},
        {"mpp": 0.25},
        {"tissue": "all"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_figures_changes_the_digest(change: dict[str, Any]) -> None:
    assert msgspec.structs.replace(REQUEST, **change).digest != REQUEST.digest


def test_a_bundle_that_lies_elsewhere_is_the_same() -> None:
    assert msgspec.structs.replace(REQUEST, bundle="/other.glass").digest == REQUEST.digest


def test_a_mask_in_memory_is_known_by_what_it_holds() -> None:
    mask = np.zeros((4, 6), np.bool_)
    other = mask.copy()
    other[1, 2] = True
    told = [describe_tissue(each) for each in (mask, mask.T.copy().T, other, mask.reshape(6, 4), mask.astype(np.uint8))]
    assert told[0] == told[1]
    assert len(set(told)) == 4
    assert all(each.startswith("sha256:") for each in told)


@pytest.mark.parametrize("name", ["masks/a.png", "auto", "all"])
def test_a_mask_is_known_by_its_absolute_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert describe_tissue(Path(name)) == describe_tissue(tmp_path / name) == str(tmp_path / name)


def test_words_are_no_paths() -> None:
    assert [describe_tissue(word) for word in ("auto", "all")] == ["auto", "all"]


def test_a_mask_of_odd_values_is_refused_in_a_line(tmp_path: Path) -> None:
    bundle = open_bundle()
    slide = ArraySlide(np.full((400, 400, 3), (215, 140, 190), np.uint8), bundle.manifest.mpp)
    with pytest.raises(SlideError, match=r"the mask: expected whole numbers \[H, W\], got datetime64"):
        score(slide, bundle, tmp_path / "out", "ort", precision="fp32", tissue=np.zeros((4, 4), "datetime64[s]"))
    assert not (tmp_path / "out").exists()


def test_results_hold_the_digest_and_the_bundles_identity(demo_slide: Path, tmp_path: Path) -> None:
    bundle = open_bundle()
    pixels = np.full((400, 400, 3), (215, 140, 190), np.uint8)
    slide = ArraySlide(pixels, bundle.manifest.mpp)
    first = score(slide, bundle, tmp_path / "first", "ort", precision="fp32", tissue="all")
    again = score(slide, bundle, tmp_path / "again", "ort", precision="fp32", tissue="all", readers=1)
    other = score(slide, bundle, tmp_path / "other", "ort", precision="fp32", tissue="all", map_mpp=5)
    assert first.request == again.request != other.request
    stored = json.loads((tmp_path / "first" / "result.json").read_text())
    assert stored["request"] == first.request
    assert stored["bundle"]["sha256"] == bundle.sha256
    (outcome,) = score_here([demo_slide], tmp_path / "out", backend="openvino", precision="int8")
    assert outcome.result is not None
    wanted = Request(
        slide=str(demo_slide.resolve()),
        bundle="",
        identity=bundle.sha256,
        runtime="openvino",
        precision="int8",
        scales=bundle.manifest.scales,
        flips=bundle.manifest.flips,
        map_mpp=None,
        mpp=0.499,
        tissue="auto",
    )
    assert outcome.result.request == wanted.digest
    with open_slide(demo_slide) as slide:  # whoever asks
        assert score(slide, bundle, tmp_path / "alone", "openvino", precision="int8").request == wanted.digest


def test_results_of_versions_without_requests_keep_their_rows(demo_slide: Path, tmp_path: Path) -> None:
    """They are not scored again either."""
    out = tmp_path / "out"
    score_here([demo_slide], out, backend="openvino", precision="int8")
    file = out / demo_slide.stem / "result.json"
    stored = json.loads(file.read_text())
    del stored["request"]
    file.write_text(json.dumps(stored))
    before = read_all(out)
    (outcome,) = score_here([demo_slide], out, backend="openvino", precision="int8")
    assert outcome.status == "scored"
    assert read_all(out) == before
