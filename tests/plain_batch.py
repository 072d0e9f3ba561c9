"""Slides that are scored at once, and what a batch of them leaves."""

import csv
from pathlib import Path

import numpy as np
import tifffile

from glassrt.engine import open_bundle

BUNDLE = open_bundle()


def make_slide(path: Path, grey: int = 240) -> Path:
    """A slide of plain glass, which is scored at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"tile": (64, 64), "photometric": "rgb", "resolution": (16129, 16129), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, np.full((128, 128, 3), grey, np.uint8), **options)  # type: ignore[arg-type]
    return path


def read_rows(out: Path) -> list[str]:
    with open(out / "summary.csv", newline="", encoding="utf-8") as file:
        return [f"{row['slide']} {'failed' if row['status'] == 'failed' else 'done'}" for row in csv.DictReader(file)]


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
