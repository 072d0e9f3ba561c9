"""Benchmarks of a bundle of two networks."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from small_dual import make_dual

from glassrt.benchmarks.ceiling import count_gmac
from glassrt.engine.bundles.bundle import open_bundle

# The commands, but for how long latency warms up and how many starts count.
SHORTER = "from glassrt.benchmarks import latency; latency.WARM_UP_S, latency.STARTS = 0.02, 1"
GLASSRT = (sys.executable, "-c", f"{SHORTER}; from glassrt.engine.commands.main import main; main()")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*GLASSRT, *map(str, arguments)], capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"}
    )


@pytest.mark.parametrize("anchor", ["tile", "centre"])
def test_both_networks_are_timed_beside_the_whole(demo_slide: Path, tmp_path: Path, anchor: str) -> None:
    bundle, figures = make_dual(tmp_path / "small.glass", anchor, maps=True), tmp_path / "slide.json"
    done = run("bench", "slide", demo_slide, bundle, "--batch", 4, "--repeats", 1, "--json", figures)
    assert done.returncode == 0, done.stderr
    report = json.loads(figures.read_text())
    seconds = {row["name"]: statistics.median(row["runs"]) for row in report["rows"]}
    assert seconds.keys() == {"score", "open", "mask", "read and cut", "context", "infer", "stitch", "write"}
    assert min(seconds.values()) > 0
    assert report["times_network"] == pytest.approx(seconds["score"] / (seconds["context"] + seconds["infer"]))
    assert report["ms_per_context"] == pytest.approx(1000 * seconds["context"] / report["contexts"])
    assert (report["contexts"] < report["windows"]) == (anchor == "tile")
    assert f"{report['contexts']} surroundings through another" in " ".join(done.stdout.split())


def test_latency_is_that_of_both_networks_together(tmp_path: Path) -> None:
    bundle, figures = make_dual(tmp_path / "small.glass"), tmp_path / "latency.json"
    options = ["--backend", "ort,openvino", "--precision", "fp32", "--duration", "0.2", "--json", figures]
    done = run("bench", "latency", bundle, *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(figures.read_text())
    assert [row["backend"] for row in report["rows"]] == ["ort", "openvino"]
    assert all(row["start"]["first_call_s"] > 0 for row in report["rows"])


def test_the_work_of_both_networks_is_counted(tmp_path: Path) -> None:
    """Two convolutions of 16 places to 4 channels over 8 x 8 x 3 pixels, and one of 16 to 2 over 4."""
    bundle = open_bundle(make_dual(tmp_path / "small.glass"))
    assert count_gmac(bundle) * 1e9 == 2 * 16 * 4 * 192 + 16 * 2 * 4


def test_peers_run_no_two_networks(demo_slide: Path, tmp_path: Path) -> None:
    done = run("bench", "peers", demo_slide, make_dual(tmp_path / "small.glass"))
    assert done.returncode == 2
    assert "is of the kind dual, whose networks no peer runs: `glassrt bench slide` times it" in done.stderr
