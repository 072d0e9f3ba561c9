"""Training state on disk: safetensors only, written whole or not at all.

A run folder holds `config.toml`, `metrics.csv`, `state.safetensors` (to resume) and, when the run is
complete, `model.safetensors` (to export). Nothing is ever unpickled.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from glassrt.engine.errors import OutputError, TrainingError
from glassrt.engine.files import replace_file


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write `tensors` with string `metadata` to `path`, replacing what stood there in one step."""
    with replace_file(path) as beside:
        try:
            save_file({name: value.detach().contiguous() for name, value in tensors.items()}, beside, dict(metadata))
        except SafetensorError as error:
            raise OutputError(f"{path}: cannot be written ({error}); free space or choose another --out") from error


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of `path`."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except FileNotFoundError as error:
        raise TrainingError(f"{path} does not exist: train the run to its end first") from error
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"{path} is not a readable safetensors file: {error}") from error


def load_into(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load `tensors` into `network`; names and shapes must match exactly."""
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise TrainingError(f"{path} belongs to another network: {str(error).splitlines()[1].strip()}") from error


def flatten_optimiser(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors by name, for a safetensors file."""
    state: dict[int, dict[str, Any]] = optimiser.state_dict()["state"]
    return {f"{index}.{key}": torch.as_tensor(value) for index, slots in state.items() for key, value in slots.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The reverse of `flatten_optimiser`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
