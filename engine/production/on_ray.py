"""Workers on the machines of a Ray cluster: an actor each, which watches a process as `Processes` does here.

Ray places them, tells which are lost with their machine, and carries orders and outcomes, nothing else: the journal
stays with the process that leads. All machines see the output folder, slides and bundles at the same paths.
"""

import os
import re
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from glassrt.engine.errors import BackendUnavailable, UsageError, first_line
from glassrt.engine.production.processes import Limits, Processes
from glassrt.engine.production.wire import Done, Event, Failed, Lost, Order, Setup
from glassrt.engine.system import CLOSE_ON_EXEC, NO_FOLLOW, list_cores, lock_file, user_number

ANSWER_S = 10.0
WAIT_S = 0.2
LOOK_S = 5.0  # between looks for machines that have joined
MOST_UNPLACED = 20  # workers in a row that did not start
NOBODY_S = 300.0  # without one worker that Ray could place, slides will not be scored


class OnRay:
    """As many workers as a cluster has room for, or as are asked for; see `Executor`."""

    def __init__(
        self, address: str, setup: Setup, limits: Limits, workers: int | None, cores: int, gpus: float
    ) -> None:
        """`address` is of a cluster, or `auto`; a worker takes so many `cores` and `gpus`.

        Raises UsageError without the package, BackendUnavailable where no cluster answers or it has no room.
        """
        try:
            ray: Any = import_module("ray")
        except ImportError as error:
            raise UsageError(f"--ray needs {error.name}: pip install 'glassrt[ray]'") from error
        self._ray = ray
        self._opened = not ray.is_initialized()
        self._idle: list[Any] = []
        self._begun: dict[Any, Any] = {}  # workers by what tells that they are placed
        self._running: dict[Any, tuple[Any, Order]] = {}
        if self._opened:
            check_answer(address)
            handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
            try:
                ray.init(address=address, log_to_driver=False, logging_level="ERROR", namespace="glassrt")
            except Exception as error:  # Ray has no base for what it raises here
                raise BackendUnavailable(f"--ray {address}: no cluster answers ({first_line(error)})") from error
            finally:
                for each, handler in handlers.items():  # Ray takes SIGTERM for itself
                    signal.signal(each, handler)
        kind, share = ("GPU", gpus) if gpus else ("CPU", cores)
        self._find_room: Callable[[], int] = lambda: workers or int(ray.cluster_resources().get(kind, 0) // share)
        if not self._find_room():
            found = ray.cluster_resources()
            self.close()
            raise BackendUnavailable(f"--ray {address}: no worker of {cores} cores and {gpus:g} GPUs fits in {found}")
        setup = msgspec.structs.replace(setup, threads=0 if gpus else cores, cwd=os.getcwd())
        # Restarting is ours: a lost worker costs an attempt of its slide, which Ray cannot know.
        actor: Any = ray.remote(num_cpus=cores, num_gpus=gpus, max_restarts=0)(Relay)
        content = msgspec.msgpack.encode([setup, limits])
        self._make: Callable[[], Any] = lambda: actor.remote(content, 0 if gpus else cores)
        self._unplaced = 0
        self._alone_since: float | None = None
        self._looked = -LOOK_S
        self._grow()

    @property
    def free(self) -> int:
        """As `Executor.free`: workers that Ray has placed."""
        return len(self._idle)

    def submit(self, order: Order) -> None:
        """As `Executor.submit`."""
        worker = self._idle.pop()
        self._running[worker.score.remote(msgspec.msgpack.encode(order))] = worker, order

    def poll(self, wait_s: float) -> Sequence[Event]:
        """As `Executor.poll`. Raises BackendUnavailable where Ray has had no place for any worker for long."""
        futures = [*self._begun, *self._running]
        ready, _ = self._ray.wait(futures, num_returns=1, timeout=wait_s) if futures else ([], [])
        if ready:
            ready, _ = self._ray.wait(futures, num_returns=len(futures), timeout=0)
        events = [event for each in ready for event in self._take(each)]
        self._grow()
        self._check_room()
        return events

    def close(self) -> None:
        """As `Executor.close`."""
        for worker in [*self._idle, *(each for each, _ in self._running.values()), *self._begun.values()]:
            with suppress(Exception):  # of one that is gone
                self._ray.kill(worker)
        self._idle, self._running, self._begun = [], {}, {}
        if self._opened:
            self._ray.shutdown()
            self._opened = False

    def _grow(self) -> None:
        """Start as many workers as there is room for, also on machines that have joined meanwhile."""
        if time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        for _ in range(self._find_room() - len(self._idle) - len(self._running) - len(self._begun)):
            self._start()

    def _start(self) -> None:
        worker = self._make()
        self._begun[worker.ready.remote()] = worker

    def _take(self, future: Any) -> list[Event]:
        if future in self._begun:
            worker = self._begun.pop(future)
            try:
                self._ray.get(future)
            except self._ray.exceptions.RayError as error:
                self._unplaced += 1
                if self._unplaced > MOST_UNPLACED:
                    raise BackendUnavailable(f"Ray cannot start workers: {first_line(error)}") from error
                self._start()
                return []
            self._unplaced = 0
            self._idle.append(worker)
            return []
        worker, order = self._running.pop(future)
        try:
            event: Event = msgspec.msgpack.decode(self._ray.get(future), type=Done | Failed | Lost)
        except self._ray.exceptions.RayError as error:
            self._start()
            told = (
                "its machine was lost" if isinstance(error, self._ray.exceptions.RayActorError) else first_line(error)
            )
            return [Lost(order.id, f"{told} (Ray: {type(error).__name__})", "machine")]
        self._idle.append(worker)
        return [event]

    def _check_room(self) -> None:
        if self._idle or self._running:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = time.monotonic()
        elif time.monotonic() - self._alone_since > NOBODY_S:
            raise BackendUnavailable(f"Ray has had no room for a worker for {NOBODY_S:.0f} s: are its machines there?")


def check_answer(address: str) -> None:
    """Raise BackendUnavailable if nobody listens at HOST:PORT, for which Ray would wait for minutes."""
    if not (found := re.fullmatch(r"([^/\s]+):(\d{1,5})", address)):
        return
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise BackendUnavailable(f"--ray {address}: no cluster answers ({error})") from error


class Relay:
    """An actor: one worker process of its machine, which it watches; it has cores that no other one there has."""

    def __init__(self, content: bytes, cores: int) -> None:
        setup, limits = msgspec.msgpack.decode(content, type=tuple[Setup, Limits])
        self._held, own = claim_cores(cores) if cores else ([], ())
        self._processes = Processes([msgspec.structs.replace(setup, cores=own)], limits)

    def ready(self) -> None:
        """Answers once it is placed."""

    def score(self, order: bytes) -> bytes:
        """What came of a slide."""
        self._processes.submit(msgspec.msgpack.decode(order, type=Order))
        while True:
            for event in self._processes.poll(WAIT_S):
                if isinstance(event, Done | Failed | Lost):
                    return msgspec.msgpack.encode(event)


def claim_cores(count: int) -> tuple[list[int], tuple[int, ...]]:
    """Descriptors of locks that are given up with this process, and the cores of this machine that they stand for;
    none where others have so many that these would not be its own.
    """
    folder = Path(tempfile.gettempdir()) / f"glassrt-cores-{user_number()}"
    held: list[int] = []
    own: list[int] = []
    with suppress(OSError):  # of a folder of someone else's
        folder.mkdir(mode=0o700, exist_ok=True)
        for core in list_cores():
            if len(own) == count:
                break
            descriptor = os.open(folder / str(core), os.O_RDWR | os.O_CREAT | NO_FOLLOW | CLOSE_ON_EXEC, 0o600)
            try:
                lock_file(descriptor)
            except OSError:
                os.close(descriptor)
                continue
            held.append(descriptor)
            own.append(core)
    if len(own) == count:
        return held, tuple(own)
    for descriptor in held:
        os.close(descriptor)
    return [], ()
