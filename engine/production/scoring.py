"""One slide of a batch: whatever goes wrong with it becomes a line."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.errors import FolderTaken, GlassError, OutputError, SlideError, UsageError
from glassrt.engine.results.figures import Result
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.tissue.annotations import AUTO, choose_mask
from glassrt.engine.tasks.request import make_request
from glassrt.engine.tasks.scoring import score_work
from glassrt.engine.tasks.segment import DEFAULT_READERS
from glassrt.engine.tasks.work import Work
from glassrt.engine.watch import Progress, Watch

Done = TypeVar("Done")


class Fault(NamedTuple):
    """Why a piece of work failed, in a line and in a word that counts alike ones."""

    error: str
    reason: str


class Job(NamedTuple):
    """How a slide is scored. `mpp` replaces what the file says, `map_mpp` is the map's pixel size.

    `tissue` is `auto`, `all`, the path of a mask, or a folder of masks named like the slides.
    """

    bundle: Bundle
    backend: Backend
    mpp: float | None = None
    map_mpp: float | None = None
    readers: int = DEFAULT_READERS
    tissue: str = AUTO


def score_path(path: Path, given: Path | str, folder: Path, job: Job, progress: Progress) -> Result | Fault:
    """Score the slide at `path`, which was `given` as such or is a copy of that, into `folder`."""

    def work() -> Result:
        with open_slide(path, job.mpp, given) as slide:
            start, tissue = time.perf_counter(), choose_mask(job.tissue, Path(given))
            request = make_request(slide, job.bundle, job.backend, job.map_mpp, tissue)
            work = Work(request, slide, job.bundle, job.backend, tissue, job.readers, Watch(progress))
            return score_work(work, folder, start)

    found = attempt(path, work)
    return found._replace(error=found.error.replace(str(path), str(given))) if isinstance(found, Fault) else found


def attempt(path: Path, work: Callable[[], Done]) -> Done | Fault:
    """What a piece of work on the file at `path` returns, or why it failed.

    Raises OutputError and UsageError: what comes after would fail in the same way.
    """
    try:
        return work()
    except FolderTaken as error:  # since it was looked at before the first slide
        return Fault(str(error), "folder")
    except (OutputError, UsageError):
        raise
    except GlassError as error:
        return Fault(str(error), "slide" if isinstance(error, SlideError) else "runtime")
    except OSError as error:  # what fails in writing is an OutputError
        return Fault(f"{path}: reading it failed ({error.strerror or error}); is its disk still there?", "disk")
    except MemoryError:
        return Fault(f"{path}: memory ran out; score fewer slides at once (--workers)", "memory")
    except Exception as error:  # whatever a broken slide sets off must not end a night's work
        if isinstance(error.__context__, KeyboardInterrupt):  # which came while a lock was waited for
            raise error.__context__ from None
        return Fault(" ".join(f"{path}: unexpected {type(error).__name__}: {error}".split()), "unexpected")
