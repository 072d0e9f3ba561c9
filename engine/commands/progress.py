"""How far long work is, on standard error: bars on a terminal, elsewhere a plain line now and then."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from glassrt.engine.commands.terminal import printable

LINES_EVERY_S = 30.0  # a day's training is then some thousands of lines, and nobody waits long for the next


class Advance(Protocol):
    """What a stage is told with: how much is done, of how much, and what else is to be shown."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


class Bars:
    """A context manager that shows each stage's bar on a terminal: time left, and in a batch the rate.

    The stages of a batch share one bar, so that many of them do not fill the terminal.
    """

    def __init__(self, console: Console, unit: str, batch: bool = False) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            *([RateColumn(unit)] if batch else []),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            redirect_stdout=is_live(Console()),  # else what is printed to a file would come out here
        )
        self._batch = batch

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def start(self, name: str, total: int | None = None) -> Advance:
        """Begin the stage `name`, of `total` pieces if that is known."""
        for older in self._progress.task_ids if self._batch else ():
            self._progress.remove_task(older)
        task = self._progress.add_task(printable(name), total=total, note="")

        def advance(done: int, total: int, note: str = "") -> None:
            self._progress.update(task, completed=done, total=total, note=note)

        return advance


class RateColumn(ProgressColumn):
    """Pieces per second of the stage at hand."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.0f} {self._unit}/s" if speed else "")


class Lines:
    """A context manager that writes, where no terminal is, a plain line on the stage at hand every `every_s` seconds.

    The first comes after as long; one more tells of each stage that took longer than that. What ends in an exception
    is left to those who tell of it.
    """

    def __init__(self, console: Console, unit: str, every_s: float) -> None:
        self._console, self._unit, self._every_s = console, unit, every_s
        self._written = time.monotonic()
        self._stage: Stage | None = None

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is None:
            self._finish()

    def start(self, name: str, total: int | None = None) -> Advance:
        """Begin the stage `name`."""
        self._finish()
        self._stage = stage = Stage(name, self._unit)

        def advance(done: int, total: int, note: str = "") -> None:
            stage.advance(done, total, note)
            if self._is_due():
                self._write(stage.tell())

        return advance

    def tell(self, text: str) -> None:
        """Write `text` if the last line is long enough ago."""
        if self._is_due():
            self._write(text)

    def _is_due(self) -> bool:
        return time.monotonic() - self._written >= self._every_s

    def _write(self, text: str) -> None:
        self._written = time.monotonic()
        with contextlib.suppress(OSError):  # a log on a full disk is no reason to end the work
            self._console.file.write(f"{printable(text)}\n")
            self._console.file.flush()

    def _finish(self) -> None:
        if self._stage is not None and self._stage.elapsed_s() >= self._every_s:
            self._write(self._stage.tell_end())


class Stage:
    """How far one stage is. The rate counts from the first call on: what a resumed run finds done took no time."""

    def __init__(self, name: str, unit: str) -> None:
        self._name, self._unit = name, unit
        self._begun = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._done, self._total, self._note = 0, 0, ""

    def advance(self, done: int, total: int, note: str) -> None:
        """Take note of how much is done."""
        self._done, self._total, self._note = done, total, note
        if self._first is None:
            self._first = time.monotonic(), done

    def elapsed_s(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self._begun

    def tell(self) -> str:
        """What is done of how much, the rate and the time left as far as they are known, the note."""
        rate = self._rate()
        if rate <= 0:
            return self._line()
        return self._line(f"{show_rate(rate)} {self._unit}/s", f"{show_time((self._total - self._done) / rate)} left")

    def tell_end(self) -> str:
        """What was done of how much, how long it took, the note."""
        return self._line(f"took {show_time(self.elapsed_s())}")

    def _line(self, *parts: str) -> str:
        counts = (f"{self._done} of {self._total} {self._unit}",) if self._first else ()
        return f"{self._name}: {', '.join((*counts, *parts, *filter(None, (self._note,))))}"

    def _rate(self) -> float:
        since, before = self._first or (math.inf, 0)
        elapsed = time.monotonic() - since
        return (self._done - before) / elapsed if elapsed > 0 else 0.0


def show_progress(unit: str, *, batch: bool = False, shown: bool = True) -> Bars | Lines:
    """Bars or lines for stages that are counted in `unit`; nothing at all unless `shown`."""
    console = Console(stderr=True)
    if shown and is_live(console):
        return Bars(console, unit, batch)
    return Lines(console, unit, LINES_EVERY_S if shown else math.inf)


@contextlib.contextmanager
def show_status(command: str, first: str = "") -> Iterator[Callable[[str], None]]:
    """Show what runs at the moment; what is yielded is told it. `first` is shown on a terminal until then."""
    console = Console(stderr=True)
    if is_live(console):
        with console.status(Text(first)) as status:
            yield lambda text: status.update(Text(printable(text)))
    else:
        with Lines(console, "", LINES_EVERY_S) as lines:
            yield lambda text: lines.tell(f"{command}: {text}")


def is_live(console: Console) -> bool:
    """Whether bars can move there: a file cannot show them, whatever variables like FORCE_COLOR make of it."""
    return console.is_interactive and console.file.isatty()


def show_rate(rate: float) -> str:
    """A rate, as precise as it is of use."""
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"


def show_time(seconds: float) -> str:
    """Minutes and seconds, `6:44`, with hours where there are any, `1:06:44`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
