"""What a foreign network's outputs are: probabilities or log-odds, of classes that exclude each other or one alone."""

from pathlib import Path
from typing import Any

import foreign_networks as foreign
import numpy as np
import onnx
import pytest
from foreign_networks import SEGMENTS, WINDOW
from onnx import TensorProto, helper

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.errors import UsageError
from glassrt.engine.runtimes.ort import OrtBackend
from glassrt.export.calibration import paint_window
from glassrt.export.importing.bundle import import_network

NODE = helper.make_node
MEAN = [103.9, 116.8, 123.7]
TILES = SEGMENTS | {"kind": "classification", "scale": 1, "mean": MEAN}
ONE = TILES | {"classes": ["tumour"]}
SHARE = [NODE("Sigmoid", ["told"], ["share"])]
HALVES = [
    NODE("Cast", ["told"], ["half"], to=TensorProto.FLOAT16),
    NODE("Sigmoid", ["half"], ["share"]),
    NODE("Cast", ["share"], ["final"], to=TensorProto.FLOAT),
]


def import_graph(folder: Path, keys: dict[str, Any], **graph: Any) -> tuple[Bundle, list[str]]:
    """The bundle of a graph, and what was told of it."""
    told: list[str] = []
    path = foreign.write_graph(folder / "network.onnx", **graph)
    return import_network(path, foreign.set_up(folder, **keys), folder / "made.glass", told=told.append), told


def infer(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities of a painted window by a bundle, and what the network itself gives for it."""
    window = paint_window(WINDOW)
    (logits,) = OrtBackend(bundle.read_graph(), 1, 0, "fp32").infer({"tile": window}).values()
    powers = np.exp(logits[0].astype(np.float64))
    given = foreign.run_plainly(bundle.path.parent / "network.onnx", window.astype(np.float32) - np.float32(MEAN))
    return powers / powers.sum(0), given[0]


@pytest.mark.parametrize("end", ["logits", "softmax"])
@pytest.mark.parametrize("axes", [[1, 2], [2, 3]])
def test_vectors_may_stand_as_maps_of_one_place(axes: list[int], end: str, tmp_path: Path) -> None:
    """`[N, 1, 1, C]` or `[N, C, 1, 1]`, whose first axis after the windows is not always that of channels."""
    more = [
        NODE("Constant", [], ["axes"], value_ints=axes),
        NODE("Softmax" if end == "softmax" else "Identity", ["told"], ["vectors"]),
        NODE("Unsqueeze", ["vectors", "axes"], ["final"]),
    ]
    bundle, told = import_graph(tmp_path, TILES, end="", pooled=True, more=more)
    assert told[0] == f"its outputs are taken for {end}, as they look"
    found, given = infer(bundle)
    wanted = np.exp(given.ravel()) / np.exp(given.ravel()).sum() if end == "logits" else given.ravel()
    assert np.abs(found.ravel() - wanted).max() < 1e-5


def test_a_softmax_may_be_said(tmp_path: Path) -> None:
    bundle, told = import_graph(tmp_path, TILES | {"activation": "softmax"}, pooled=True)
    assert not any("taken for" in line for line in told)
    found, given = infer(bundle)
    assert np.abs(found - given).max() < 1e-5


@pytest.mark.parametrize("more", [[], [*SHARE, NODE("Identity", ["share"], ["final"])], HALVES])
def test_one_output_that_ends_in_a_sigmoid_is_one(more: list[onnx.NodeProto], tmp_path: Path) -> None:
    end = "" if more else "Sigmoid"
    bundle, told = import_graph(tmp_path, ONE, end=end, classes=1, pooled=True, more=more)
    assert told[0] == "its outputs are taken for sigmoid, as they look"
    found, given = infer(bundle)
    assert abs(found[1] - given[0]) < 1e-4


def small(offset: float) -> dict[str, Any]:
    """A single output that lies between 0 and 1 and is not made by a sigmoid."""
    more = [
        NODE("Constant", [], ["factor"], value_float=1e-3),
        NODE("Constant", [], ["offset"], value_float=offset),
        NODE("Mul", ["told", "factor"], ["low"]),
        NODE("Add", ["low", "offset"], ["final"]),
    ]
    return {"end": "", "classes": 1, "pooled": True, "more": more}


def test_one_output_that_looks_like_a_probability_has_to_be_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"its only output lies from 0\.\d* to 0\.\d* and not from a Sigmoid at the end"
    ):
        import_graph(tmp_path, ONE, **small(0.1))
    for said, expected in (("logits", lambda x: 1 / (1 + np.exp(-x))), ("sigmoid", lambda x: x)):
        folder = tmp_path / said
        folder.mkdir()
        found, given = infer(import_graph(folder, ONE | {"activation": said}, **small(0.1))[0])
        assert abs(found[1] - expected(given[0])) < 1e-4


@pytest.mark.parametrize("said", [{}, {"activation": "logits"}, {"activation": "sigmoid"}, {"activation": "softmax"}])
@pytest.mark.parametrize("more", [[], [*SHARE, NODE("Identity", ["share"], ["final"])]])
def test_sigmoids_of_classes_that_overlap_are_refused(
    more: list[onnx.NodeProto], said: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"\(multi-label\) networks cannot be imported"):
        import_graph(tmp_path, TILES | said, end="" if more else "Sigmoid", pooled=True, more=more)


def test_outputs_that_may_be_anything_have_to_be_said(tmp_path: Path) -> None:
    more = [*SHARE, NODE("Mul", ["share", "share"], ["final"])]
    with pytest.raises(UsageError, match=r"do not sum to 1: say what they are with `activation`; .*\(multi-label\)"):
        import_graph(tmp_path, TILES, end="", pooled=True, more=more)


@pytest.mark.parametrize(("end", "classes"), [("Softmax", 3), ("Sigmoid", 1)])
def test_probabilities_are_not_taken_for_logits(end: str, classes: int, tmp_path: Path) -> None:
    keys = (TILES if classes > 1 else ONE) | {"activation": "logits"}
    with pytest.raises(UsageError, match=f'ends in {end}, whose values are no logits: .* set it to "{end.lower()}"'):
        import_graph(tmp_path, keys, end=end, classes=classes, pooled=True)


def test_what_sums_to_1_is_no_logits_however_it_is_made(tmp_path: Path) -> None:
    more = [NODE("Softmax", ["told"], ["share"]), NODE("Abs", ["share"], ["final"])]
    with pytest.raises(UsageError, match="sum to 1: they are no logits"):
        import_graph(tmp_path, TILES | {"activation": "logits"}, end="", pooled=True, more=more)
