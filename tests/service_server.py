"""A server as users start it, in a process of its own, and what asks it."""

import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from command_line import GLASSRT

SIDE, TILE = 400, 100
PLACES = [(x, y) for y in range(0, SIDE, TILE) for x in range(0, SIDE, TILE)]


class Server:
    """A running `glassrt serve`, with a client that waits for 20 s at most. `output` is all that it says."""

    def __init__(self, folder: Path, *options: object) -> None:
        self.out, self._log = folder / "out", folder / "log"
        listen = () if "--socket" in options or "--listen" in options else ("--listen", "127.0.0.1:0")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [GLASSRT, "serve", "--out", self.out, *map(str, (*listen, *options))], stderr=log, stdout=log
            )
        self.client = httpx.Client(timeout=20)
        until = time.monotonic() + 60
        while not (found := re.search(r"serving (.*) at (\S+)\n", self.output)):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < until, self.output
            time.sleep(0.05)
        self.where = found[2]
        if self.where.startswith("http"):
            self.client = httpx.Client(base_url=self.where, timeout=20)
        else:
            transport = httpx.HTTPTransport(uds=self.where)
            self.client = httpx.Client(transport=transport, base_url="http://glassrt", timeout=20)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.where.removeprefix("http://").rsplit(":", 1)
        return host, int(port)

    @property
    def output(self) -> str:
        return self._log.read_text()

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        return self.client.request(method, path, **more)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(20)
        self.client.close()
        return code


def says(answer: httpx.Response, status: int, *words: str) -> str:
    """The one line of a refusal, which is as it has to be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    assert [*told] == ["error"]
    assert "\n" not in told["error"]
    for word in words:
        assert word in told["error"], told
    return str(told["error"])


def begin(server: Server, name: str, **more: Any) -> httpx.Response:
    told = {"bundle": "small", "levels": [[SIDE, SIDE]], "mpp": 0.5, "tile": [TILE, TILE], "name": name, **more}
    return server.ask("POST", "/slides", json={key: value for key, value in told.items() if value is not None})


def push(server: Server, where: str, x: int, y: int, pixels: np.ndarray, **more: Any) -> httpx.Response:
    told = {"level": 0, "x": x, "y": y, "width": pixels.shape[1], "height": pixels.shape[0], "format": "rgb", **more}
    return server.ask("PUT", f"{where}/tiles", params=told, content=pixels.tobytes())


def wait_for(server: Server, where: str, state: str, limit_s: float = 10) -> dict[str, Any]:
    until = time.monotonic() + limit_s
    while (told := server.ask("GET", where).json())["state"] != state:
        assert time.monotonic() < until, told
        time.sleep(0.05)
    return dict(told)


def read_events(server: Server, where: str, after: int = 0) -> list[dict[str, Any]]:
    """All events to the last one."""
    events: list[dict[str, Any]] = []
    while not events or events[-1]["event"] not in ("finished", "failed", "cancelled"):
        found = server.ask("GET", f"{where}/events", params={"after": after, "wait_ms": 10000}).json()["events"]
        assert found, events[-3:]
        events += found
        after = events[-1]["number"]
    return events
