"""`glassrt info`, as users run it."""

from pathlib import Path

from command_line import assert_one_line, run

from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE


def test_info_describes_slides_and_bundles(demo_slide: Path) -> None:
    slide, bundle = run("info", demo_slide), run("info", DEFAULT_BUNDLE)
    assert slide.returncode == bundle.returncode == 0
    assert "2220 x 2967 px" in slide.stdout
    assert "0.499" in slide.stdout
    assert "sha256 matches" in bundle.stdout


def test_info_of_nothing_is_one_line(tmp_path: Path) -> None:
    assert_one_line(run("info", tmp_path / "none.svs"), 2, "does not exist")
