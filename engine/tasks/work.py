"""What a kind of bundle is given to do to one slide, and how it does it."""

from pathlib import Path
from typing import NamedTuple, Protocol

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.results.figures import Result
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.slide import Overview, Slide
from glassrt.engine.slides.tissue.scope import Tissue
from glassrt.engine.tasks.request import Request
from glassrt.engine.watch import Watch


class Work(NamedTuple):
    """A request with all that it names opened; the caller closes it."""

    request: Request
    slide: Slide
    bundle: Bundle
    backend: Backend
    tissue: Tissue
    readers: int
    watch: Watch
    overview: Overview | None = None  # in which tissue is looked for, in place of the slide


class Task(Protocol):
    """What is done to one slide. Making it looks the slide over and refuses what cannot be scored."""

    def __init__(self, work: Work) -> None: ...

    def run(self, folder: Path, out: Path) -> Result:
        """Fill the empty `folder`, of which messages say `out`, but for `result.json`; return what goes there."""
