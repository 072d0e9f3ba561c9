"""The command as users run it: real processes, exit codes, one line for what went wrong."""

import csv
import importlib.metadata
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile

from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE

GLASSRT = str(Path(sys.executable).with_name("glassrt"))
SMALL = 64 * 1024


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [GLASSRT, *map(str, arguments)], capture_output=True, text=True, timeout=300, **options
    )


def assert_one_line(done: subprocess.CompletedProcess[str], code: int, *says: str) -> None:
    assert done.returncode == code, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("glassrt: ")
    for text in says:
        assert text in lines[0]


@pytest.fixture(scope="module")
def big_slide(demo_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo slide's tissue 16 times: long enough to be stopped in the middle."""
    pixels = tifffile.imread(demo_slide)[900:2700, 100:1900]
    path = tmp_path_factory.mktemp("slides") / "big.tiff"
    tifffile.imwrite(path, np.tile(pixels, (4, 4, 1)), tile=(512, 512), photometric="rgb", compression="jpeg")
    return path


def test_scoring_prints_what_ran_and_where_the_results_lie(demo_slide: Path, tmp_path: Path) -> None:
    done = run("score", demo_slide, "--out", tmp_path / "out", "--backend", "openvino", "--scales", "1,0.75", "--flip")
    assert done.returncode == 0, done.stderr
    assert "openvino" in done.stdout
    assert str(tmp_path / "out" / demo_slide.stem) in done.stdout
    result = json.loads((tmp_path / "out" / demo_slide.stem / "result.json").read_text())
    assert result["backend"]["name"] == "openvino"
    assert result["bundle"]["scales"] == [1, 0.75]
    assert result["bundle"]["flips"] is True


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("score",), "Missing argument 'slides'; see glassrt score --help"),
        (("score", "a.svs", "--nope"), "No such option: --nope"),
        (("score", "a.svs", "--out"), "Option '--out' requires an argument"),
        (("score", "a.svs", "--out", "o", "--batch", "0"), "Invalid value for '--batch': .* see glassrt score --help"),
        (("scroe",), "No such command 'scroe'"),
        (
            ("bench", "latency", "--duration", "abc"),
            "Invalid value for '--duration': .*; see glassrt bench latency --help",
        ),
    ],
)
def test_a_mistyped_command_is_told_in_one_line(words: tuple[str, ...], says: str) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert re.match(f"glassrt: {says}", line)


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


def test_a_command_alone_prints_its_help() -> None:
    done = run()
    assert "Usage: glassrt" in done.stdout
    assert done.stderr == ""


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
    assert left <= {"summary.csv"}


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


@pytest.mark.parametrize(("place", "says"), [("file/out", "a file stands"), ("file", "a file stands")])
def test_a_folder_that_cannot_be_made_is_named(demo_slide: Path, tmp_path: Path, place: str, says: str) -> None:
    (tmp_path / "file").write_text("in the way")
    assert_one_line(run("score", demo_slide, "--out", tmp_path / place), 2, says, str(tmp_path / place))


def test_a_folder_without_permission_is_named(demo_slide: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        locked = Path("/proc/1")  # where even root cannot make files
    else:
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o555)
    assert_one_line(run("score", demo_slide, "--out", locked / "out"), 2, str(locked))


