"""What the terminal shows of names that others chose: as they are, in one line, nothing carried out."""

import unicodedata
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

UNSHOWN = {"Cc", "Cs", "Zl", "Zp"}  # Unicode's categories: controls, lone surrogates, other ends of lines


def printable(text: str, keep: str = "") -> str:
    """`text` with what would move the cursor or end the line written out, but for the characters in `keep`."""
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in UNSHOWN and char not in keep else char
        for char in text
    )


class PlainTable(Table):
    """A table that shows texts as they are: brackets are no markup, `:name:` is no emoji."""

    def __init__(self, title: str = "", **options: Any) -> None:
        super().__init__(title=as_shown(title) if title else None, **options)  # type: ignore[arg-type]

    def add_column(self, header: RenderableType = "", *arguments: Any, **options: Any) -> None:
        super().add_column(as_shown(header), *arguments, **options)

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        super().add_row(*(as_shown(cell) for cell in cells if cell is not None), **options)


def as_shown(cell: RenderableType) -> RenderableType:
    """A cell whose text, if it is one, rich does not read as markup."""
    return Text(printable(cell)) if isinstance(cell, str) else cell
