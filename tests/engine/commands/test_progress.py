"""How far long work is: lines where no terminal is, bars on one, both on standard error."""

import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from command_line import GLASSRT
from rich.console import Console

from glassrt.engine.commands import progress
from glassrt.engine.commands.progress import Lines, show_progress, show_status, show_time
from glassrt.training.commands.options import CONFIGS, bars
from glassrt.training.config import as_toml, load_config
from glassrt.training.methods.segment import SegmentConfig

IMPATIENT = """
from glassrt.engine.commands import progress
progress.LINES_EVERY_S = 0.0
from glassrt.engine.commands.main import main
main()
"""
CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
STEERING = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")
WINDOWS = re.compile(
    r"(?:\[(?P<slide>\d+)/\d+\] )?(?P<name>.+): (?P<done>\d+) of (?P<total>\d+) windows"
    r"(?:, [\d.]+ windows/s, \d+:\d\d left|, took \d+:\d\d)?"
)
STEPS = re.compile(
    r"segment: (\d+) of 6 steps(?:, [\d.]+ steps/s, \d+:\d\d left|, took \d+:\d\d)?, loss \d+\.\d{3}",
)


class Watch:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr(progress, "time", watch)
    return watch


@pytest.fixture(scope="module")
def short_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration of six small steps."""
    config = load_config(CONFIGS / "segment.toml", SegmentConfig)
    path = tmp_path_factory.mktemp("config") / "short.toml"
    path.write_text(as_toml(msgspec.structs.replace(config, crop=64, window=64, batch=2, steps=6, warmup_steps=2)))
    return path


def log(folder: Path, start: Sequence[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    """Standard output and error of a command that writes both to files."""
    folder.mkdir(exist_ok=True)
    with open(folder / "out.txt", "wb") as out, open(folder / "err.txt", "wb") as err:
        done = subprocess.run([*start, *map(str, arguments)], stdout=out, stderr=err, timeout=300)
    told = (folder / "err.txt").read_text(encoding="utf-8")
    assert done.returncode == code, told
    return (folder / "out.txt").read_text(encoding="utf-8"), told


def impatient(folder: Path, *arguments: object, code: int = 0) -> tuple[str, str]:
    """The same with a line on every progress."""
    return log(folder, [sys.executable, "-c", IMPATIENT], *arguments, code=code)


def on_terminal(*arguments: object, out: Path | None = None) -> str:
    """What a command shows on a terminal, on which its standard output is too unless it goes to `out`."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with open(out or os.devnull, "wb") as file:
        process = subprocess.Popen(
            [GLASSRT, *map(str, arguments)],
            stdin=theirs,
            stdout=file if out else theirs,
            stderr=theirs,
            env=environment,
        )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux says so that the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0, shown
    return shown.decode()


