"""`glassrt score` as users run it: real processes, exit codes, one line for what went wrong."""

import csv
import json
import os
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from command_line import assert_one_line, obey_permissions, run
from plain_batch import BESIDE
from plain_network import PSPNET

from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE
from glassrt.engine.results.summary import SUMMARY


def test_scoring_prints_what_ran_and_where_the_results_lie(demo_slide: Path, tmp_path: Path) -> None:
    done = run("score", demo_slide, "--out", tmp_path / "out", "--backend", "openvino", "--scales", "1,0.75", "--flip")
    assert done.returncode == 0, done.stderr
    assert "openvino" in done.stdout
    assert str(tmp_path / "out" / demo_slide.stem) in done.stdout
    result = json.loads((tmp_path / "out" / demo_slide.stem / "result.json").read_text())
    assert result["backend"]["name"] == "openvino"
    assert result["bundle"]["scales"] == [1, 0.75]
    assert result["bundle"]["flips"] is True


def test_a_foreign_stain_is_warned_of_in_terminal_summary_and_result(demo_slide: Path, tmp_path: Path) -> None:
    brown = (tifffile.imread(demo_slide)[..., ::-1] * (1.0, 0.9, 0.8)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "brown.tif", brown, photometric="rgb")
    done = run("score", tmp_path / "brown.tif", "--mpp", 0.499, "--out", tmp_path / "out", "--tissue", "all")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"glassrt: warning: {tmp_path / 'brown.tif'}: not stained like the example in glas-glands")
    warning = line.split("brown.tif: ")[1]
    assert json.loads((tmp_path / "out" / "brown" / "result.json").read_text())["warnings"] == [warning]
    (row,) = csv.DictReader((tmp_path / "out" / "summary.csv").read_text().splitlines())
    assert row["warnings"] == warning


