"""Options that several commands share, and what their texts mean."""

from typing import get_args

import typer

from glassrt.engine.bundles.parts import Precision
from glassrt.engine.errors import UsageError
from glassrt.engine.runtimes.table import MOST_WINDOWS, NAMES

BACKEND = typer.Option(help=f"auto, {', '.join(NAMES)}.")
PRECISION = typer.Option(help="fp32 (exact), bf16, fp16, int8, or auto: the fastest that the bundle was verified for.")


def parse_precisions(text: str) -> tuple[Precision, ...]:
    """Precisions from `fp32,int8`; UsageError for anything else."""
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if unknown := [part for part in parts if part not in get_args(Precision)]:
        raise UsageError(f"--precision {text}: {unknown[0]!r} is none of {', '.join(get_args(Precision))}")
    return parts  # type: ignore[return-value]


def parse_counts(option: str, text: str, least: int, most: int = MOST_WINDOWS) -> tuple[int, ...]:
    """Different whole numbers from `1,8`; UsageError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and least <= int(part) <= most for part in parts):
        raise UsageError(f"{option} {text}: expected whole numbers from {least} to {most} with commas, as in 1,8")
    return tuple(dict.fromkeys(int(part) for part in parts))


def parse_scales(text: str | None) -> tuple[float, ...] | None:
    """Scales from `0.75,1,1.5`; UsageError for anything else."""
    if text is None:
        return None
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0.1 <= scale <= 10 for scale in scales) or len(set(scales)) < len(scales):
        raise UsageError(f"--scales {text}: expected different numbers from 0.1 to 10 with commas, as in 0.75,1,1.5")
    return scales
