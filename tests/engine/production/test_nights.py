"""What goes wrong in the middle of a night: kills within a commit, bundles that change, rows that cannot be scored."""

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from plain_batch import SETUP, Unseen, make_slide, run_here
from plain_network import PSPNET

from glassrt.engine.bundles.bundle import open_bundle
from glassrt.engine.errors import OutputError, UsageError
from glassrt.engine.production.batch import Batch, Options
from glassrt.engine.production.entries import list_entries
from glassrt.engine.production.here import Here
from glassrt.engine.production.identity import identify_input
from glassrt.engine.production.journal import JOURNAL, Row, read_journals
from glassrt.engine.production.plan import plan_batch
from glassrt.engine.production.wire import Order

KILLED = """
import os, signal, sqlite3, sys
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.execute("PRAGMA cache_size = 1")
file.execute("PRAGMA cache_spill = 1")
file.execute("BEGIN IMMEDIATE")
for number in range(2000):
    row = (f"n{number}", 1, "x", "done", 1, "", "", "", "", None, None, "{}", 0, "{}")
    file.execute(f"INSERT INTO slides VALUES ({', '.join('?' * len(row))})", row)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_journal_whose_writer_was_killed_in_a_commit_is_read(tmp_path: Path) -> None:
    run_here([make_slide(tmp_path / "a.tif")], tmp_path / "out")
    journal = tmp_path / "out" / JOURNAL
    subprocess.run([sys.executable, "-c", KILLED, journal], check=False)
    assert journal.with_name(f"{JOURNAL}-journal").exists()
    with pytest.raises(sqlite3.OperationalError):
        sqlite3.connect(f"{journal.as_uri()}?mode=ro", uri=True).execute("SELECT count(*) FROM slides").fetchone()
    assert [row.id for row in read_journals(tmp_path / "out")] == ["a"]
    assert run_here([tmp_path / "a.tif"], tmp_path / "out").plan.done == 1


def test_a_bundle_that_changes_while_a_batch_runs_ends_it(tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(PSPNET, tmp_path / "b.glass"))

    class Changes(Unseen):
        def begin(self, order: Order) -> None:
            told = json.loads((bundle / "manifest.json").read_text())
            told["classes"][1]["name"] = "tumour"
            (bundle / "manifest.json").write_text(json.dumps(told))

    with pytest.raises(OutputError, match="is another one than when the batch began"):
        run_here([make_slide(tmp_path / "a.tif")], tmp_path / "out", Changes(), bundle=bundle)
    assert not (tmp_path / "out" / "a").exists()


def test_a_slide_with_a_bundle_of_its_own_is_scored_with_that_one_s_views(tmp_path: Path) -> None:
    own = Path(shutil.copytree(PSPNET, tmp_path / "own.glass"))
    told = json.loads((own / "manifest.json").read_text())
    told["scales"], told["flips"] = [0.5], True
    (own / "manifest.json").write_text(json.dumps(told))
    make_slide(tmp_path / "a.tif")
    make_slide(tmp_path / "b.tif")
    (tmp_path / "slides.csv").write_text("path,bundle\na.tif,\nb.tif,own.glass\n")
    entries = list_entries([], tmp_path / "slides.csv", (), {})
    batch = Batch(entries, tmp_path / "out", Options(PSPNET, SETUP, "ort", "fp32"))
    batch.run(lambda: Here(SETUP, lambda told: None), Unseen(), lambda plan: None)
    views = {}
    for name in "ab":
        found = json.loads((tmp_path / "out" / name / "result.json").read_text())["bundle"]
        views[name] = found["scales"], found["flips"]
    default = open_bundle(PSPNET).manifest.views
    assert views == {"a": (list(default[0]), default[1]), "b": ([0.5], True)}


def test_files_that_belong_to_a_slide_are_part_of_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a.mrxs").write_bytes(b"")
    (tmp_path / "a" / "Data0.dat").write_bytes(b"one")
    before = identify_input(str(tmp_path / "a.mrxs"))
    (tmp_path / "a" / "Data0.dat").write_bytes(b"other")
    assert before
    assert identify_input(str(tmp_path / "a.mrxs")) != before


def test_ids_are_never_two_slides(tmp_path: Path) -> None:
    places = [str(make_slide(tmp_path / "in" / f"case-{number}" / "slide.tif")) for number in range(20)]
    entries = list_entries(places, None, (), {})
    assert len({entry.id for entry in entries}) == 20
    (tmp_path / "twice.csv").write_text(f"path,label\n{places[0]},1\n{places[0]},2\n")
    with pytest.raises(UsageError, match=r"is in line 2 and in line 3: name it once, or give each an id"):
        list_entries([], tmp_path / "twice.csv", (), {})
    (tmp_path / "once.csv").write_text(f"path,label\n{places[0]},1\n")
    with pytest.raises(UsageError, match="is in the command and in line 2"):
        list_entries(places[:1], tmp_path / "once.csv", (), {})
    (tmp_path / "given.csv").write_text(f"path,id\n{places[0]},taken\n{places[1]},\n")
    entries = list_entries([], tmp_path / "given.csv", (), {places[1]: "taken"})
    assert [entry.id for entry in entries] == ["taken", "slide"]


def test_digits_are_as_many_as_tell_slides_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("glassrt.engine.production.entries.DIGITS", 1)
    places = [str(make_slide(tmp_path / f"case-{number}" / "slide.tif")) for number in range(40)]
    assert len({entry.id for entry in list_entries(places, None, (), {})}) == 40


def test_what_failed_is_still_known_after_a_stop(tmp_path: Path) -> None:
    """A batch of failed slides alone that is stopped goes on with them."""
    (entry,) = list_entries([str(make_slide(tmp_path / "a.tif"))], None, (), {})
    failed = Row("a", 0, entry.place, "failed", 2, error="broken", reason="slide", input="i", work="w")
    told = {"inputs": {"a": "i"}, "works": {"a": "w"}, "standing": frozenset[str](), "failed_alone": True}
    first = plan_batch([entry], known={"a": failed}, **told)  # type: ignore[arg-type]
    (waiting,) = first.rows
    assert (first.failed, waiting.state, waiting.error) == (1, "waiting", "")
    second = plan_batch([entry], known={"a": waiting}, **told)  # type: ignore[arg-type]
    assert (second.failed, len(second.rows)) == (1, 1)


def test_a_row_that_cannot_be_scored_with_what_it_asks_fails_alone(tmp_path: Path) -> None:
    for name in "ab":
        make_slide(tmp_path / f"{name}.tif")
    own = Path(shutil.copytree(PSPNET, tmp_path / "own.glass"))
    told = json.loads((own / "manifest.json").read_text())
    told["mpp"] *= 2
    (own / "manifest.json").write_text(json.dumps(told))
    (tmp_path / "slides.csv").write_text("path,bundle\na.tif,own.glass\nb.tif,\n")
    entries = list_entries([], tmp_path / "slides.csv", (), {})
    options = Options(PSPNET, SETUP, "ort", "fp32", map_mpp=1.0, attempts=1)
    batch = Batch(entries, tmp_path / "out", options)
    ended = batch.run(lambda: Here(SETUP, lambda told: None), Unseen(), lambda plan: None)
    assert ended.finished
    told = {row.id: (row.state, row.reason) for row in ended.rows}
    assert told == {"a": ("failed", "options"), "b": ("done", "")}, [row.error for row in ended.rows]


def test_orders_survive_the_pipe() -> None:
    order = Order(
        id="a", path="/a", folder="/o", bundle="/b", identity="i", backend="ort", precision="fp32", batch=2, own=True
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(order), type=Order) == order
