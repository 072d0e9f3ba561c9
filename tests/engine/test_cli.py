"""The command as users run it: real processes, exit codes, one line for what went wrong."""

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

import numpy as np
import pytest
import tifffile

from glassrt.engine.bundle import DEFAULT_BUNDLE

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


def test_info_describes_slides_and_bundles(demo_slide: Path) -> None:
    slide, bundle = run("info", demo_slide), run("info", DEFAULT_BUNDLE)
    assert slide.returncode == bundle.returncode == 0
    assert "2220 x 2967 px" in slide.stdout
    assert "0.499" in slide.stdout
    assert "sha256 matches" in bundle.stdout


def test_info_of_nothing_is_one_line(tmp_path: Path) -> None:
    assert_one_line(run("info", tmp_path / "none.svs"), 2, "does not exist")
