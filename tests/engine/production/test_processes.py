"""Worker processes that die, hang and crash: each costs one attempt of one slide, and is replaced."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from plain_batch import make_slide

from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE, open_bundle
from glassrt.engine.production.processes import Limits, Processes
from glassrt.engine.production.wire import Advanced, Done, Event, Failed, Lost, Order, Setup

SETUP = Setup(readers=1)
IDENTITY = open_bundle().sha256
RUNTIME = {
    "bundle": str(DEFAULT_BUNDLE), "identity": IDENTITY, "backend": "ort", "precision": "fp32", "batch": 1,
}  # fmt: skip
CRASHES = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <stdio.h>
extern "C" int open64(const char *path, int flags, int mode) {
    if (strstr(path, "/crash.tif")) raise(SIGSEGV);
    if (strstr(path, "/hang.tif")) for (;;) sleep(1);
    if (strstr(path, "/leave.tif")) { fprintf(stderr, "out of luck\\n"); _exit(7); }
    return ((int (*)(const char *, int, int))dlsym(RTLD_NEXT, "open64"))(path, flags, mode);
}
"""


def find_workers() -> list[psutil.Process]:
    """The workers of this process, which may have other children."""
    return [each for each in psutil.Process().children() if "glassrt.engine.production.worker" in each.cmdline()]


def make_order(path: Path, out: Path) -> Order:
    return Order(id=path.stem, path=str(path), folder=str(out / path.stem), **RUNTIME)


def run(workers: Processes, orders: list[Order], seen: Callable[[Event], None] = lambda event: None) -> list[Event]:
    """What came of each slide, in the order that it came."""
    waiting, ends, deadline = list(orders), [], time.monotonic() + 60
    while len(ends) < len(orders):
        assert time.monotonic() < deadline, ends
        while waiting and workers.free:
            workers.submit(waiting.pop(0))
        for event in workers.poll(0.2):
            seen(event)
            ends += [] if isinstance(event, Advanced) else [event]
    return ends


@pytest.fixture
def slides(tmp_path: Path) -> Callable[..., list[Order]]:
    return lambda *names: [make_order(make_slide(tmp_path / f"{name}.tif"), tmp_path / "out") for name in names]


def test_slides_are_scored_and_failures_told(slides: Callable[..., list[Order]], tmp_path: Path) -> None:
    orders = slides("a", "b", "c")
    (tmp_path / "b.tif").write_bytes(b"no slide")
    workers = Processes([SETUP, SETUP], Limits())
    events = {event.id: event for event in run(workers, orders)}
    workers.close()
    assert (events["a"], events["c"]) == (Done("a"), Done("c"))
    assert events["b"] == Failed(
        "b", f"{tmp_path / 'b.tif'}: not a PNG, JPEG, BMP or TIFF image; convert it or copy it again", "slide"
    )
    assert json.loads((tmp_path / "out" / "a" / "result.json").read_text())["slide"]["name"] == "a"


def test_a_bundle_that_cannot_be_run_is_fatal(slides: Callable[..., list[Order]]) -> None:
    workers = Processes([SETUP], Limits())
    (order,) = slides("a")
    import msgspec

    (event,) = run(workers, [msgspec.structs.replace(order, bundle="/none.glass")])
    workers.close()
    assert isinstance(event, Failed)
    assert event.fatal
    assert "none.glass is no bundle" in event.error


def test_a_crash_a_hang_and_an_exit_cost_one_slide_each(
    slides: Callable[..., list[Order]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crash.cpp").write_text(CRASHES)
    library = tmp_path / "crash.so"
    subprocess.run(["g++", "-shared", "-fPIC", "-o", library, tmp_path / "crash.cpp", "-ldl"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    workers = Processes([SETUP], Limits(stalled_s=4.0))
    events = {event.id: event for event in run(workers, slides("crash", "a", "hang", "b", "leave", "c"))}
    workers.close()
    assert {name for name, event in events.items() if isinstance(event, Done)} == {"a", "b", "c"}
    told = {name: event.error for name, event in events.items() if isinstance(event, Lost)}
    assert told == {
        "crash": "its process crashed (SIGSEGV)",
        "hang": "no window was finished for 4 s (--timeout)",
        "leave": "its process ended by itself (exit code 7): out of luck",
    }


def test_a_killed_worker_is_replaced(slides: Callable[..., list[Order]]) -> None:
    workers, killed = Processes([SETUP], Limits()), []

    def kill(event: Event) -> None:
        if isinstance(event, Done) and not killed:
            (child,) = find_workers()
            killed.append(child.pid)
            workers.submit(orders[1])
            child.kill()

    orders = slides("a", "b", "c")
    assert run(workers, orders[:1], kill) == [Done("a")]
    lost = [event for _ in range(20) for event in workers.poll(0.2)]
    assert lost == [Lost("b", "its process was killed, as it is where memory runs out", "killed")]
    assert run(workers, orders[2:]) == [Done("c")]
    (child,) = find_workers()
    assert child.pid not in killed
    workers.close()


def test_workers_are_renewed_after_so_many_slides(slides: Callable[..., list[Order]]) -> None:
    workers, seen = Processes([SETUP], Limits(slides=2)), set()

    def look(event: Event) -> None:
        seen.update(child.pid for child in find_workers())

    run(workers, slides(*"abcde"), look)
    workers.close()
    assert 2 <= len(seen) <= 3
    assert not find_workers()


LEADS = """
import sys, time
from pathlib import Path
from glassrt.engine.production.processes import Limits, Processes
from glassrt.engine.production.wire import Order, Setup
workers = Processes([Setup(readers=1)], Limits())
runtime = {"bundle": sys.argv[3], "identity": sys.argv[4], "backend": "ort", "precision": "fp32", "batch": 1}
workers.submit(Order(id="a", path=sys.argv[1], folder=sys.argv[2], **runtime))
while not workers.free:
    workers.poll(0.1)
print(workers._slots[0]._process.pid, flush=True)
time.sleep(60)
"""


def test_workers_end_with_the_process_that_leads(slides: Callable[..., list[Order]]) -> None:
    import sys

    (order,) = slides("a")
    line = [sys.executable, "-c", LEADS, order.path, order.folder, order.bundle, IDENTITY]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        os.kill(process.pid, signal.SIGKILL)
    assert child.wait(10) is None or not child.is_running()
