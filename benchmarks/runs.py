"""Runs that a benchmark trains and scores, each once, so that a stopped benchmark goes on; and what many gave."""

import hashlib
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from glassrt.engine.errors import DatasetError
from glassrt.engine.files import replace_file
from glassrt.training.datasets.mosaic import INDEX


def score_once(run: Path, mosaics: Sequence[Path], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The scores of the finished run in folder `run` on slides in the folders `mosaics`.

    They are kept in `scores.json` beside the run's model, and measured anew for another model or other slides.
    """
    file = run / "scores.json"
    digest = hashlib.sha256()
    for each in (run / "model.safetensors", *(folder / INDEX for folder in mosaics)):
        digest.update(each.read_bytes())
    known = msgspec.json.decode(file.read_bytes()) if file.exists() else {}
    if known.get("of") == digest.hexdigest():
        return dict(known["scores"])
    scores = measure()
    with replace_file(file) as beside:
        beside.write_bytes(msgspec.json.encode({"of": digest.hexdigest(), "scores": scores}))
    return scores


def lay_once(
    make: Callable[[Path, Path, str, dict[str, int], int, int], None],
    data: Path,
    folder: Path,
    layout: str,
    slides: dict[str, int],
    cells: int,
    seed: int,
) -> None:
    """Have `make` lay mosaics of the images in `data`, where `folder` does not hold them yet.

    Raises DatasetError if other mosaics lie there, which runs beside them were trained on.
    """
    if not (folder / INDEX).exists():
        make(data, folder, layout, slides, cells, seed)
        return
    asked = {"layout": layout, "slides": slides, "images_a_side": cells, "seed": seed}
    found = msgspec.json.decode((folder / INDEX).read_bytes())
    if any(found.get(key) != value for key, value in asked.items()):
        raise DatasetError(f"{folder} holds other mosaics than those asked for: choose another --out, or remove it")


def spread(values: Sequence[float]) -> str:
    """The mean and standard deviation of those that are known, as a table shows them."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "-"
    return f"{statistics.fmean(known):.1f}" + (f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else "")
