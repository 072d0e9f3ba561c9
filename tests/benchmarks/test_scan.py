"""The benchmark of scans, on a small one."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import run

from glassrt.benchmarks.scan import TILE, Scanner


def test_tiles_in_snake_order_make_the_slide_once(demo_slide: Path) -> None:
    scanner = Scanner(demo_slide, (1.3, 1.1))
    assert scanner.size == (2600, 2200)
    places = scanner.places()
    assert places == [(0, 0), (1024, 0), (2048, 0), (2048, 1024), (1024, 1024), (0, 1024), (0, 2048), (1024, 2048), (2048, 2048)]  # fmt: skip  # noqa: E501
    whole = np.zeros((2200, 2600, 3), np.uint8)
    for x, y in places:
        tile = scanner.tile((x, y))
        whole[y : y + TILE, x : x + TILE] = tile
    assert np.array_equal(whole[8::16, 8::16], scanner.overview())
    assert np.array_equal(whole[:, 2220:], whole[:, : 2600 - 2220])  # the demo slide is 2220 pixels wide


@pytest.mark.slow
def test_a_small_scan_is_measured(demo_slide: Path, tmp_path: Path) -> None:
    done = run(
        "bench", "scan", demo_slide, "--side", 1.2, "--long", 1.5, "--load", 0.9, "--backend", "ort",
        "--precision", "fp32", "--json", tmp_path / "scan.json", "--plot", tmp_path / "scan.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "scan.json").read_text())
    steady = report["at a load of 0.9"]
    assert steady["map_tiles"] == len(steady["lags_ms"]) > 0
    assert 0 <= steady["lag_ms"]["p50"] <= steady["lag_ms"]["p99"] <= steady["lag_ms"]["p100"]
    assert report["1.2 x 1.5 mm"]["windows"] > steady["windows"]
    assert (tmp_path / "scan.png").read_bytes().startswith(b"\x89PNG")
