"""The command line itself: help, version, completion, one line for what was mistyped."""

import importlib.metadata
import os
import re
import subprocess
from pathlib import Path

import pytest
from command_line import GLASSRT, assert_one_line, obey_permissions, run

from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("score",), "Missing option '--out'; see glassrt score --help"),
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


@pytest.mark.parametrize(
    "words",
    [
        ("info", "CLOSED/slide.svs"),
        ("score", "SLIDE", "--out", "OUT", "--tissue", "CLOSED/mask.png"),
        ("score", "SLIDE", "--out", "CLOSED/out"),
        ("train", "segment", "--data", "CLOSED/data", "--out", "OUT"),
        ("evaluate", "--data", "CLOSED/data"),
        ("verify", DEFAULT_BUNDLE, "--tiles", "CLOSED/tiles"),
    ],
    ids=lambda words: " ".join(map(str, words[:2])),
)
def test_what_lies_in_a_closed_folder_is_told_in_one_line(
    demo_slide: Path, tmp_path: Path, words: tuple[object, ...]
) -> None:
    places = {"CLOSED": tmp_path / "closed", "SLIDE": demo_slide, "OUT": tmp_path / "out"}
    (tmp_path / "closed").mkdir(mode=0)
    named = [Path(places.get(Path(word).parts[0], Path(word).parts[0]), *Path(word).parts[1:]) for word in words]
    done = run(*named, preexec_fn=obey_permissions)
    assert_one_line(done, 2, str(tmp_path / "closed"), "ermission")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_behind_the_output_is_told_in_one_line(demo_slide: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [GLASSRT, "info", demo_slide], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert_one_line(done, 2, "no space left")
