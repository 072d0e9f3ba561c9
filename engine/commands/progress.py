"""Progress bars of a batch: the slide at hand with windows per second and time left, and the slides done."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from glassrt.engine.commands.terminal import printable
from glassrt.engine.watch import Progress as WindowProgress


class WindowRate(ProgressColumn):
    """Windows per second of the slide at hand."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.0f} windows/s" if speed and task.fields.get("windows") else "")


class Bars:
    """A context manager that shows the bars; `start` opens the next slide's and returns its callback."""

    def __init__(self, console: Console, slides: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            WindowRate(),
            TimeRemainingColumn(),
            console=console,
        )
        self._slides, self._started = slides, 0
        self._task = self._progress.add_task("", total=None, windows=True, visible=False)

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def start(self, path: Path) -> WindowProgress:
        """Begin the bar of the slide at `path`; the returned callback takes windows done and in all."""
        self._started += 1
        number = f"[{self._started}/{self._slides}] " if self._slides > 1 else ""
        self._progress.reset(self._task, description=number + printable(path.name), total=None, visible=True)

        def advance(done: int, total: int) -> None:
            self._progress.update(self._task, completed=done, total=total)

        return advance
