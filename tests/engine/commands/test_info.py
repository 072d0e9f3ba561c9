"""`glassrt info`, as users run it."""

import os
from pathlib import Path

import small_bundle
from command_line import assert_one_line, run

from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE


def test_info_describes_slides_and_bundles(demo_slide: Path) -> None:
    slide, bundle = run("info", demo_slide), run("info", DEFAULT_BUNDLE)
    assert slide.returncode == bundle.returncode == 0
    assert "2220 x 2967 px" in slide.stdout
    assert "0.499" in slide.stdout
    assert "sha256 matches" in bundle.stdout
    assert run("info", "glas-glands").stdout == bundle.stdout
    assert "from 384 µm² on; contours part those of gland that touch" in " ".join(
        bundle.stdout.replace("│", " ").split()
    )


def test_info_of_nothing_is_one_line(tmp_path: Path) -> None:
    assert_one_line(run("info", tmp_path / "none.svs"), 2, "does not exist")


def test_info_says_what_a_bundle_asks_for(tmp_path: Path) -> None:
    folder = small_bundle.make_bundle(tmp_path / "small.glass")
    plain = run("info", folder)
    assert plain.returncode == 0
    assert "log-odds" not in plain.stdout
    manifest = small_bundle.read_manifest(folder)
    manifest |= {"slide_scores": {"of": "gland", "eta": 2.5}, "overlay": "heat"}
    small_bundle.write_manifest(folder, manifest)
    asks = run("info", folder, env={**os.environ, "COLUMNS": "200"})
    assert "log-odds of gland: maximum, 99th percentile and mean of the top 2.5 % of the tissue" in asks.stdout
    assert "probability of gland as heat" in asks.stdout
