"""How the figures of a benchmark are printed."""

from typing import Any

from rich import box
from rich.console import Console

from glassrt.engine.commands.terminal import PlainTable
from glassrt.engine.runtimes.isa import count_cores, cpu_isa, processor_name


def print_machine(legend: str) -> None:
    """Print what the short names of columns stand for, and the processor."""
    print(f"{legend}\n{processor_name()}, {cpu_isa()}, {count_cores()} cores")


def print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows of like keys as a table."""
    table = PlainTable(title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in rows[0]:
        table.add_column(name.replace("_", " "))
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
