"""The journal of a batch: what a killed process leaves in it, and what is no journal."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from plain_batch import make_slide, run_here

from glassrt.engine.errors import FolderTaken, OutputError
from glassrt.engine.production.journal import JOURNAL, Journal, Row, open_journal, read_ids, read_journals

ROWS = [
    Row("b", 0, "/s/b.svs", "waiting", input="1 2 3", work="w", columns={"label": "=1", "né": ""}),
    Row("a", 1, "/s/a.svs", "waiting"),
]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    opened = Journal(tmp_path / JOURNAL)
    opened.lay(ROWS)
    return opened


def states(journal: Journal) -> dict[str, tuple[str, int, str]]:
    return {row.id: (row.state, row.attempts, row.error) for row in journal.rows()}


def test_rows_come_back_as_they_were_laid(journal: Journal) -> None:
    assert journal.rows() == ROWS
    journal.lay([ROWS[1]._replace(place=2, address="/t/a.svs"), Row("c", 1, "s3://x/c.svs", "failed", 2, "broken")])
    assert [(row.id, row.address) for row in journal.rows()] == [
        ("b", "/s/b.svs"), ("c", "s3://x/c.svs"), ("a", "/t/a.svs")
    ]  # fmt: skip


def test_a_slide_is_tried_again_until_it_failed(journal: Journal, tmp_path: Path) -> None:
    journal.begin("a")
    assert states(journal)["a"] == ("running", 1, "")
    journal.fail("a", "its process crashed", "crashed", again=True)
    assert states(journal)["a"] == ("waiting", 1, "its process crashed")
    journal.begin("a")
    journal.fail("a", "broken", "crashed", again=False)
    journal.begin("b")
    journal.finish("b", {"total": 1.5}, 7)
    done = Journal(tmp_path / JOURNAL, read_only=True).rows()
    assert [(row.state, row.attempts, row.error, row.windows) for row in done] == [
        ("done", 1, "", 7), ("failed", 2, "broken", 0)
    ]  # fmt: skip
    assert done[0].seconds == {"total": 1.5}
    assert done[0].begun is not None
    assert done[0].ended is not None
    assert done[0].begun <= done[0].ended


def test_what_was_running_waits_again_and_the_attempt_does_not_count(journal: Journal) -> None:
    journal.begin("a")
    journal.fail("a", "lost", "crashed", again=True)
    journal.begin("a")
    journal.release()
    assert states(journal) == {"b": ("waiting", 0, ""), "a": ("waiting", 1, "")}


def test_no_other_file_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, but long enough to look like one" * 20)
    with pytest.raises(OutputError, match="text is no journal of GlassRT"):
        Journal(tmp_path / "text")
    with sqlite3.connect(tmp_path / "theirs") as theirs:
        theirs.execute("CREATE TABLE slides (name TEXT)")
    with pytest.raises(OutputError, match="was not written by this version"):
        Journal(tmp_path / "theirs")
    with pytest.raises(OutputError, match=r"none: cannot be (written|read)"):
        Journal(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()


KILLED = """
import sys
from collections.abc import Callable
from pathlib import Path
from glassrt.engine.production.journal import Journal
journal = Journal(Path(sys.argv[1]))
print("open", flush=True)
while True:
    for name in "ab":
        journal.begin(name)
        journal.finish(name, {"total": 1.0}, 1)
"""


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.01, 0.03])
def test_a_killed_writer_leaves_a_journal_that_is_whole(journal: Journal, tmp_path: Path, delay: float) -> None:
    path = tmp_path / JOURNAL
    with subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(delay)
        os.kill(process.pid, signal.SIGKILL)
    again = Journal(path)
    again.release()
    assert {row.state for row in again.rows()} <= {"waiting", "done"}
    assert not list(tmp_path.glob("*-wal"))


def test_one_slide_that_failed_leaves_its_line_in_the_summary_alone(tmp_path: Path) -> None:
    slides, out = [tmp_path / "=1+1.tif", make_slide(tmp_path / "b.tif")], tmp_path / "out"
    for _ in range(2):
        ended = run_here(slides[:1], out)
        assert [path.name for path in out.iterdir()] == ["summary.csv"]
        (row,) = read_journals(out)
        assert (row.id, row.address, row.state) == ("=1+1", str(slides[0]), "failed")
        assert row.error == f"{slides[0]} does not exist"
    assert ended.plan.failed == 1
    assert run_here(slides[:1], out, failed_alone=True).plan.failed == 1
    assert set(run_here(slides, out).outcomes) == {"=1+1", "b"}
    assert [(row.id, row.state, row.attempts) for row in read_journals(out)] == [
        ("=1+1", "failed", 2), ("b", "done", 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["", "id,slide\n", "id,slide,status,error\na,b,scored,\n", "id,slide,status,error\na,b,failed,\n" * 2, "\xff\0"],
)
def test_another_summary_is_no_batch_s(tmp_path: Path, text: str) -> None:
    (tmp_path / "summary.csv").write_text(text, encoding="latin-1")
    assert read_journals(tmp_path) == []
    with pytest.raises(FolderTaken, match=r"summary\.csv is there without a journal"):
        run_here([make_slide(tmp_path / "a.tif")], tmp_path)
    assert (tmp_path / "summary.csv").read_text(encoding="latin-1") == text


def refuse(out: Path, do: Callable[[Journal], None]) -> None:
    """What becomes of a batch that is refused after it did something with its journal."""
    with open_journal(out / JOURNAL) as journal:
        do(journal)
        raise FolderTaken


def test_a_journal_that_was_of_no_use_goes(tmp_path: Path) -> None:
    def try_one(journal: Journal) -> None:
        journal.lay(ROWS)
        journal.begin("a")
        journal.fail("a", "broken", "slide", again=True)

    with pytest.raises(FolderTaken):
        refuse(tmp_path, lambda journal: journal.lay(ROWS))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FolderTaken):
        refuse(tmp_path, try_one)
    assert read_ids(tmp_path) == {"/s/b.svs": "b", "/s/a.svs": "a"}
