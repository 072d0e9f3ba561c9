"""Batches with worker processes, as users run them, where something ends them in the middle."""

import csv
import json
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command_line import GLASSRT, assert_one_line, run
from plain_batch import make_slide

SMALL = 60_000  # bytes that a file may have: less than a map of the demo slide


def no_room() -> None:
    """For `preexec_fn`: a file that grows beyond a size is refused, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, SMALL))


def states(out: Path) -> dict[str, str]:
    told = json.loads(run("status", out, "--json").stdout)
    return {slide["id"]: slide["state"] for slide in told["slides"]}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_disk_that_fills_up_ends_the_batch_and_the_same_command_goes_on(
    demo_slide: Path, tmp_path: Path, workers: int
) -> None:
    slides = [make_slide(tmp_path / "a.tif"), demo_slide, make_slide(tmp_path / "b.tif")]
    command = ("score", *slides, "--out", tmp_path / "out", "--backend", "ort", "--workers", workers)
    done = run(*command, preexec_fn=no_room)
    assert_one_line(done, 2, "no space left to write it; free some or choose another --out")
    found = states(tmp_path / "out")
    assert found[demo_slide.stem] == "waiting"
    assert "failed" not in found.values()
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left <= {".glassrt-batch", "journal.sqlite", "summary.csv", "a", "b"}
    again = run(*command)
    assert again.returncode == 0, again.stderr
    assert set(states(tmp_path / "out").values()) == {"done"}


@pytest.mark.slow
def test_a_batch_that_was_killed_goes_on_and_scores_nothing_twice(demo_slide: Path, tmp_path: Path) -> None:
    slides = [make_slide(tmp_path / f"{name}.tif") for name in "abc"]
    log, out = tmp_path / "log.jsonl", tmp_path / "out"
    command = [GLASSRT, "score", *slides, demo_slide, "--out", out, "--backend", "ort", "--log-json", log]
    with subprocess.Popen([str(each) for each in command], stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 60
        while not log.exists() or '"event": "done"' not in log.read_text():
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert run("status", out).returncode == 4
    done = run(*command[1:])
    assert done.returncode == 0, done.stderr
    assert "done before" in done.stdout
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    for number, line in enumerate(lines):
        if line["event"] == "done":
            assert line["id"] not in [each.get("id") for each in lines[number + 1 :] if each["event"] == "begun"]
    assert set(states(out).values()) == {"done"}


@pytest.mark.slow
def test_a_manifest_gives_ids_and_columns_to_the_summary(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        make_slide(tmp_path / folder / "slide.tif")
    rows = ["path,id,label,note", "x/slide.tif,case 1,malign,=1+1", "y/slide.tif,,benign,ok", "z.tif,gone,,"]
    (tmp_path / "slides.csv").write_text("\n".join(rows) + "\n")
    done = run("score", "--manifest", tmp_path / "slides.csv", "--out", tmp_path / "out", "--backend", "ort")
    assert_one_line(done, 3, f"{tmp_path / 'z.tif'} does not exist")
    with open(tmp_path / "out" / "summary.csv", newline="", encoding="utf-8") as file:
        told = [(row["id"], row["status"], row["label"], row["note"]) for row in csv.DictReader(file)]
    assert told == [
        ("case 1", "no tissue", "malign", "'=1+1"), ("slide", "no tissue", "benign", "ok"), ("gone", "failed", "", ""),
    ]  # fmt: skip
    assert (tmp_path / "out" / "case 1" / "result.json").exists()
    assert (tmp_path / "out" / "report.html").exists()
