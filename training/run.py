"""The folder of one training run: what it wrote down, where it stands, and what it made."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from glassrt.engine.errors import TrainingError
from glassrt.engine.files import output_errors, prepare_folder, replace_file
from glassrt.training import checkpoint
from glassrt.training.config import Strict, as_toml
from glassrt.training.log import VALIDATION, Log, cut_table
from glassrt.training.validation import Best
from glassrt.training.world import World


@dataclass(frozen=True)
class Run:
    """A run folder and what identifies the run: `metadata`, the strings that its checkpoints carry."""

    folder: Path
    metadata: dict[str, str]

    @property
    def state(self) -> Path:
        """Where an unfinished run goes on."""
        return self.folder / "state.safetensors"

    @property
    def model(self) -> Path:
        """The finished run's weights."""
        return self.folder / "model.safetensors"

    def is_finished(self) -> bool:
        """Whether the model of this very run is there. Raises TrainingError for the model of another one."""
        if not self.model.exists():
            return False
        self.check(self.model, checkpoint.load(self.model)[1])
        return True

    def check(self, path: Path, metadata: dict[str, str]) -> None:
        """Raise TrainingError unless `path` was written by this run."""
        if any(metadata.get(name) != value for name, value in self.metadata.items()):
            raise other_run(path)

    def resume(self, network: nn.Module, average: AveragedModel, optimiser: torch.optim.Optimizer) -> tuple[int, Best]:
        """Load what `save` wrote, if anything; returns the number of the next step and the best so far."""
        if not self.state.exists():
            return 0, Best()
        tensors, metadata = checkpoint.load(self.state)
        self.check(self.state, metadata)
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimiser": {}, "best": {}}
        for name, value in tensors.items():
            part, key = name.split("/", 1)
            parts[part][key] = value
        checkpoint.load_into(network, parts["network"], self.state)
        checkpoint.load_into(average, parts["average"], self.state)
        checkpoint.restore_optimiser(optimiser, parts["optimiser"])
        if not parts["best"]:
            return int(metadata["step"]), Best()
        return int(metadata["step"]), Best(float(metadata["score"]), int(metadata["misses"]), parts["best"])

    def save(
        self, step: int, network: nn.Module, average: AveragedModel, optimiser: torch.optim.Optimizer, best: Best
    ) -> None:
        """All that `resume` needs to go on at `step` as if never stopped."""
        parts: dict[str, dict[str, Any]] = {
            "network": network.state_dict(),
            "average": average.state_dict(),
            "optimiser": checkpoint.flatten_optimiser(optimiser),
            "best": dict(best.weights),
        }
        if not all_finite(parts["network"]):
            return  # the next step will say so; what was saved before stays
        tensors = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
        place = {"step": str(step), "score": repr(best.score), "misses": str(best.misses)}
        checkpoint.save(self.state, tensors, {**place, **self.metadata})

    def finish(self, network: nn.Module) -> None:
        """Write the model; there is nothing to resume any more. Raises TrainingError if weights are no numbers."""
        if not all_finite(network.state_dict()):
            raise TrainingError(f"{self.folder}: the last step left weights that are no numbers; lower learning_rate")
        checkpoint.save(self.model, network.state_dict(), self.metadata)
        self.state.unlink(missing_ok=True)

    @contextmanager
    def open_log(self, first: int, write: bool) -> Iterator[Log | None]:
        """The log from step `first` on; None where not to `write`.

        What a killed run left is removed: rows from steps beyond, files half-written.
        """
        if not write:
            yield None
            return
        path = self.folder / "metrics.csv"
        prepare_folder(self.folder)
        with output_errors(path):
            cut_table(path, first)
            cut_table(self.folder / VALIDATION, first)
        with open(path, "a", newline="") as table:
            log = Log(self.folder, table, first)
            try:
                with output_errors(path, self.folder):
                    yield log
            finally:
                log.board.close()


def all_finite(weights: dict[str, Tensor]) -> bool:
    """Whether every weight is a number."""
    return all(bool(value.isfinite().all()) for value in weights.values())


def other_run(path: Path) -> TrainingError:
    """What to say of a file that another run wrote."""
    return TrainingError(f"{path} was written with other settings or data: choose another --out or delete the folder")


def keep_config(config: Strict, folder: Path, world: World) -> None:
    """Write `config.toml`. Raises TrainingError if the folder holds weights of another configuration."""
    path = folder / "config.toml"
    with output_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        other = path.exists() and path.read_text() != as_toml(config)
    if other and any(folder.glob("*.safetensors")):
        raise other_run(path)
    world.wait()
    if world.leads:
        with replace_file(path) as beside:
            beside.write_text(as_toml(config))
