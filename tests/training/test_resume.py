"""Runs that were stopped or killed: they end as if they never were, and leave nothing behind."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from toy_tasks import ALONE, SLIDE, bag_task, schedule, stop

from glassrt.training import checkpoint
from glassrt.training.config import Schedule, Validation
from glassrt.training.loop import Task, fit
from glassrt.training.run import Run


def content(folder: Path) -> dict[str, bytes | str]:
    """All that a finished run is: its weights, bit for bit, and its tables."""
    weights, _ = checkpoint.load(folder / "model.safetensors")
    tables = {name: (folder / name).read_text() for name in ("metrics.csv", "validation.csv")}
    return tables | {name: value.numpy().tobytes() for name, value in weights.items()}


PATIENT = schedule(save_every=2, validation=Validation(every=2, patience=2))
DROPOUT = schedule(
    optimiser="adamw", average_decay=0.7, save_every=5, batch=3, learning_rate=0.01, validation=Validation(every=3)
)


@pytest.mark.parametrize(
    ("task", "settings", "after"),
    [
        pytest.param(SLIDE, PATIENT, 0, id="nothing saved"),
        pytest.param(SLIDE, PATIENT, 4, id="the best weights saved"),
        pytest.param(SLIDE, PATIENT, 6, id="patience half gone"),
        pytest.param(bag_task(0.5), DROPOUT, 5, id="dropout, averaged weights"),
        pytest.param(bag_task(0.5), DROPOUT, 10, id="saved twice"),
    ],
)
def test_a_stopped_run_ends_as_if_it_never_was(tmp_path: Path, task: Task[Any], settings: Schedule, after: int) -> None:
    fit(task, settings, Run(tmp_path / "straight", {}), ALONE)
    stop(task, settings, tmp_path / "broken", after)
    with open(tmp_path / "broken" / "metrics.csv", "a") as table:
        table.write("1")  # what was left of a row when the process was killed
    fit(task, settings, Run(tmp_path / "broken", {}), ALONE)
    assert content(tmp_path / "broken") == content(tmp_path / "straight")


def is_left_by_a_kill(folder: Path) -> bool:
    return any(path.name.startswith(".glassrt-") for path in folder.iterdir())


def test_what_a_killed_run_left_half_written_is_removed(tmp_path: Path) -> None:
    """States are as large as the network with all that its optimiser keeps: twenty kills would fill a disk."""
    task, settings = SLIDE._replace(validate=None), schedule(save_every=2)
    child = os.fork()
    if child == 0:
        checkpoint.save_file = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[attr-defined]
        fit(task, settings, Run(tmp_path, {}), ALONE)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert is_left_by_a_kill(tmp_path)
    fit(task, settings, Run(tmp_path, {}), ALONE)
    assert not is_left_by_a_kill(tmp_path)


def test_tables_are_whole_while_they_are_cut(tmp_path: Path) -> None:
    """Another name of the table shows that it is replaced: emptied and written again, a kill between would lose it."""
    stop(SLIDE, PATIENT, tmp_path, 6)
    before = (tmp_path / "metrics.csv").read_text()
    (tmp_path / "other.csv").hardlink_to(tmp_path / "metrics.csv")
    fit(SLIDE, PATIENT, Run(tmp_path, {}), ALONE)
    assert (tmp_path / "other.csv").read_text() == before


def test_a_table_that_was_hardly_begun_begins_again(tmp_path: Path) -> None:
    settings = schedule(save_every=2, validation=Validation(every=6))
    fit(SLIDE, settings, Run(tmp_path / "straight", {}), ALONE)
    stop(SLIDE, settings, tmp_path / "broken", 4)
    (tmp_path / "broken" / "validation.csv").write_text("step,sc")  # on a disk that was full
    fit(SLIDE, settings, Run(tmp_path / "broken", {}), ALONE)
    assert content(tmp_path / "broken") == content(tmp_path / "straight")


def test_a_state_from_before_there_was_validation_goes_on(tmp_path: Path) -> None:
    task, settings = SLIDE._replace(validate=None), schedule(save_every=2)
    stop(task, settings, tmp_path / "broken", 4)
    state = tmp_path / "broken" / "state.safetensors"
    tensors, metadata = checkpoint.load(state)
    assert set(metadata) - {"score", "misses"} == {"step"}
    checkpoint.save(state, tensors, {"step": metadata["step"]})
    fit(task, settings, Run(tmp_path / "broken", {}), ALONE)
    fit(task, settings, Run(tmp_path / "straight", {}), ALONE)
    first, second = (checkpoint.load(tmp_path / name / "model.safetensors")[0] for name in ("broken", "straight"))
    assert first == second
