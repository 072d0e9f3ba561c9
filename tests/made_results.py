"""Results of slides that nobody scored, as they lie in a folder."""

import csv
from pathlib import Path

from glassrt.engine.files import readable_json
from glassrt.engine.results.figures import ClassResult, Result, SlideScoresResult, TissueResult
from glassrt.engine.results.origin import RESULT, describe_origin
from glassrt.engine.results.summary import SUMMARY, Outcome

GLAND = ClassResult(0.25, 0.5, 0.125, 3)


def make_result(
    path: Path,
    classes: tuple[str, ...] = ("gland",),
    tissue: float = 2.0,
    scores: SlideScoresResult | None = None,
) -> Result:
    return Result(
        slide={"name": path.stem, **describe_origin(path)},
        frame={},
        bundle={"name": "glands"},
        backend={},
        tissue_mm2=tissue,
        analysed_mm2=3.0,
        tissue=TissueResult("auto", (10, 10)),
        classes={"other": ClassResult(0.75, 0.5, None, None), **dict.fromkeys(classes, GLAND)},
        map={},
        windows={"run": 7, "skipped": 1},
        seconds={"total": 1.5},
        versions={},
        warnings=(),
        note="",
        slide_scores=scores,
    )


def write_result(out: Path, path: Path, **more: object) -> Outcome:
    """The outcome of a slide at `path` whose results lie in `out`."""
    result = make_result(path, **more)  # type: ignore[arg-type]
    (out / path.stem).mkdir(parents=True, exist_ok=True)
    (out / path.stem / RESULT).write_bytes(readable_json(result))
    return Outcome(path, result)


def read_rows(out: Path) -> list[dict[str, str]]:
    with open(out / SUMMARY, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
