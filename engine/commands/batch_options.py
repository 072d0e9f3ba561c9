"""Options of the commands that score batches, and what comes of them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import typer

from glassrt.engine.cache import default_folder
from glassrt.engine.production.lead import Watcher
from glassrt.engine.production.plan import Plan
from glassrt.engine.production.watchers import JsonLog, Metrics, Several
from glassrt.engine.runtimes.table import MOST_WINDOWS
from glassrt.engine.tasks.segment import MOST_READERS

MAP_MPP = typer.Option(help="Micrometres per map pixel.", show_default="a quarter of a logit's")
MPP = typer.Option(help="Micrometres per slide pixel.", show_default="what the file says")
BATCH = typer.Option(min=1, max=MOST_WINDOWS, help="Windows per network call.", show_default="what suits the runtime")
READERS = typer.Option(min=1, max=MOST_READERS, help="Threads that read and cut, of each worker.")
TISSUE = typer.Option(
    help="auto: found by colour and grain; all; or a mask: PNG or TIFF (0 is none) or GeoJSON as from QuPath; for "
    "several slides a folder of masks named like them."
)
WORKERS = typer.Option(
    min=0, help="Processes that score; 0: this one.", show_default="by cores or devices, 0 for one slide"
)
DEVICES = typer.Option(help="Devices to share, e.g. cuda:0,cuda:1.", show_default="the first one")
RAY = typer.Option(help="Score on a Ray cluster: auto, or its address.", show_default=False)
ATTEMPTS = typer.Option(min=1, help="How often a slide that fails is tried.")
TIMEOUT = typer.Option(min=1, help="Seconds without a window done until a worker is given up.")
PER_WORKER = typer.Option(min=1, help="Slides after which a worker is renewed.")
STAGE = typer.Option("--stage", help="Copy slides to the cache first, as from slow network mounts.")
CACHE = typer.Option(
    help="Folder for copies of slides that lie elsewhere.", show_default="in the user's cache", dir_okay=True
)
CACHE_SIZE = typer.Option(min=0.001, help="GB that copies may take: two slides for each worker or more.")
LOG_JSON = typer.Option(help="File to write a line of JSON to for whatever happens.", show_default=False)
METRICS = typer.Option(help="Port or file to show figures for Prometheus at.", show_default=False)
GB = 1e9


def place_copies(folder: Path | None, gigabytes: float) -> tuple[str, int]:
    """Where copies of slides go, as an absolute path, and their bytes. Raises OutputError."""
    return str((folder or default_folder().parent / "slides").absolute()), int(gigabytes * GB)


class Told(Several):
    """What a batch is told to: the terminal, and the log and the figures if they were asked for."""

    def __init__(self, shown: Watcher, log: JsonLog | None, metrics: Metrics | None) -> None:
        super().__init__([each for each in (shown, log, metrics) if each is not None])
        self._log, self._metrics = log, metrics

    def expect(self, plan: Plan) -> None:
        """So much is to be done."""
        if self._log is not None:
            self._log.write("batch begun", **{each: getattr(plan, each) for each in Plan._fields if each != "rows"})
        if self._metrics is not None:
            self._metrics.expect(plan)

    def finish(self, whole: bool) -> None:
        """The batch has ended, as a `whole` or because it was stopped."""
        if self._log is not None:
            self._log.write("batch ended" if whole else "batch stopped")


@contextmanager
def open_watchers(shown: Watcher, log_json: Path | None, metrics: str | None) -> Iterator[Told]:
    """What a batch tells of itself, until the context ends. Raises OutputError and UsageError."""
    with ExitStack() as stack:
        log = JsonLog(log_json) if log_json is not None else None
        figures = Metrics(metrics) if metrics is not None else None
        for each in (log, figures):
            if each is not None:
                stack.callback(each.close)
        yield Told(shown, log, figures)
