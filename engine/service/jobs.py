"""Jobs: slides on disk that are scored by workers, one after another, with a journal that outlives the server."""

import os
import secrets
import shutil
import threading
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from glassrt.engine.errors import FolderTaken, GlassError, UsageError, first_line
from glassrt.engine.service.job_log import JobLog, Line
from glassrt.engine.service.refusals import LOGGER, Refused, busy
from glassrt.engine.service.settings import Settings

if TYPE_CHECKING:
    from glassrt.engine.production.batch import Batch
    from glassrt.engine.production.entries import Entry
    from glassrt.engine.production.journal import Row
    from glassrt.engine.production.wire import Failed, Lost, Order
    from glassrt.engine.results.summary import Outcome

JOBS = "jobs"  # the folder of all, below the server's
LOG = "asked.jsonl"  # in it
MOST_WAITING = 10_000
ENDING_S = 6.0
DISMISSED = "dismissed by its client"
Status = Literal["accepted", "running", "successful", "failed", "dismissed"]
OF_STATES: Mapping[str, Status] = {
    "waiting": "accepted", "running": "accepted", "done": "successful", "failed": "failed"
}  # fmt: skip


class Job(msgspec.Struct):
    """How far a job is, as OGC API Processes tells of it; `progress` is from 0 to 100."""

    jobID: str
    slide: str
    status: Status = "accepted"
    progress: int = 0
    message: str = ""
    type: str = "process"
    processID: str = "score"


class Asked(NamedTuple):
    """What a job is of: a slide's path or address, a bundle that is served, micrometres per pixel if they are told."""

    slide: str
    bundle: str
    mpp: float | None = None


