"""What a running training writes down: tables, TensorBoard events and pictures."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from glassrt.engine.errors import TrainingError
from glassrt.engine.files import replace_file
from glassrt.training import pictures

VALIDATION = "validation.csv"


class Log:
    """Metrics and pictures of a running training, as CSV, TensorBoard events and JPEG files."""

    def __init__(self, folder: Path, table: TextIO, first: int) -> None:
        self.folder = folder
        self.table = table
        with open(table.name, newline="") as written:
            self.columns = next(csv.reader(written), [])
        self.board = SummaryWriter(folder / "tensorboard", purge_step=first, max_queue=100)

    def write(
        self, step: int, loss: float, learning_rate: float, parts: Mapping[str, float], score: float | None
    ) -> None:
        """One step's figures: the loss, its parts by name, and the validation score after the step if there is one.

        Raises TrainingError if the parts are not those of the steps before: they would stand in others' columns.
        """
        row = {"step": step, "loss": f"{loss:.5f}", "learning_rate": f"{learning_rate:.3g}"}
        columns = [*row, *parts]
        self.columns = self.columns or list(dict.fromkeys(columns))
        if columns != self.columns:
            raise TrainingError(
                f"{self.folder}: the columns of metrics.csv are {', '.join(self.columns)}, but step {step} gives "
                f"{', '.join(columns)}; a loss names the same parts at every step, none like another column"
            )
        add_row(self.table, row | {name: f"{value:.5f}" for name, value in parts.items()})
        for name, value in {"loss": loss, "learning rate": learning_rate, **parts}.items():
            self.board.add_scalar(name, value, step)
        if score is not None:
            with open(self.folder / VALIDATION, "a", newline="") as table:
                add_row(table, {"step": step, "score": f"{score:.5f}"})
            self.board.add_scalar("validation", score, step)

    def show(self, step: int, picture: NDArray[np.uint8]) -> None:
        """One picture, RGB `[H, W, 3]`."""
        pictures.write(picture, self.folder / "samples" / f"step_{step + 1:06}.jpg")
        self.board.add_image("sample", picture, step, dataformats="HWC")

    def flush(self) -> None:
        """Onto the disk."""
        self.table.flush()
        self.board.flush()


def add_row(table: TextIO, row: Mapping[str, object]) -> None:
    """Append a row to a table as CSV, below the names of its columns if it is the first."""
    writer = csv.writer(table, lineterminator="\n")
    if not table.tell():
        writer.writerow(row)
    writer.writerow(row.values())


def cut_table(path: Path, first: int) -> None:
    """Keep the rows of the steps before `first`, as far as they were written to their ends."""
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True) if first else []
    kept = [line for line in lines[1:] if line.endswith("\n") and int(line.split(",")[0]) < first]
    with replace_file(path) as beside:
        beside.write_text("".join([*lines[:1], *kept] if kept else []))
