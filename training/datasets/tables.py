"""Tables of comma-separated values, as sets and people write them."""

import csv
from collections.abc import Collection
from pathlib import Path

from glassrt.engine.errors import DatasetError, first_line


def read_rows(path: Path, columns: Collection[str], advice: str) -> list[dict[str, str | None]]:
    """The rows of a table that has these columns, by the names of its columns; a field that is missing is None.

    Raises DatasetError, whose line ends with the `advice`.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, skipinitialspace=True)
            rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
            if missing := [name for name in columns if name not in rows.fieldnames]:
                raise DatasetError(f"{path}: no column {missing[0]!r}; {advice}")
            return list(rows)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as a table in UTF-8 ({first_line(error)}); {advice}") from error