@pytest.mark.parametrize(
    ("slide", "options", "code", "says"),
    [
        ("slides/none.svs", (), 3, "does not exist"),
        ("slides/broken.svs", (), 3, "not a slide"),
        ("slides/tissue/no-tissue.png", (), 3, "--mpp"),
        ("slides/CMU-1-Small-Region.jpeg.tiff", (), 3, "no scan has"),
        ("slides/CMU-1-Small-Region.svs", ("--mpp", "0.0001"), 2, "--mpp 0.0001"),
        ("slides/CMU-1-Small-Region.svs", ("--backend", "tpu"), 2, "choose auto, ort, openvino"),
        ("slides/CMU-1-Small-Region.svs", ("--bundle", "none.glass"), 2, "none.glass is no bundle"),
        ("slides/CMU-1-Small-Region.svs", ("--scales", "1,a"), 2, "--scales 1,a"),
        ("slides/CMU-1-Small-Region.svs", ("--map-mpp", "0.01"), 2, "--map-mpp 0.01"),
        ("slides/CMU-1-Small-Region.svs", ("--tissue", "none.png"), 2, "--tissue none.png"),
        ("slides/CMU-1-Small-Region.svs", ("--tissue", __file__), 3, "ends in one of .png"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_no_result(
    data: Path, tmp_path: Path, slide: str, options: tuple[str, ...], code: int, says: str
) -> None:
    done = run("score", data / slide, "--out", tmp_path / "out", *options)
    assert_one_line(done, code, says)
    left = {path.name for path in tmp_path.rglob("*")} - {"out"}
    assert left <= BESIDE
    assert (SUMMARY in left) == (code == 3)


def test_a_slide_that_may_not_be_read_does_not_stop_the_rest(demo_slide: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed.svs"
    closed.touch(mode=0)
    done = run("score", closed, demo_slide, "--out", tmp_path / "out", preexec_fn=obey_permissions)
    assert_one_line(done, 3, str(closed), "no permission to read it")
    assert (tmp_path / "out" / demo_slide.stem / "result.json").exists()


def test_an_altered_bundle_is_refused(demo_slide: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(DEFAULT_BUNDLE, tmp_path / "altered.glass"))
    (graph,) = bundle.glob("fp32.onnx")
    with open(graph, "r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(b"0123456789")
    assert_one_line(
        run("score", demo_slide, "--out", tmp_path / "out", "--bundle", bundle, "--precision", "fp32"),
        2,
        "sha256",
        graph.name,
    )
    assert not (tmp_path / "out").exists()


def test_a_name_in_brackets_is_shown_as_it_is(tmp_path: Path) -> None:
    """`[/b]` would close a style that nothing opened."""
    place = tmp_path / "x[bold]y[" / "b].png"
    place.parent.mkdir()
    place.write_bytes(b"no image")
    odd = tmp_path / "case [red]7[ red].png"
    tifffile.imwrite(tmp_path / "pixels.tif", np.full((400, 400, 3), 240, np.uint8))
    shutil.move(tmp_path / "pixels.tif", odd.with_suffix(".tif"))
    wide = {**os.environ, "COLUMNS": "200"}  # so that no name is broken
    done = run("score", place, odd.with_suffix(".tif"), "--out", tmp_path / "out", "--mpp", 0.62, env=wide)
    assert done.returncode == 3, done.stderr
    assert "case [red]7[ red].tif" in done.stdout
    assert done.stderr.strip().count("\n") == 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (b"summary.csv.png", "the name is that of a file which belongs there"),
        (b"caf\xe9.png", "the name is no valid UTF-8"),
    ],
)
def test_a_name_that_results_cannot_have_is_refused_before_any_work(tmp_path: Path, name: bytes, says: str) -> None:
    slide = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    slide.write_bytes(b"")
    done = run("score", slide, "--out", tmp_path / "out")
    assert_one_line(done, 2, says)
    assert not (tmp_path / "out").exists()


def rename_class(folder: Path, name: str) -> Path:
    """A bundle with another name for glands."""
    bundle = Path(shutil.copytree(PSPNET, folder / "renamed.glass"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["classes"][1]["name"] = name
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


@pytest.mark.parametrize("name", ["[/red]", "[bold]end\\", ":warning:", "=1+1", '<a&"b, 腺体'])
def test_any_name_of_a_class_goes_through_to_every_output(demo_slide: Path, tmp_path: Path, name: str) -> None:
    bundle, out = rename_class(tmp_path, name), tmp_path / "out"
    wide = {**os.environ, "COLUMNS": "200"}  # so that no heading is broken
    done = run("score", demo_slide, "--bundle", bundle, "--out", out, "--scales", "0.5", env=wide)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{name} mm²" in done.stdout
    folder = out / demo_slide.stem
    with open(out / "summary.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    column = f"'{name}_mm2" if name.startswith("=") else f"{name}_mm2"
    area = json.loads((folder / "result.json").read_text())["classes"][name]["area_mm2"]
    assert float(row[column]) == pytest.approx(area, rel=1e-4)
    features = json.loads((folder / "regions.geojson").read_text())["features"]
    assert {feature["properties"]["classification"]["name"] for feature in features} == {name}
    with tifffile.TiffFile(folder / "map.ome.tif") as file:
        channels = [
            part.get("Name") for part in ElementTree.fromstring(file.ome_metadata).iter() if "Name" in part.keys()
        ]
    assert f"p({name})" in channels
    described = run("info", bundle)
    assert described.returncode == 0
    assert f"other, {name} " in described.stdout


def test_a_terminal_of_other_letters_does_not_end_a_finished_run(demo_slide: Path, tmp_path: Path) -> None:
    slide = tmp_path / "组织.svs"
    slide.symlink_to(demo_slide)
    done = run("score", slide, "--out", tmp_path / "out", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\u7ec4\u7ec7/  overlay.png" in done.stdout


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("a\x1b[2J\rb\nc.png", 3, r"a\x1b[2J\rb\nc.png does not exist"),
        ("a\x1b[2J\rb\nc/none.png", 3, r"a\x1b[2J\rb\nc/none.png does not exist"),
    ],
)
def test_a_name_cannot_steer_the_terminal(tmp_path: Path, name: str, code: int, says: str) -> None:
    done = run("score", tmp_path / name, "--out", tmp_path / "out")
    assert_one_line(done, code, says)
    assert not set(done.stdout + done.stderr) & {"\x1b", "\r"}


def test_an_output_folder_cannot_steer_the_terminal(tmp_path: Path) -> None:
    out = tmp_path / "a\x1b[2J\rb"
    done = run("score", tmp_path / "none.png", "--out", out)
    assert_one_line(done, 3, "none.png does not exist")
    assert not set(done.stdout + done.stderr) & {"\x1b", "\r"}
    assert r"a\x1b[2J\rb/summary.csv" in done.stdout
    assert (out / SUMMARY).exists()
