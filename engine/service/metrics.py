"""Figures of a server that Prometheus collects."""

from importlib import import_module
from typing import Any

from glassrt.engine.service.refusals import Refused

CONTENT = "text/plain; version=0.0.4; charset=utf-8"


class Figures:
    """Counts what is done. Thread-safe. Without the package there are none to be had."""

    def __init__(self) -> None:
        try:
            client: Any = import_module("prometheus_client")
        except ImportError:
            self._client: Any = None
            return
        self._client, self._registry = client, client.CollectorRegistry()
        counter, more = client.Counter, {"registry": self._registry}
        self._requests = counter("glassrt_requests", "Requests by method and status.", ["method", "status"], **more)
        self._answered = client.Summary("glassrt_request_seconds", "Seconds of requests.", **more)
        self._windows = counter("glassrt_infer_windows", "Windows that requests brought.", ["model"], **more)
        self._seconds = client.Histogram("glassrt_infer_seconds", "Seconds of a request.", ["model"], **more)
        self._tiles = counter("glassrt_tiles", "Tiles by what became of them.", ["outcome"], **more)
        self._ended = counter("glassrt_sessions_ended", "Sessions by how they ended.", ["state"], **more)
        self._open = client.Gauge("glassrt_sessions", "Open sessions.", **more)
        self._lag = client.Histogram("glassrt_map_lag_seconds", "From a map tile's last pixel to the tile.", **more)

    def requested(self, method: str, status: int, seconds: float) -> None:
        """A request was answered in so many seconds; 499 where nobody waited for it."""
        if self._client:
            known = method if method in ("GET", "HEAD", "POST", "PUT", "DELETE") else "other"
            self._requests.labels(known, str(status)).inc()
            self._answered.observe(seconds)

    def inferred(self, model: str, windows: int, seconds: float) -> None:
        """Windows were run for a request."""
        if self._client:
            self._windows.labels(model).inc(windows)
            self._seconds.labels(model).observe(seconds)

    def tile(self, outcome: str) -> None:
        """A tile was `taken`, `refused`, or the session was `busy`."""
        if self._client:
            self._tiles.labels(outcome).inc()

    def mapped(self, lag_s: float) -> None:
        """A map tile was finished so long after the last tile that it needed."""
        if self._client:
            self._lag.observe(lag_s)

    def began(self) -> None:
        """A session was opened."""
        if self._client:
            self._open.inc()

    def ended(self, state: str) -> None:
        """A session has ended."""
        if self._client:
            self._open.dec()
            self._ended.labels(state).inc()

    def write(self) -> bytes:
        """All figures in Prometheus' text format. Raises Refused without the package."""
        if not self._client:
            raise Refused(501, "figures need prometheus-client: pip install 'glassrt[serve]'")
        content: bytes = self._client.generate_latest(self._registry)
        return content
