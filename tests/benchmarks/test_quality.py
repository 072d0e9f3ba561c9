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
    found = quality.read_known(report)
    names = [
        f"small, {views}, {precision}" for views in ("1 scale", "2 scales, flips") for precision in ("fp32", "int8")
    ]
    assert [each.name for each in found.settings] == names
    assert [each.name for each in found.rows] == [f"{name}, {cpu_isa()}" for name in names]
    (setting,) = quality.lay_settings([bundle], ["fp32"], [])
    with closing(quality.open_setting(setting)) as backend:
        expected = evaluate(setting.bundle, backend, "glas", painted)["scores"]
        assert found.rows[0].batch == backend.batch
    assert found.settings[0].scores == expected
    assert all(min(each.runs) > 0 and len(each.runs) == 2 for each in found.rows)
    assert found.settings[2].windows_per_mm2 == pytest.approx(2 * (1 + 2.25) * found.settings[0].windows_per_mm2)
    assert imread(plot).shape[1] == 900


def test_what_a_file_holds_is_kept_and_the_processors_own_times_are_new(
    bundle: Bundle, painted: Path, tmp_path: Path
) -> None:
    report = tmp_path / "quality.json"
    quality_command(painted, [bundle.path], [bundle.path], precision="fp32", json=report)
    held = json.loads(report.read_text())
    held["settings"][0]["scores"]["mIoU"] = 12.5  # no processor changes it
    held["rows"] = [row | {"isa": "abacus", "runs": [7.0, 6.0, 9.0]} for row in held["rows"]]
    report.write_text(json.dumps(held))
    quality_command(painted, [bundle.path], precision="fp32", json=report)
    found = quality.read_known(report)
    assert [each.name for each in found.settings] == ["small, 1 scale, fp32", "small, 2 scales, flips, fp32"]
    assert [(each.setting, each.isa) for each in found.rows] == [
        ("small, 1 scale, fp32", "abacus"),
        ("small, 2 scales, flips, fp32", "abacus"),
        ("small, 1 scale, fp32", cpu_isa()),
    ]
    assert found.rows[0].runs == [7.0, 6.0, 9.0]
    heads, first, second = quality.draw_table(found)
    assert heads == [
        "", *quality.SCORES, "GMAC", "windows a mm²", "ms, abacus", f"ms, {cpu_isa()}", "ms a mm², abacus",
        f"ms a mm², {cpu_isa()}",
    ]  # fmt: skip
    assert first[:2] == ["small, 1 scale, fp32", "12.50"]
    assert first[6] == "7.0"
    assert second[6:8] == ["7.0", ""]
    points = quality.find_points(found)
    assert points["abacus"][0] == ("small, 1 scale, fp32", 7 * found.settings[0].windows_per_mm2, 12.5)
    assert [name for name, *_ in points[cpu_isa()]] == ["small, 1 scale, fp32"]


def test_scores_of_one_split_are_not_those_of_another(bundle: Bundle, painted: Path, tmp_path: Path) -> None:
    report = tmp_path / "quality.json"
    quality_command(painted, [bundle.path], precision="fp32", json=report)
    quality_command(painted, [bundle.path], precision="fp32", split="train", json=report)
    of_tests, of_train = quality.read_known(report).settings
    assert (of_tests.split, of_train.split) == ("testA", "train")
    assert of_tests.scores != of_train.scores
    _, first, second = quality.draw_table(quality.read_known(report))
    assert [first[0], second[0]] == ["small, 1 scale, fp32, testA", "small, 1 scale, fp32, train"]


def test_figures_of_another_bundle_of_the_same_name_go(bundle: Bundle, painted: Path, tmp_path: Path) -> None:
    report = tmp_path / "quality.json"
    quality_command(painted, [bundle.path], precision="fp32,int8", json=report)
    held = json.loads(report.read_text())
    for each in (held["settings"][0], held["rows"][0]):
        each["sha256"] = "0" * 64
    held["rows"][0]["isa"] = "abacus"
    report.write_text(json.dumps(held))
    quality_command(painted, [bundle.path], precision="fp32", json=report)
    found = quality.read_known(report)
    assert [(each.name, each.sha256) for each in found.settings] == [
        ("small, 1 scale, int8", bundle.sha256), ("small, 1 scale, fp32", bundle.sha256),
    ]  # fmt: skip
    assert [(each.name, each.sha256) for each in found.rows] == [
        (f"small, 1 scale, int8, {cpu_isa()}", bundle.sha256), (f"small, 1 scale, fp32, {cpu_isa()}", bundle.sha256),
    ]  # fmt: skip


def test_what_cannot_be_measured_is_told(bundle: Bundle, painted: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none of the bundles has a graph in fp16"):
        quality_command(painted, [bundle.path], precision="fp16")


@pytest.mark.parametrize(
    "content", ["[]", "", '{"rows": [{"name": "MONAI", "unit": "s", "runs": [1.0]}], "machine": {}}']
)
def test_another_file_is_refused_before_anything_is_measured(
    bundle: Bundle, painted: Path, tmp_path: Path, content: str
) -> None:
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(UsageError, match=r"other\.json is no report of `bench quality` \(.+\): name another file"):
        quality_command(painted, [bundle.path], json=tmp_path / "other.json")
    assert (tmp_path / "other.json").read_text() == content
