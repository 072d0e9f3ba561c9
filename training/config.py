"""Settings of a run: frozen structs read from TOML, checked when they are read."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from glassrt.engine.errors import TrainingError

Count = Annotated[int, msgspec.Meta(ge=1)]
Number = Annotated[int, msgspec.Meta(ge=0)]
Rate = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Weight = Annotated[float, msgspec.Meta(ge=0)]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings whose unknown keys are errors."""


def check_lattice(side: int, stride: int) -> None:
    """Raise ValueError if squares of `side` pixels would leave gaps."""
    if not 0 < stride <= side:
        raise ValueError(f"stride {stride} must lie in 1..{side}, or pixels are left out")


class Validation(Strict, frozen=True, kw_only=True):
    """When the weights are scored, and after how many scores without a better one training stops; unset: never."""

    every: Count  # in steps
    patience: Count | UnsetType = UNSET


class Schedule(Strict, frozen=True, kw_only=True):
    """How long and how fast one network learns; see `loop.fit`.

    What is unset is not written either, so that runs from before a setting existed still know theirs.
    """

    batch: Count
    steps: Count
    optimiser: Literal["sgd", "adam", "adamw"]
    learning_rate: Rate
    weight_decay: Weight
    warmup_steps: Number = 0
    # Shares of the learning rate, each for an equal part of the steps: [1.0, 0.5, 0.2]. Unset: polynomial decay.
    phases: Annotated[tuple[Rate, ...], msgspec.Meta(min_length=1)] | UnsetType = UNSET
    # Of the running average of the weights that is served; 0 serves the last ones.
    average_decay: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    seed: Number = 1
    save_every: Count = 100
    sample_every: Count = 500
    validation: Validation | UnsetType = UNSET


T = TypeVar("T", bound=Strict)


def load_config(path: Path, kind: type[T]) -> T:
    """The settings in a TOML file. Raises TrainingError naming the file and the key."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read ({error.strerror})") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: {error}") from error


def as_toml(config: Strict) -> str:
    """The settings as TOML: plain values, which JSON writes the same way, then a table for each group."""
    values = msgspec.to_builtins(config)
    return "".join(toml_lines(values))


def toml_lines(values: dict[str, object], table: str = "") -> Iterator[str]:
    """One line a value; groups come last, as tables whose names begin with that of `table`."""
    groups = {name: value for name, value in values.items() if isinstance(value, dict)}
    yield from (f"{name} = {json.dumps(value)}\n" for name, value in values.items() if name not in groups)
    for name, group in groups.items():
        yield f"\n[{table}{name}]\n"
        yield from toml_lines(group, f"{table}{name}.")
