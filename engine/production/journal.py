"""The journal of a batch: what became of each slide, on disk before anything else is begun.

One SQLite file in the output folder, written by the process that leads the batch alone; others may read it meanwhile.
It keeps no write-ahead log, which network file systems break. A slide is done once its results stand and its row says
so; a process that is killed in between costs that slide's work, never a result.
"""

import csv
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from glassrt.engine.errors import FolderTaken, OutputError, UsageError
from glassrt.engine.results.cells import plain_text
from glassrt.engine.results.summary import FAILED, SUMMARY

JOURNAL = "journal.sqlite"
VERSION = 1
LOCKED_S = 30.0  # that a reader may hold the file up
State = Literal["waiting", "running", "done", "failed"]

TABLE = """
CREATE TABLE IF NOT EXISTS slides (
    id TEXT PRIMARY KEY, place INTEGER NOT NULL, address TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL,
    error TEXT NOT NULL, reason TEXT NOT NULL, input TEXT NOT NULL, work TEXT NOT NULL, begun REAL, ended REAL,
    seconds TEXT NOT NULL, windows INTEGER NOT NULL, columns TEXT NOT NULL
) STRICT
"""


class Row(NamedTuple):
    """One slide: its folder's name, where it lies, how often it was tried, and what came of that.

    `input` tells its file from what it was before, `work` the bundle and options; `begun` and `ended` are seconds since
    1970, `seconds` those of each stage, `columns` what the manifest says of it beside.
    """

    id: str
    place: int
    address: str
    state: State
    attempts: int = 0
    error: str = ""
    reason: str = ""
    input: str = ""
    work: str = ""
    begun: float | None = None
    ended: float | None = None
    seconds: Mapping[str, float] = {}
    windows: int = 0
    columns: Mapping[str, str] = {}


class Journal:
    """An open journal. Raises OutputError where the file is none, or cannot be written."""

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path = path
        with self._told():
            self._file = self._open("rw" if read_only else "rwc", read_only)
            if not read_only:
                self._file.execute("PRAGMA journal_mode = DELETE")
                self._file.execute("PRAGMA synchronous = FULL")
            (version,) = self._file.execute("PRAGMA user_version").fetchone()
            if version not in (0, VERSION) or (version == 0 and self._tables()):
                raise OutputError(f"{path} was not written by this version of GlassRT; choose another --out")
            if not read_only:
                with self._whole():
                    self._file.execute(TABLE)
                    self._file.execute(f"PRAGMA user_version = {VERSION}")

    def _open(self, mode: str, read_only: bool) -> sqlite3.Connection:
        """Also to read, it is opened as to write where that is allowed: what a killed process left half-written is
        taken back by the first one that opens it.
        """
        path = self.path.resolve().as_uri()
        file = sqlite3.connect(f"{path}?mode={mode}", uri=True, timeout=LOCKED_S, isolation_level=None)
        if read_only:
            try:
                file.execute("PRAGMA query_only = ON")
                file.execute("PRAGMA user_version").fetchone()
            except sqlite3.OperationalError:
                file.close()
                file = sqlite3.connect(f"{path}?mode=ro", uri=True, timeout=LOCKED_S, isolation_level=None)
        return file

    def rows(self) -> list[Row]:
        """All slides in the order that they were named in."""
        with (
            self._told(),
            closing(self._file.execute(f"SELECT {', '.join(Row._fields)} FROM slides ORDER BY place")) as found,
        ):
            return [read_row(each) for each in found]

    def lay(self, rows: Iterable[Row]) -> None:
        """Put rows in, or in the place of others of their ids, all or none."""
        fields = Row._fields
        change = f"INSERT OR REPLACE INTO slides ({', '.join(fields)}) VALUES ({', '.join('?' * len(fields))})"
        with self._told(), self._whole():
            self._file.executemany(change, [write_row(row) for row in rows])

    def begin(self, id: str) -> None:
        """A slide is being tried."""
        self._set(
            id,
            "state = 'running', attempts = attempts + 1, begun = ?, ended = NULL, error = ''",
            time.time(),
        )

    def finish(self, id: str, seconds: Mapping[str, float], windows: int) -> None:
        """Its results stand."""
        told = msgspec.json.encode(dict(seconds)).decode()
        self._set(
            id,
            "state = 'done', error = '', reason = '', ended = ?, seconds = ?, windows = ?",
            time.time(),
            told,
            windows,
        )

    def fail(self, id: str, error: str, reason: str, again: bool) -> None:
        """It could not be scored, for what a line and a word say, and is tried `again` or not."""
        state = "waiting" if again else "failed"
        self._set(id, "state = ?, error = ?, reason = ?, ended = ?", state, error, reason, time.time())

    def release(self) -> None:
        """What was being tried when a batch ended waits again; the attempt does not count."""
        with self._told(), self._whole():
            self._file.execute(
                "UPDATE slides SET state = 'waiting', attempts = attempts - 1, begun = NULL WHERE state = 'running'"
            )

    def close(self) -> None:
        """Close the file; harmless when done twice."""
        self._file.close()

    def _set(self, id: str, change: str, *values: object) -> None:
        with self._told(), self._whole():
            self._file.execute(f"UPDATE slides SET {change} WHERE id = ?", (*values, id))

    def _tables(self) -> bool:
        (count,) = self._file.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return bool(count)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """All that happens within, or nothing."""
        self._file.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._file.execute("ROLLBACK")
            raise
        self._file.execute("COMMIT")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise OutputError(f"{self.path}: cannot be written ({error}); choose another --out") from error
            raise OutputError(
                f"{self.path} is no journal of GlassRT ({error}); move it away or choose another --out"
            ) from error