def test_a_file_size_limit_ends_in_one_line_with_nothing_half_written(demo_slide: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, SMALL))

    done = run("score", demo_slide, "--out", tmp_path / "out", preexec_fn=limit)
    assert_one_line(done, 2, "no space left", str(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_ends_in_one_line_with_nothing_half_written(demo_slide: Path, tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        done = run("score", demo_slide, "--out", tmp_path / "out")
        assert_one_line(done, 2, "no space left", str(tmp_path / "out"))
        assert list((tmp_path / "out").iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_killed_run_leaves_no_result_and_the_next_one_cleans_up(big_slide: Path, tmp_path: Path) -> None:
    command = [GLASSRT, "score", str(big_slide), "--mpp", "0.499", "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".glassrt-*/map.raw")):
            assert process.poll() is None, "the run ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / big_slide.stem).exists()
    assert list(tmp_path.glob(".glassrt-*"))
    done = run("score", tmp_path / "none.svs", "--out", tmp_path)
    assert done.returncode == 3
    assert [path.name for path in tmp_path.iterdir()] == ["summary.csv"]


def test_an_interrupted_run_leaves_nothing(big_slide: Path, tmp_path: Path) -> None:
    command = [GLASSRT, "score", str(big_slide), "--mpp", "0.499", "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not list(tmp_path.glob(".glassrt-*/map.raw")):
            assert process.poll() is None, "the run ended before it was interrupted"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_a_name_in_brackets_is_shown_as_it_is(tmp_path: Path) -> None:
    """`[/b]` would close a style that nothing opened."""
    place = tmp_path / "x[bold]y[" / "b].png"
    place.parent.mkdir()
    place.write_bytes(b"no image")
    odd = tmp_path / "case [red]7[ red].png"
    tifffile.imwrite(tmp_path / "pixels.tif", np.full((400, 400, 3), 240, np.uint8))
    shutil.move(tmp_path / "pixels.tif", odd.with_suffix(".tif"))
    done = run("score", place, odd.with_suffix(".tif"), "--out", tmp_path / "out", "--mpp", 0.62)
    assert done.returncode == 3, done.stderr
    assert "case [red]7[ red].tif" in " ".join(done.stdout.split())
    assert done.stderr.strip().count("\n") == 0


@pytest.mark.parametrize(
    ("name", "says"),
    [(b"summary.csv.png", "would stand where summary.csv belongs"), (b"caf\xe9.png", "the name is no valid UTF-8")],
)
def test_a_name_that_results_cannot_have_is_refused_before_any_work(tmp_path: Path, name: bytes, says: str) -> None:
    slide = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    slide.write_bytes(b"")
    done = run("score", slide, "--out", tmp_path / "out")
    assert_one_line(done, 2, says)
    assert not (tmp_path / "out").exists()


def rename_class(folder: Path, name: str) -> Path:
    """The default bundle with another name for glands."""
    bundle = Path(shutil.copytree(DEFAULT_BUNDLE, folder / "renamed.glass"))
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


def test_a_name_cannot_steer_the_terminal(tmp_path: Path) -> None:
    slide = tmp_path / "a\x1b[2J\rb\nc.png"
    done = run("score", slide, "--out", tmp_path / "out")
    assert_one_line(done, 3, r"a\x1b[2J\rb\nc.png does not exist")
    assert not set(done.stdout + done.stderr) & {"\x1b", "\r"}


def test_the_version_is_told() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"glassrt {importlib.metadata.version('glassrt')}\n", "")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("glassrt ", ["score", "plan", "info", "export", "verify", "train", "bench"]),
        ("glassrt ver", ["verify"]),
        ("glassrt score --map", ["--map-mpp"]),
        ("glassrt bench la", ["latency"]),
        ("glassrt --ver", ["--version"]),
    ],
)
def test_the_shell_completes_commands_and_options(words: str, offered: list[str]) -> None:
    """As bash asks: every room's commands are there."""
    asked = {"_GLASSRT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    done = run(env={**os.environ, **asked})
    assert (done.returncode, done.stderr) == (0, "")
    assert set(offered) <= set(done.stdout.split())


def test_completion_is_installed_where_the_shell_finds_it(tmp_path: Path) -> None:
    """The shell is the process that calls, so a real one calls; it then completes by what was written."""
    (tmp_path / ".bashrc").write_text("mine=kept\n")
    environment = {"HOME": str(tmp_path), "PATH": f"{Path(GLASSRT).parent}:{os.environ['PATH']}"}
    environment |= {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "TERM": "dumb"}
    commands = """
        glassrt --show-completion || exit 1
        glassrt --install-completion || exit 2
        . ~/.bashrc
        COMP_WORDS=(glassrt inf) COMP_CWORD=1
        _glassrt_completion glassrt
        echo "$mine offered: ${COMPREPLY[*]}"
    """
    done = subprocess.run(["bash", "-c", commands], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "complete -o default -F _glassrt_completion glassrt" in done.stdout
    assert done.stdout.endswith("kept offered: info\n")


def test_info_describes_slides_and_bundles(demo_slide: Path) -> None:
    slide, bundle = run("info", demo_slide), run("info", DEFAULT_BUNDLE)
    assert slide.returncode == bundle.returncode == 0
    assert "2220 x 2967 px" in slide.stdout
    assert "0.499" in slide.stdout
    assert "sha256 matches" in bundle.stdout


def test_info_of_nothing_is_one_line(tmp_path: Path) -> None:
    assert_one_line(run("info", tmp_path / "none.svs"), 2, "does not exist")
