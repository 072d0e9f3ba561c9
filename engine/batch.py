"""Many slides: each on its own, one summary for all."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from glassrt.engine.backends import Backend
from glassrt.engine.bundle import Bundle
from glassrt.engine.errors import GlassError, OutputError, UsageError
from glassrt.engine.files import prepare_folder, refuse_foreign, replace_file
from glassrt.engine.results import Result
from glassrt.engine.scoring import RESULT, score
from glassrt.engine.segment import DEFAULT_READERS, Progress
from glassrt.engine.slide import open_slide

SUMMARY = "summary.csv"


@dataclass(frozen=True)
class Outcome:
    """What became of one slide: its figures, or the one line that says why there are none."""

    path: Path
    result: Result | None = None
    error: str = ""

    @property
    def status(self) -> str:
        if self.result is None:
            return "failed"
        return "no tissue" if self.result.note else "scored"


@dataclass(frozen=True)
class Job:
    """How every slide of a batch is scored. `mpp` replaces what the files say, `map_mpp` the map's pixel size."""

    bundle: Bundle
    backend: Backend
    out: Path
    mpp: float | None = None
    map_mpp: float | None = None
    readers: int = DEFAULT_READERS

    def folder(self, path: Path) -> Path:
        """Where the results of the slide at `path` go."""
        return self.out / path.stem


Start = Callable[[Path], Progress]


@dataclass
class Summary:
    """The outcomes so far, kept in `summary.csv`, which is complete after every slide."""

    job: Job
    outcomes: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Add an outcome and write the file anew, whole."""
        self.outcomes.append(outcome)
        text = io.StringIO()
        rows = csv.writer(text)
        found = [info.name for info in self.job.bundle.manifest.classes[1:]]
        figures = [
            f"{name}_{figure}" for name in found for figure in ("mm2", "probability", "tissue_fraction", "regions")
        ]
        rows.writerow(["slide", "status", "tissue_mm2", "analysed_mm2", *figures, "windows", "seconds", "error"])
        for each in self.outcomes:
            values = summary_figures(each.result, found) if each.result else [""] * (len(figures) + 4)
            rows.writerow([each.path, each.status, *values, each.error])
        with replace_file(self.job.out / SUMMARY) as beside:
            beside.write_text(text.getvalue())


def summary_figures(result: Result, names: Sequence[str]) -> list[str]:
    """The figures of a row: of the slide, of each class in `names`, and of the work."""
    values: list[float | None] = [result.tissue_mm2, result.analysed_mm2]
    for name in names:
        found = result.classes[name]
        values += [found.area_mm2, found.mean_probability, found.tissue_fraction, found.regions]
    values += [result.windows["run"], result.seconds["total"]]
    return [f"{value:.6g}" if isinstance(value, float) else str(value) for value in values]


def score_batch(paths: Iterable[Path], job: Job, start: Start) -> list[Outcome]:
    """Score every slide; one that fails does not stop the rest.

    `start(path)` is called before each slide and returns its progress callback. Raises UsageError when two
    slides would share a folder and OutputError when results cannot be written: then no later slide could.
    """
    paths = list(paths)
    check_folders(paths, job)
    prepare_folder(job.out)
    summary = Summary(job)
    for path in paths:
        summary.add(score_path(path, job, start(path)))
    return summary.outcomes


def score_path(path: Path, job: Job, progress: Progress) -> Outcome:
    """Score one slide and turn whatever goes wrong with it into an outcome."""
    try:
        with open_slide(path, job.mpp) as slide:
            folder = job.folder(path)
            return Outcome(path, score(slide, job.bundle, folder, job.backend, job.map_mpp, job.readers, progress))
    except (OutputError, UsageError):
        raise
    except GlassError as error:
        return Outcome(path, error=str(error))
    except Exception as error:  # whatever a broken slide sets off must not end a night's work
        if isinstance(error.__context__, KeyboardInterrupt):  # which came while a lock was waited for
            raise error.__context__ from None
        return Outcome(path, error=" ".join(f"{path}: unexpected {type(error).__name__}: {error}".split()))


def check_folders(paths: Sequence[Path], job: Job) -> None:
    """Raise before any work if results would land in one folder, or where something else stands."""
    owners: dict[Path, Path] = {}
    for path in paths:
        if not is_unicode(str(path)):
            raise UsageError(f"{str(path)!r}: the name is no valid UTF-8, which result files need; rename it")
        if job.folder(path) == job.out / SUMMARY:
            raise UsageError(f"{path}: its folder would stand where {SUMMARY} belongs; rename the slide")
        other = owners.setdefault(job.folder(path), path)
        if other is not path:
            raise UsageError(f"{other} and {path} would both write to {job.folder(path)}: score them with two --out")
        refuse_foreign(job.folder(path), RESULT)


def is_unicode(text: str) -> bool:
    """Whether a file's name is text that can be written down again."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
