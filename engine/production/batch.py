"""Many slides: each on its own, one summary for all."""

import os
import time
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.kinds.mil import Mil
from glassrt.engine.errors import FolderTaken, GlassError, OutputError, UsageError
from glassrt.engine.files import prepare_folder, refuse_foreign
from glassrt.engine.results.figures import Result
from glassrt.engine.results.origin import RESULT, refuse_other
from glassrt.engine.results.summary import SUMMARY, Outcome, Summary
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.openslide_file import read_series
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.tissue.annotations import AUTO, check_tissue, choose_mask
from glassrt.engine.staging import PREFIX
from glassrt.engine.tasks.request import make_request
from glassrt.engine.tasks.scoring import score_work
from glassrt.engine.tasks.segment import DEFAULT_READERS
from glassrt.engine.tasks.work import Work
from glassrt.engine.watch import Progress, Watch


@dataclass(frozen=True)
class Job:
    """How every slide of a batch is scored. `mpp` replaces what the files say, `map_mpp` the map's pixel size.

    `tissue` is `auto`, `all`, the path of a mask, or a folder of masks named like the slides.
    """

    bundle: Bundle
    backend: Backend
    out: Path
    mpp: float | None = None
    map_mpp: float | None = None
    readers: int = DEFAULT_READERS
    tissue: str = AUTO

    def folder(self, path: Path) -> Path:
        """Where the results of the slide at `path` go."""
        return self.out / path.stem


Start = Callable[[Path], Progress]
Done = TypeVar("Done")


def score_batch(paths: Iterable[Path], job: Job, start: Start) -> list[Outcome]:
    """Score every slide; one that fails does not stop the rest.

    `start(path)` is called before each slide and returns its progress callback. Raises, before any work, UsageError
    when two slides would share a folder or two files are one slide, and FolderTaken when one would replace what is not
    its own or the output folder is itself a result's; and OutputError when results cannot be written: then no later
    slide could.
    """
    paths = list(paths)
    check_names(paths)
    check_series(paths)
    check_tissue(job.tissue, paths)
    if (job.out / RESULT).is_file():
        raise FolderTaken(f"{job.out} is the folder of one slide's result; choose another --out")
    prepare_folder(job.out)
    check_folders(paths, job)
    told = job.bundle.segmentation
    asked = told.slide_scores
    summary = Summary(
        job.out, [info.name for info in told.classes[1:]], asked.of if asked else None, isinstance(told, Mil)
    )
    summary.begin()
    outcomes = []
    for path in paths:
        outcomes.append(score_path(path, job, start(path)))
        summary.add(outcomes[-1])
    return outcomes


def score_path(path: Path, job: Job, progress: Progress) -> Outcome:
    """Score one slide and turn whatever goes wrong with it into an outcome."""

    def work() -> Result:
        with open_slide(path, job.mpp) as slide:
            start, tissue = time.perf_counter(), choose_mask(job.tissue, path)
            request = make_request(slide, job.bundle, job.backend, job.map_mpp, tissue)
            work = Work(request, slide, job.bundle, job.backend, tissue, job.readers, Watch(progress))
            return score_work(work, job.folder(path), start)

    found = attempt(path, work)
    return Outcome(path, error=found) if isinstance(found, str) else Outcome(path, found)


def attempt(path: Path, work: Callable[[], Done]) -> Done | str:
    """What a piece of work on the file at `path` returns, or the line that says why it failed.

    Raises OutputError and UsageError: what comes after would fail in the same way.
    """
    try:
        return work()
    except FolderTaken as error:  # since it was looked at before the first slide
        return str(error)
    except (OutputError, UsageError):
        raise
    except GlassError as error:
        return str(error)
    except OSError as error:  # what fails in writing is an OutputError
        return f"{path}: reading it failed ({error.strerror or error}); is its disk still there?"
    except Exception as error:  # whatever a broken slide sets off must not end a night's work
        if isinstance(error.__context__, KeyboardInterrupt):  # which came while a lock was waited for
            raise error.__context__ from None
        return " ".join(f"{path}: unexpected {type(error).__name__}: {error}".split())


def check_names(paths: Sequence[Path], table: str = SUMMARY) -> None:
    """Raise UsageError if slides' names do not make folders of their own, beside the `table` of all.

    Names that differ in case only are one to Windows and macOS, where results may lie or be copied to.
    """
    owners: dict[str, Path] = {}
    for path in paths:
        if not is_unicode(str(path)):
            raise UsageError(f"{str(path)!r}: the name is no valid UTF-8, which result files need; rename it")
        if path.stem in ("", ".", "..") or path.stem.startswith(PREFIX):
            raise UsageError(f"{path}: no folder of results can have its name; rename the slide")
        if fold(path.stem) == table:
            raise UsageError(f"{path}: its folder would stand where {table} belongs; rename the slide")
        other = owners.setdefault(fold(path.stem), path)
        if other is not path and other.stem == path.stem:
            raise UsageError(
                f"{other} and {path} would both write to the folder {path.stem}: score them with two --out"
            )
        if other is not path:
            raise UsageError(f"{other} and {path} differ in case only, which not every disk does: use two --out")


def check_series(paths: Iterable[Path]) -> None:
    """Raise UsageError if two files are of one DICOM series, which is one slide."""
    folders: dict[str, list[Path]] = {}
    for path in paths:
        if path.suffix.lower() == ".dcm":
            folders.setdefault(os.path.realpath(path.parent), []).append(path)
    for files in folders.values():
        owners: dict[str, Path] = {}
        for path in files if len(files) > 1 else ():
            series = read_series(path)
            if series and owners.setdefault(series, path) is not path:
                raise UsageError(
                    f"{owners[series]} and {path} are of one DICOM series, one slide: name one of its files"
                )


def check_folders(paths: Sequence[Path], job: Job) -> None:
    """Raise FolderTaken if what stands in the output folder is not for these slides to replace."""
    alike: dict[str, set[str]] = {}
    for name in os.listdir(job.out):
        alike.setdefault(fold(name), set()).add(name)
    for path in paths:
        folder = job.folder(path)
        if others := alike.get(fold(folder.name), set()) - {folder.name}:
            raise FolderTaken(
                f"{job.out / min(others)} differs from the name of {path} in case only, which not every disk does: "
                "choose another --out"
            )
        refuse_foreign(folder, RESULT)
        refuse_other(folder, path, known=True)


def fold(name: str) -> str:
    """What file systems that ignore case and ways to write accents see of a name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def is_unicode(text: str) -> bool:
    """Whether a file's name is text that can be written down again."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
