"""What bundles are worth and cost: scores once, times on every kind of processor."""

import json
from contextlib import closing
from pathlib import Path

import pytest
import small_bundle
from matplotlib.image import imread

from glassrt.benchmarks import quality
from glassrt.benchmarks.commands.quality import quality_command
from glassrt.engine.bundles.bundle import Bundle, open_bundle
from glassrt.engine.errors import UsageError
from glassrt.engine.geometry.plan import InputSpec, plan
from glassrt.engine.runtimes.isa import cpu_isa
from glassrt.training.evaluate import evaluate


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(small_bundle.make_bundle(tmp_path_factory.mktemp("quality") / "small.glass"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "ROUNDS", 2)
    monkeypatch.setattr(quality, "CALLS_S", 0.02)
    monkeypatch.setattr(quality, "MANY_SCALES", (1.0, 1.5))


@pytest.mark.parametrize(("scales", "flips"), [((1.0,), False), ((0.75, 1.0, 2.0), True)])
def test_windows_a_square_millimetre_are_those_of_a_large_slide(
    bundle: Bundle, scales: tuple[float, ...], flips: bool
) -> None:
    viewed = bundle.replace(scales, flips)
    side = 24_000  # pixels of half a micrometre: 12 mm
    windows = plan((side, side), scales, flips, (InputSpec("image", 32),), 24)
    assert quality.windows_a_mm2(viewed) == pytest.approx(len(windows.windows) / 144, rel=0.01)


def test_scores_are_the_evaluations_and_times_are_added(bundle: Bundle, painted: Path, tmp_path: Path) -> None:
    report, plot = tmp_path / "quality.json", tmp_path / "quality.png"
    quality_command(painted, [bundle.path], [bundle.path], precision="fp32,int8", json=report, plot=plot)
    rows = json.loads(report.read_text())["rows"]
    assert [row["name"] for row in rows] == [
        f"small, {views}, {precision}" for views in ("1 scale", "2 scales, flips") for precision in ("fp32", "int8")
    ]
    (setting,) = quality.lay_settings([bundle], ["fp32"], [])
    with closing(quality.open_setting(setting)) as backend:
        expected = evaluate(setting.bundle, backend, "glas", painted)["scores"]
    assert {name: rows[0][name] for name in quality.SCORES} == {name: expected[name] for name in quality.SCORES}
    assert all(row["ms_per_window"][cpu_isa()] > 0 and len(row["runs"]) == 2 for row in rows)
    assert rows[2]["windows_per_mm2"] == pytest.approx(2 * (1 + 2.25) * rows[0]["windows_per_mm2"])
    assert imread(plot).shape[1] == 900
    rows[0] |= {"mIoU": 12.5, "ms_per_window": {"abacus": 7.0}}
    report.write_text(json.dumps({"rows": rows}))
    quality_command(painted, [bundle.path], [], precision="fp32", json=report)
    (row,) = json.loads(report.read_text())["rows"]
    assert row["mIoU"] == 12.5  # no processor changes it
    assert set(row["ms_per_window"]) == {"abacus", cpu_isa()}
    heads, cells = quality.draw_table({"rows": [row]})
    assert heads == [
        "", *quality.SCORES, "GMAC", "windows a mm²", "ms, abacus", f"ms, {cpu_isa()}", "ms a mm², abacus",
        f"ms a mm², {cpu_isa()}",
    ]  # fmt: skip
    assert cells[:2] == ["small, 1 scale, fp32", "12.50"]
    assert cells[6] == "7.0"


def test_what_cannot_be_measured_is_told(bundle: Bundle, painted: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none of the bundles has a graph in fp16"):
        quality_command(painted, [bundle.path], precision="fp16")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(UsageError, match=r"other\.json is no report of `bench quality`"):
        quality_command(painted, [bundle.path], json=tmp_path / "other.json")