class Jobs:
    """All jobs of a server. Thread-safe; raises Refused. Workers run from the first job on."""

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.out / JOBS
        self._settings = settings
        self._jobs: dict[str, Job] = {}
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._failed = ""
        self._waiting: list[Entry] = []
        self._log = JobLog(self.folder / LOG)
        self._remember()

    def ask(self, asked: Asked) -> Job:
        """Take a job on."""
        from glassrt.engine.production.places import is_address

        if not is_address(asked.slide) and not os.path.isabs(asked.slide):
            raise Refused(400, f"{asked.slide[:200]!r}: name the slide by its whole path")
        if "\0" in asked.slide or not is_encodable(asked.slide):
            raise Refused(400, "the slide's path is no path")
        if not is_address(asked.slide) and not os.path.exists(asked.slide):
            raise Refused(400, f"{asked.slide[:200]} does not exist")
        with self._lock:
            if self._stopped or self._failed:
                raise Refused(503, self._failed or "the server is ending")
            if sum(job.status == "accepted" for job in self._jobs.values()) >= MOST_WAITING:
                raise busy(f"{MOST_WAITING} jobs wait; try again later")
            job = Job(secrets.token_hex(8), asked.slide)
            self._log.add(Line(job.jobID, asked.slide, asked.bundle, asked.mpp))
            self._jobs[job.jobID] = job
            self._waiting.append(self._entry(job.jobID, asked))
            self._start()
        return job

    def find(self, id: str) -> Job:
        """A job."""
        with self._lock:
            job = self._jobs.get(id)
        if job is None:
            raise Refused(404, f"no job {id[:40]!r}")
        return job

    def list(self, most: int) -> list[Job]:
        """The newest jobs, these first."""
        with self._lock:
            return [*self._jobs.values()][: -most - 1 : -1]

    def read_result(self, id: str) -> bytes:
        """What `result.json` of a job says."""
        job = self.find(id)
        if job.status != "successful":
            raise Refused(404, f"the job is {job.status}{f': {job.message}' if job.message else ''}")
        try:
            return (self.folder / id / "result.json").read_bytes()
        except OSError as error:
            raise Refused(404, "the job's result is not there any more") from error

    def dismiss(self, id: str) -> Job:
        """Do not begin a job; end what runs as soon as it can be; remove what has been written."""
        job = self.find(id)
        with self._lock:
            before, job.status = job.status, "dismissed"
            job.message = DISMISSED
            self._waiting = [entry for entry in self._waiting if entry.id != id]
        if before != "dismissed":
            self._log.add(Line(id, dismissed=True))
        if before in ("successful", "failed"):
            self._remove(id)
        return job

    def close(self) -> None:
        """Give up what runs, which waits in the journal."""
        with self._lock:
            self._stopped = True
        if self._thread is not None:
            self._thread.join(ENDING_S)

    def resume(self) -> None:
        """Go on with what waited when the last server ended."""
        with self._lock:
            if self._waiting:
                self._start()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._lead, name="jobs", daemon=True)
            self._thread.start()

    def _lead(self) -> None:
        from glassrt.engine.bundles.bundle import open_bundle
        from glassrt.engine.production.batch import Options
        from glassrt.engine.production.processes import Limits
        from glassrt.engine.production.wire import Setup
        from glassrt.engine.production.workers import Workers
        from glassrt.engine.runtimes.choose import choose
        from glassrt.engine.service.job_batch import Dismissing, JobBatch

        try:
            bundles, settings = [*self._settings.bundles.values()], self._settings
            options = Options(bundles[0], setup := Setup(), settings.backend, settings.precision)
            chosen, _ = choose(open_bundle(bundles[0]), settings.backend, settings.precision)
            crew = Workers(None, (), None, Limits())
            batch = JobBatch(self.folder, options, bundles)
            batch.run(
                lambda: Dismissing(crew.open(setup, chosen), self._is_dismissed),
                self, lambda plan: None, lambda: self._stopped, self._more,
            )  # fmt: skip
        except Exception as error:
            LOGGER.error("jobs: %s", first_line(error), exc_info=None if isinstance(error, GlassError) else error)
            with self._lock:
                self._failed = f"jobs cannot be run: {first_line(error)}"
                for job in self._jobs.values():
                    if job.status in ("accepted", "running"):
                        job.status, job.message = "failed", self._failed

    def _more(self, batch: "Batch") -> "Mapping[str, Order]":
        """What has been asked for since. Called by the batch, about twice a second."""
        with self._lock:
            entries, self._waiting = self._waiting, []
        orders: dict[str, Order] = {}
        for entry in entries:
            try:
                _, new = batch.add([entry])
                orders |= new
            except (FolderTaken, UsageError) as error:
                self._tell(entry.id, "failed", first_line(error))
        return orders

    def begin(self, order: "Order") -> None:
        """As `Watcher.begin`."""
        self._tell(order.id, "running", "")

    def advance(self, order: "Order", done: int, total: int) -> None:
        """As `Watcher.advance`."""
        with self._lock:
            if job := self._jobs.get(order.id):
                job.progress = min(99, 100 * done // max(1, total))

    def end(self, order: "Order", outcome: "Outcome | None", failure: "Failed | Lost | None", again: bool) -> None:
        """As `Watcher.end`."""
        if failure is not None:
            self._tell(order.id, "accepted" if again else "failed", failure.error)
        else:
            self._tell(order.id, "successful", "")
            if self._is_dismissed(order.id):
                self._remove(order.id)

    def _tell(self, id: str, status: Status, message: str) -> None:
        with self._lock:
            job = self._jobs.get(id)
            if job is None or job.status == "dismissed":
                return
            job.status, job.message = status, message
            job.progress = 100 if status == "successful" else 0

    def _is_dismissed(self, id: str) -> bool:
        with self._lock:
            job = self._jobs.get(id)
            return job is not None and job.status == "dismissed"

    def _remove(self, id: str) -> None:
        shutil.rmtree(self.folder / id, ignore_errors=True)

    def _remember(self) -> None:
        """Know the jobs of the servers before, and go on with those that are not done."""
        lines = self._log.read()
        rows = read_rows(self.folder) if lines else {}
        for line in lines:
            if not line.dismissed:
                self._jobs[line.id] = recall(line, rows.get(line.id))
            elif job := self._jobs.get(line.id):
                job.status, job.progress, job.message = "dismissed", 0, DISMISSED
        for line in lines:
            job = self._jobs.get(line.id)
            if line.dismissed or job is None or job.status != "accepted":
                continue
            if line.bundle in self._settings.bundles:
                self._waiting.append(self._entry(line.id, Asked(line.slide, line.bundle, line.mpp)))
            else:
                job.message = f"waits for a server with the bundle {line.bundle}"

    def _entry(self, id: str, asked: Asked) -> "Entry":
        from glassrt.engine.production.entries import Entry

        return Entry(id, asked.slide, asked.mpp, str(self._settings.bundles[asked.bundle]))


def read_rows(folder: Path) -> "dict[str, Row]":
    """The rows of the journal in a folder. Raises OutputError."""
    from glassrt.engine.production.journal import JOURNAL, Journal

    if not (folder / JOURNAL).is_file():
        return {}
    with closing(Journal(folder / JOURNAL, read_only=True)) as journal:
        return {row.id: row for row in journal.rows()}


def recall(line: Line, row: "Row | None") -> Job:
    """A job as the log and the journal have it."""
    status = OF_STATES[row.state] if row else "accepted"
    return Job(line.id, line.slide, status, 100 if status == "successful" else 0, row.error if row else "")


def is_encodable(text: str) -> bool:
    """Whether a text can be a name."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