def read_row(values: tuple[Any, ...]) -> Row:
    """A row as SQLite has it."""
    told = dict(zip(Row._fields, values, strict=True))
    told["seconds"] = msgspec.json.decode(told["seconds"], type=dict[str, float])
    told["columns"] = msgspec.json.decode(told["columns"], type=dict[str, str])
    return Row(**told)


def write_row(row: Row) -> tuple[Any, ...]:
    """A row as SQLite takes it."""
    told = row._asdict()
    for name in ("seconds", "columns"):
        told[name] = msgspec.json.encode(dict(told[name])).decode()
    return tuple(told.values())


def list_journals(out: Path) -> list[Path]:
    """The journals in a folder, of a batch and of the parts of one."""
    return sorted(out.glob(f"{Path(JOURNAL).stem}*{Path(JOURNAL).suffix}"))


def read_journals(out: Path) -> list[Row]:
    """The rows of all journals in a folder; without one, the slide that failed alone there. Raises OutputError."""
    rows: list[Row] = []
    for path in (paths := list_journals(out)):
        with closing(Journal(path, read_only=True)) as journal:
            rows += journal.rows()
    return rows if paths else read_failed(out / SUMMARY)


def read_failed(table: Path) -> list[Row]:
    """The slide that failed in a batch of it alone, as the batch's summary says; nothing of another file."""
    try:
        if not table.is_file():
            return []
        with open(table, newline="", encoding="utf-8") as file:
            told = list(islice(csv.DictReader(file), 2))
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
    if len(told) != 1 or told[0].get("status") != FAILED or not {"id", "slide", "error"} <= told[0].keys():
        return []
    id, address, error = (plain_text(told[0][name] or "") for name in ("id", "slide", "error"))
    return [Row(id, 0, address, "failed", 1, error, "before")]


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """The journal at `path` for a batch. Raises OutputError.

    It goes again where there is no use for it: as the batch is refused, or as nothing but one slide failed, which the
    summary says as well.
    """
    fresh, whole = not path.exists(), path.name == JOURNAL
    rows = before = read_failed(path.with_name(SUMMARY)) if fresh and whole else []
    try:
        with closing(Journal(path)) as journal:
            journal.lay(before)
            journal.release()
            try:
                yield journal
            finally:
                rows = journal.rows()
    except (FolderTaken, UsageError):
        if fresh and all(row in before or not row.attempts for row in rows):
            path.unlink(missing_ok=True)
        raise
    if whole and len(rows) == 1 and rows[0].state == "failed" and not rows[0].columns:
        path.unlink(missing_ok=True)


def read_ids(out: Path) -> dict[str, str]:
    """What slides are called in the journals of a folder, by their addresses; none where there is no journal."""
    return {row.address: row.id for row in read_journals(out)}
