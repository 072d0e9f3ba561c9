"""What the commands that train share: options, progress, what to do next."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from glassrt.engine.commands.progress import show_progress
from glassrt.engine.errors import UsageError

CONFIGS = Path(__file__).parents[1] / "configs"
DATA = typer.Option(help="Folder of the data set.", show_default=False)
RUN = typer.Option(help="Run folder; a stopped run in it goes on.", show_default=False)


@contextmanager
def missing_packages(extra: str = "train") -> Iterator[None]:
    """Say which extra to install where an import fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(f"this needs {error.name}, which is not installed: pip install 'glassrt[{extra}]'") from error


@contextmanager
def bars(shown: bool) -> Iterator[Callable[[str, int], Callable[[int, float], None]]]:
    """Show how far each stage is, of its name and steps; what is yielded returns what to tell step and loss."""
    with show_progress("steps", shown=shown) as progress:

        def stage(name: str, steps: int) -> Callable[[int, float], None]:
            advance = progress.start(name, steps)

            def update(step: int, loss: float) -> None:
                advance(step + 1, steps, "" if math.isnan(loss) else f"loss {loss:.3f}")

            return update

        yield stage


def tell_next(run: Path) -> None:
    """What to do with a finished run."""
    print(f"{run / 'model.safetensors'}: export it with `glassrt export {run} --out NAME.glass`")