def test_a_batch_tells_its_log_which_slide_and_how_many_windows_of_it(
    demo_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as many a continuous integration sets it
    odd = Path(shutil.copy(demo_slide, tmp_path / "b [red]\x1b[2J\r.svs"))
    out, told = impatient(tmp_path / "log", "score", demo_slide, odd, "--out", tmp_path / "out", "--workers", 0)
    assert "windows/s" not in out
    assert not CONTROLS.search(told)
    lines = told.splitlines()
    seen = [WINDOWS.fullmatch(line) for line in lines]
    assert all(seen), lines
    for number, name in ((1, demo_slide.name), (2, r"b [red]\x1b[2J\r.svs")):
        mine = [each for each in seen if each and each["slide"] == str(number)]
        assert {each["name"] for each in mine} == {name}
        counts = [int(each["done"]) for each in mine]
        assert counts == sorted(counts)
        assert len(set(counts)) > 1
        assert {int(each["total"]) for each in mine} == {counts[-1]}
    assert any("windows/s" in line and line.endswith(" left") for line in lines)


def test_one_slide_has_no_number_and_a_failure_stays_one_line(tmp_path: Path) -> None:
    words = ("score", tmp_path / "none.svs", "--out", tmp_path / "out", "--attempts", 1)
    _, told = impatient(tmp_path / "log", *words, code=3)
    assert told.splitlines() == ["none.svs: took 0:00", f"glassrt: {tmp_path / 'none.svs'} does not exist"]


def test_a_short_run_writes_no_line(demo_slide: Path, tmp_path: Path) -> None:
    out, told = log(tmp_path / "log", [GLASSRT], "score", demo_slide, "--out", tmp_path / "out")
    assert told == ""
    assert out.splitlines()[0].startswith("glas-glands in ")
    assert out.splitlines()[-1].endswith("result.json")
    assert "━" not in out


def test_training_tells_its_log_steps_and_loss(painted: Path, short_config: Path, tmp_path: Path) -> None:
    words = ("train", "segment", "--data", painted, "--config", short_config, "--out")
    out, told = impatient(tmp_path / "log", *words, tmp_path / "run")
    assert "export it with" in out
    assert len(out.splitlines()) == 1
    assert not CONTROLS.search(told)
    steps = [STEPS.fullmatch(line) for line in told.splitlines()]
    assert [int(step[1]) for step in steps if step] == [1, 2, 3, 4, 5, 6, 6], told
    assert log(tmp_path / "log", [GLASSRT], *words, tmp_path / "again")[1] == ""


def test_a_resumed_run_counts_its_rate_from_where_it_began(clock: Watch, capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("steps") as shown:
        advance = shown.start("segment", 2000)
        clock.now += 5
        advance(1501, 2000)
        clock.now += 50
        advance(1601, 2000, "loss 0.412")
        assert capsys.readouterr().err == "segment: 1601 of 2000 steps, 2 steps/s, 3:20 left, loss 0.412\n"


def test_evaluating_keeps_its_scores_apart_from_its_progress(painted: Path, tmp_path: Path) -> None:
    out, told = impatient(tmp_path / "log", "evaluate", "--data", painted)
    assert re.match(r"glas testA: 1 of 2 images\nglas testA: 2 of 2 images, ", told)
    assert "images/s" not in out
    assert "mIoU" in out


def test_benchmarks_tell_what_they_measure(demo_slide: Path, tmp_path: Path) -> None:
    _, told = impatient(tmp_path / "log", "bench", "reading", demo_slide, "--rounds", 1)
    lines = told.splitlines()
    assert lines[0].startswith("bench reading: warming up: ")
    assert lines[-1].startswith("bench reading: round 1 of 1: ")
    assert not CONTROLS.search(told)


def test_lines_keep_their_distance_and_tell_of_long_stages(clock: Watch, capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("windows", batch=True) as shown:
        for name, seconds in (("a\n.svs", 29), ("b.svs", 10), ("c.svs", 90)):
            advance = shown.start(name)
            for done in range(1, seconds + 1):
                clock.now += 1
                advance(done, seconds)
    assert capsys.readouterr().err.splitlines() == [
        "b.svs: 1 of 10 windows",
        "c.svs: 21 of 90 windows, 1 windows/s, 1:09 left",
        "c.svs: 51 of 90 windows, 1 windows/s, 0:39 left",
        "c.svs: 81 of 90 windows, 1 windows/s, 0:09 left",
        "c.svs: 90 of 90 windows, took 1:30",
    ]


def test_what_fails_is_told_by_others_alone(clock: Watch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with show_progress("steps") as shown:
            shown.start("segment")(1, 9)
            clock.now += 1000
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fail()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("leads", "told"), [(True, ["segment: 10 of 2000 steps, loss 0.500"]), (False, [])])
def test_one_process_of_several_speaks(
    clock: Watch, capsys: pytest.CaptureFixture[str], leads: bool, told: list[str]
) -> None:
    with bars(leads) as stage:
        update = stage("segment", 2000)
        clock.now += 31
        update(9, 0.5)
        assert capsys.readouterr().err.splitlines() == told
        clock.now += 1000
    assert bool(capsys.readouterr().err) is leads


def test_a_status_is_told_when_it_changes(clock: Watch, capsys: pytest.CaptureFixture[str]) -> None:
    with show_status("verify", "verifying") as tell:
        for name in ("fp32 through ort", "int8 through ort", "int8 through\x1b openvino"):
            tell(name)
            clock.now += 20
    assert capsys.readouterr().err == "verify: int8 through\\x1b openvino\n"


def test_a_log_that_cannot_be_written_does_not_end_the_work() -> None:
    with open("/dev/full", "w") as full, Lines(Console(file=full), "windows", 0.0) as lines:
        lines.start("a.svs")(1, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # or closing it fails


@pytest.mark.parametrize("apart", [False, True])
def test_a_terminal_shows_bars(demo_slide: Path, tmp_path: Path, apart: bool) -> None:
    out = tmp_path / "out.txt"
    shown = on_terminal("score", demo_slide, "--out", tmp_path / "out", out=out if apart else None)
    assert re.search(
        rf"{re.escape(demo_slide.name)} ━{{40}} (\d+)/\1 \d+ windows/s \d+:\d\d:\d\d", STEERING.sub("", shown)
    )
    if apart:
        assert "\x1b" not in out.read_text()
        assert "Results: " in out.read_text()
        assert "Results: " not in shown
    else:
        assert "Results: " in shown


def test_training_on_a_terminal_shows_a_bar_with_the_loss(painted: Path, short_config: Path, tmp_path: Path) -> None:
    shown = on_terminal("train", "segment", "--data", painted, "--config", short_config, "--out", tmp_path / "run")
    assert re.search(r"segment ━{40} 6/6 \d+:\d\d:\d\d loss \d\.\d{3}", STEERING.sub("", shown))
    assert "export it with" in shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.2, "0:00"), (49, "0:49"), (404, "6:44"), (3599.6, "1:00:00"), (445_445, "123:44:05")]
)
def test_times_are_short(seconds: float, shown: str) -> None:
    assert show_time(seconds) == shown
