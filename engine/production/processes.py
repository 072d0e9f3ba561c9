"""Workers as processes of this machine, each watched: it may crash, hang or run out of memory, and is replaced."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import IO, NamedTuple

import msgspec

from glassrt.engine.production.wire import Done, Event, Failed, Lost, Order, Setup, Told, receive, send
from glassrt.engine.system import end_group, was_killed

COMMAND = (sys.executable, "-m", "glassrt.engine.production.worker")
PATIENCE_S = 10.0
TAIL = 4000  # bytes of what a worker that died had written
DEVICE = "CUDA_VISIBLE_DEVICES"  # which CUDA reads when it starts: the worker sees that one as its first
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # which libraries read when they load


class Limits(NamedTuple):
    """When a worker is given up, `stalled_s` seconds without a window done, and after how many slides it is renewed."""

    stalled_s: float = 1800.0
    slides: int = 200


class Processes:
    """As many worker processes as there are `setups`; see `Executor`."""

    def __init__(self, setups: Sequence[Setup], limits: Limits) -> None:
        self._told: queue.SimpleQueue[tuple[Process, Told | None]] = queue.SimpleQueue()
        self._limits = limits
        self._unborn: list[Event] = []
        self._slots: list[Process | None] = [None] * len(setups)
        self._setups = setups

    @property
    def free(self) -> int:
        """As `Executor.free`."""
        return sum(each is None or each.order is None for each in self._slots)

    def submit(self, order: Order) -> None:
        """As `Executor.submit`; a process is started where none is waiting."""
        at = next(at for at, each in enumerate(self._slots) if each is None or each.order is None)
        worker = self._slots[at]
        if worker is not None and worker.has_ended():
            self._end(at)
            worker = None
        if worker is None:
            try:
                worker = self._slots[at] = Process(self._setups[at], self._told)
            except OSError as error:  # of processes, files or memory that there are too few of
                self._unborn.append(Lost(order.id, f"no process could be started for it ({error})", "ended"))
                return
        worker.take(order)

    def poll(self, wait_s: float) -> Sequence[Event]:
        """As `Executor.poll`."""
        events: list[Event] = list(self._unborn)
        self._unborn.clear()
        with contextlib.suppress(queue.Empty):
            events += self._note(*self._told.get(timeout=0 if events else wait_s))
            while True:
                events += self._note(*self._told.get_nowait())
        for at, worker in enumerate(self._slots):
            if worker is not None and worker.order is not None and worker.still_s() > self._limits.stalled_s:
                error = f"no window was finished for {self._limits.stalled_s:.0f} s (--timeout)"
                events.append(Lost(worker.order.id, error, "stalled"))
                self._end(at)
        return events

    def close(self) -> None:
        """As `Executor.close`."""
        for at in range(len(self._slots)):
            self._end(at)

    def _note(self, worker: "Process", told: Told | None) -> list[Event]:
        if worker not in self._slots:
            return []  # of one that was given up
        at, order = self._slots.index(worker), worker.order
        if told is None:
            error, reason = worker.tell_end()
            self._end(at)
            return [Lost(order.id, error, reason)] if order else []
        worker.heard()
        if isinstance(told, Done | Failed):
            worker.order = None
            if worker.slides >= self._limits.slides:
                self._end(at)
        return [told]

    def _end(self, at: int) -> None:
        worker, self._slots[at] = self._slots[at], None
        if worker is not None:
            worker.kill()


class Process:
    """One worker process, and the slide that it is at."""

    def __init__(self, setup: Setup, told: "queue.SimpleQueue[tuple[Process, Told | None]]") -> None:
        self.order: Order | None = None
        self.slides = 0
        self._heard = time.monotonic()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  as long as the process
        environment = dict(os.environ)
        if setup.threads:
            environment |= dict.fromkeys(THREADS, str(setup.threads))
        if setup.device:
            environment[DEVICE] = setup.device
        self._process = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment,
            start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=self._listen, args=(told,), daemon=True).start()
        self._send(setup)

    def take(self, order: Order) -> None:
        """Begin a slide."""
        self.order, self.slides = order, self.slides + 1
        self.heard()
        self._send(order)

    def heard(self) -> None:
        """It lives."""
        self._heard = time.monotonic()

    def still_s(self) -> float:
        """Seconds since it was last heard of."""
        return time.monotonic() - self._heard

    def has_ended(self) -> bool:
        """Whether it is gone, as an idle one may be that the system had no memory for."""
        return self._process.poll() is not None

    def tell_end(self) -> tuple[str, str]:
        """Why it ended, in a few words and in one."""
        try:
            code = self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            return "its process closed its output and did not end", "ended"
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - TAIL))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        last = f": {lines[-1]}" if lines else ""
        if was_killed(code):
            return f"its process was killed, as it is where memory runs out{last}", "killed"
        if code < 0:
            return f"its process crashed ({signal.Signals(-code).name}){last}", "crashed"
        return f"its process ended by itself (exit code {code}){last}", "ended"

    def kill(self) -> None:
        """End it at once."""
        end_group(self._process)
        with contextlib.suppress(subprocess.TimeoutExpired):  # of one that waits for a disk that is gone
            self._process.wait(PATIENCE_S)
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._errors.close()

    def _send(self, message: msgspec.Struct) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # of one that has just ended, which its end tells of
            send(self._process.stdin, message)

    def _listen(self, told: "queue.SimpleQueue[tuple[Process, Told | None]]") -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            while (message := receive(pipe, Told)) is not None:
                told.put((self, message))
        told.put((self, None))
