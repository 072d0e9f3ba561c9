"""Cells of tables that spreadsheets show and do not run."""

import re

FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")  # begins a cell that spreadsheets would run, or one marked as text
NEGATIVE = re.compile(r"-\d+(\.\d+)?(e[+-]\d+)?")  # a number, which nothing runs


def as_text(cell: str) -> str:
    """A cell that spreadsheets show and do not run."""
    return f"'{cell}" if FORMULA.match(cell) and not NEGATIVE.fullmatch(cell) else cell


def plain_text(cell: str) -> str:
    """A cell as it was before `as_text`."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
