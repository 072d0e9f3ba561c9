"""What a batch tells of itself besides what is shown: lines of JSON, and figures that Prometheus collects."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from glassrt.engine.errors import OutputError, UsageError
from glassrt.engine.files import output_errors, replace_file
from glassrt.engine.production.lead import Watcher
from glassrt.engine.production.plan import Plan
from glassrt.engine.production.wire import Failed, Lost, Order
from glassrt.engine.results.summary import Outcome

WRITTEN_EVERY_S = 5.0
STATES = ("waiting", "running", "done", "failed")


class Several:
    """A `Watcher` that tells several."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._watchers = watchers

    def begin(self, order: Order) -> None:
        """As `Watcher.begin`."""
        for each in self._watchers:
            each.begin(order)

    def advance(self, order: Order, done: int, total: int) -> None:
        """As `Watcher.advance`."""
        for each in self._watchers:
            each.advance(order, done, total)

    def end(self, order: Order, outcome: Outcome | None, failure: Failed | Lost | None, again: bool) -> None:
        """As `Watcher.end`."""
        for each in self._watchers:
            each.end(order, outcome, failure, again)


class JsonLog:
    """A `Watcher` that writes a line of JSON for whatever happens, at the end of a file, which a disk that is full
    leaves as it is.
    """

    def __init__(self, path: Path) -> None:
        """Raises OutputError."""
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: TextIO = path.open("a", encoding="utf-8")

    def write(self, event: str, **told: Any) -> None:
        """Write a line."""
        now = time.time()
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03}Z"
        with suppress(OSError):
            self._file.write(json.dumps({"time": stamp, "event": event, **told}, ensure_ascii=False) + "\n")
            self._file.flush()

    def begin(self, order: Order) -> None:
        """As `Watcher.begin`."""
        self.write("begun", id=order.id, slide=order.path)

    def advance(self, order: Order, done: int, total: int) -> None:
        """As `Watcher.advance`; not worth a line."""

    def end(self, order: Order, outcome: Outcome | None, failure: Failed | Lost | None, again: bool) -> None:
        """As `Watcher.end`."""
        told: dict[str, Any] = {"id": order.id, "slide": order.path}
        if outcome is not None and outcome.result is not None:
            result = outcome.result
            warnings = list(result.warnings)
            self.write("done", **told, windows=result.windows["run"], seconds=dict(result.seconds), warnings=warnings)
        elif failure is not None:
            self.write("again" if again else "failed", **told, reason=failure.reason, error=failure.error)

    def close(self) -> None:
        """Close the file; harmless when done twice."""
        with suppress(OSError):
            self._file.close()


class Metrics:
    """A `Watcher` that keeps figures for Prometheus: served on a port, or in a file that a node's exporter reads."""

    def __init__(self, where: str) -> None:
        """`where` is a port or a file. Raises UsageError without the package, OutputError where neither can be had."""
        try:
            import prometheus_client as client
        except ImportError as error:
            raise UsageError(f"--metrics needs {error.name}: pip install 'glassrt[metrics]'") from error
        self._client, self._registry = client, client.CollectorRegistry()
        gauge, counter = client.Gauge, client.Counter
        self.slides = gauge("glassrt_slides", "Slides of the batch by state.", ["state"], registry=self._registry)
        self.windows = counter("glassrt_windows", "Windows that were run.", registry=self._registry)
        self.seconds = counter("glassrt_stage_seconds", "Seconds of each stage.", ["stage"], registry=self._registry)
        self.failures = counter("glassrt_failures", "Attempts that failed.", ["reason"], registry=self._registry)
        self._file = None if where.isdecimal() else Path(where)
        self._stop: Callable[[], None] = lambda: None
        self._written = 0.0
        if self._file is None:
            self._serve(int(where))
        else:
            self._write()

    def expect(self, plan: Plan) -> None:
        """So many slides more are known in each state."""
        for state in STATES:
            self.slides.labels(state).inc(sum(row.state == state for row in plan.rows))
        self._tell()

    def begin(self, order: Order) -> None:
        """As `Watcher.begin`."""
        self.slides.labels("waiting").dec()
        self.slides.labels("running").inc()
        self._tell()

    def advance(self, order: Order, done: int, total: int) -> None:
        """As `Watcher.advance`; windows are counted in the end."""

    def end(self, order: Order, outcome: Outcome | None, failure: Failed | Lost | None, again: bool) -> None:
        """As `Watcher.end`."""
        self.slides.labels("running").dec()
        if outcome is not None and outcome.result is not None:
            self.slides.labels("done").inc()
            self.windows.inc(outcome.result.windows["run"])
            for stage, seconds in outcome.result.seconds.items():
                self.seconds.labels(stage).inc(seconds)
        elif failure is not None:
            self.slides.labels("waiting" if again else "failed").inc()
            self.failures.labels(failure.reason).inc()
        self._tell()

    def close(self) -> None:
        """Stop serving, or write the file a last time."""
        self._stop()
        if self._file is not None:
            with suppress(OutputError):
                self._write()

    def _serve(self, port: int) -> None:
        try:
            server, thread = self._client.start_http_server(port, registry=self._registry)
        except (OSError, OverflowError) as error:
            raise OutputError(f"--metrics {port}: cannot listen there ({error}); choose another port") from error

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        self._stop = stop

    def _tell(self) -> None:
        if self._file is not None and time.monotonic() - self._written > WRITTEN_EVERY_S:
            with suppress(OutputError):
                self._write()

    def _write(self) -> None:
        assert self._file is not None
        self._written = time.monotonic()
        with output_errors(self._file), replace_file(self._file) as beside:
            beside.write_bytes(self._client.generate_latest(self._registry))
