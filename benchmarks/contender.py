"""A contender of a benchmark in a process of its own, where nothing that others run is in its way."""

import gc
import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.parts import RunPrecision
from glassrt.engine.errors import GlassError, first_line

Probabilities = NDArray[np.float32]


class Contender(NamedTuple):
    """What computes class probabilities `[C, H, W]` of the region, and in which precision."""

    name: str
    precision: RunPrecision
    run: Callable[[], Probabilities]


Build = Callable[[Bundle, NDArray[np.uint8]], Contender | None]


class Worker:
    """A contender in its process."""

    def __init__(self, build: Build, bundle: Bundle, pixels: NDArray[np.uint8]) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawning.Pipe()
        self._process = spawning.Process(target=serve, args=(theirs, build), daemon=True)
        self._process.start()
        theirs.close()
        self.name, self.precision = self._ask((bundle, pixels))

    def classes(self) -> NDArray[np.uint8]:
        """The class of every pixel."""
        return cast(NDArray[np.uint8], self._ask("classes"))

    def time(self) -> float:
        """Seconds of one run."""
        return float(self._ask("time"))

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()

    def _ask(self, question: object) -> Any:
        try:
            self._pipe.send(question)
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise GlassError("a contender's process ended before its answer") from error
        if isinstance(answer, Exception):
            raise answer
        return answer


def serve(pipe: Connection, build: Build) -> None:
    """Build a contender of the bundle and pixels that come first; run it whenever the pipe asks, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the benchmark's own process ends this one
    try:
        contender = build(*pipe.recv())
        pipe.send((contender.name, contender.precision) if contender else (None, None))
        while contender is not None:
            asked = pipe.recv()
            start = time.perf_counter()
            probabilities = contender.run()
            seconds = time.perf_counter() - start
            pipe.send(seconds if asked == "time" else probabilities.argmax(0).astype(np.uint8))
    except (EOFError, OSError):  # the pipe was closed
        gc.freeze()  # else the process takes a second to look through all that torch has made, and end
    except Exception as error:
        name = getattr(build, "__name__", "GlassRT")
        pipe.send(GlassError(f"{name}: {type(error).__name__}: {first_line(error)}"))
