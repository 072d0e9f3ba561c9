"""Settings of a run as TOML: what is refused, what is written."""

from pathlib import Path

import msgspec
import pytest

from glassrt.engine.errors import TrainingError
from glassrt.training.config import Schedule, Strict, Validation, as_toml, load_config

PLAIN = Schedule(batch=8, steps=90, optimiser="sgd", learning_rate=0.1, weight_decay=0.0)
FULL = msgspec.structs.replace(
    PLAIN, optimiser="adam", phases=(1.0, 0.5, 0.2), validation=Validation(every=10, patience=3)
)


class Stages(Strict, frozen=True, kw_only=True):
    """Two networks, one after the other."""

    first: Schedule
    second: Schedule


@pytest.mark.parametrize("config", [PLAIN, FULL, Stages(first=FULL, second=PLAIN), Stages(first=PLAIN, second=FULL)])
def test_settings_survive_writing(tmp_path: Path, config: Strict) -> None:
    (tmp_path / "c.toml").write_text(as_toml(config))
    assert load_config(tmp_path / "c.toml", type(config)) == config


def test_a_schedule_without_the_newer_settings_is_written_as_before_there_were_any() -> None:
    """Or no run from then could go on."""
    assert msgspec.json.decode(msgspec.json.encode(PLAIN)) == {
        "batch": 8,
        "steps": 90,
        "optimiser": "sgd",
        "learning_rate": 0.1,
        "weight_decay": 0.0,
        "warmup_steps": 0,
        "average_decay": 0.0,
        "seed": 1,
        "save_every": 100,
        "sample_every": 500,
    }


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"adam"', '"rmsprop"', r"'rmsprop' - at `\$\.optimiser`"),
        ("[1.0, 0.5, 0.2]", "[]", r"length >= 1 - at `\$\.phases`"),
        ("[1.0, 0.5, 0.2]", "[1.0, 0.0]", r"> 0\.0 - at `\$\.phases\[1\]`"),
        ("[1.0, 0.5, 0.2]", "0.5", r"at `\$\.phases`"),
        ("\nevery = 10", "\nevery = 0", r">= 1 - at `\$\.validation\.every`"),
        ("\nevery = 10\n", "\n", r"missing required field `every` - at `\$\.validation`"),
        ("patience = 3", "patience = 0", r">= 1 - at `\$\.validation\.patience`"),
        ("patience = 3", "patient = 3", r"unknown field `patient` - at `\$\.validation`"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in as_toml(FULL)
    (tmp_path / "c.toml").write_text(as_toml(FULL).replace(old, new))
    with pytest.raises(TrainingError, match=says):
        load_config(tmp_path / "c.toml", Schedule)
