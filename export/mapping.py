"""The process that makes maps for a run that trains beside it (Pinchaud, beta-KL, Figure 2).

It takes the newest weights that the run left, exports them, and runs them over slides as they would be served. It and
the run share a folder alone: either may end and start again.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from glassrt.engine.errors import TrainingError
from glassrt.engine.runtimes.protocol import Backend
from glassrt.export.to_onnx import export_graph
from glassrt.training import checkpoint
from glassrt.training.config import load_config
from glassrt.training.mapping import Ground, MapFolder, map_slide
from glassrt.training.methods import beta_kl
from glassrt.training.methods.beta_kl import MAP_BATCH, BetaKlConfig
from glassrt.training.run import other_run
from glassrt.training.suspects import FIRST, IDENTITY, MAPS, NEWEST, WEIGHTS, check_maps
from glassrt.training.suspicion import choose_slide
from glassrt.training.torch_backend import TorchBackend

WAIT_S = 0.5  # between looks for newer weights

Told = Callable[[int, int, str], None]


def follow_run(run: Path, data: Path, told: Told = lambda done, total, what: None, parent: int = 0) -> bool:
    """Map the slides of the run in folder `run` until it is finished, or until the process `parent` that began this one
    is gone; whether it is finished. `told` is called with steps that the weights had, of how many, and the slide that
    was mapped.

    Raises TrainingError, DatasetError or SlideError.
    """
    file = run / "config.toml"
    if not file.exists():
        raise TrainingError(f"{run} holds no run: start `glassrt train beta-kl --out {run}` first")
    config = load_config(file, BetaKlConfig)
    if config.mapping != "beside":
        raise TrainingError(f'{file} says mapping = "{config.mapping}": this run makes its maps itself')
    grounds = beta_kl.open_grounds(config, beta_kl.find_slides(config, data))
    if not config.alpha:
        raise TrainingError(f"{file} says alpha = 0: this run draws from no map")
    mapper: Mapper | None = None
    while not (run / "model.safetensors").exists():
        if parent not in (0, os.getppid()):
            return False
        if mapper is None and (run / MAPS / IDENTITY).exists():  # the run has begun
            mapper = Mapper(config, grounds, run)
        if mapper is not None and mapper.load_newest() and (ground := mapper.map_next()):
            told(mapper.steps, config.steps, ground.slide.name)
        else:
            time.sleep(WAIT_S)
    return True


class Mapper:
    """Maps one slide after another with the newest weights, none twice with the same."""

    def __init__(self, config: BetaKlConfig, grounds: Sequence[Ground], run: Path) -> None:
        self._config, self._grounds, self._run, self._weights = config, grounds, run, run / WEIGHTS
        self._told = beta_kl.identify(config, grounds)
        self._check()
        self._first, self._newest = MapFolder(run / MAPS / FIRST), MapFolder(run / MAPS / NEWEST)
        self._evidence: list[float] = []
        for ground in grounds:
            self._first.begin(ground)
            known = self._newest if self._newest.file(ground).exists() else self._first
            self._evidence.append(float(known.load(ground).sum(dtype=np.float64)))
        self._backend: Backend | None = None
        self._age, self.steps = 0, 0  # of the weights: when they were written, and after how many steps
        self._done: set[int] = set()
        self._turn = 0

    def load_newest(self) -> bool:
        """Take newer weights where there are some; whether there are any."""
        if not self._weights.exists():
            return False
        age = self._weights.stat().st_mtime_ns
        if age != self._age:
            tensors, metadata = checkpoint.load(self._weights)
            self._check()
            if any(metadata.get(name) != value for name, value in self._told.items()):
                raise other_run(self._weights)
            network = beta_kl.build_network(self._config)
            checkpoint.load_into(network, tensors, self._weights)
            if self._backend is not None:
                self._backend.close()
            self._backend = open_network(network, self._config)
            self._age, self.steps = age, int(metadata["steps"])
            self._done.clear()
        return True

    def map_next(self) -> Ground | None:
        """Map the slide whose turn it is and publish it; None where all were mapped with these weights."""
        if self._backend is None or len(self._done) == len(self._grounds):
            return None
        self._check()
        number = self._choose()
        ground = self._grounds[number]
        stride = beta_kl.output_stride(self._config)
        tissue = self._first.load(ground) > 0
        suspicions = map_slide(ground, tissue, self._backend, self._config.window, stride)
        self._check()
        self._newest.publish(ground, suspicions)
        self._evidence[number] = float(suspicions.sum(dtype=np.float64))
        self._done.add(number)
        return ground

    def _check(self) -> None:
        """Raise TrainingError where the folder holds another run by now, or one of other slides than --data has."""
        check_maps(self._run, self._told)

    def _choose(self) -> int:
        """The next slide that these weights have not seen: malign and benign ones by turns, these by their evidence."""
        kinds = [[n for n, each in enumerate(self._grounds) if each.slide.malign is kind] for kind in (True, False)]
        while True:
            random = np.random.default_rng([self._config.seed, self._turn])
            evidence = [self._evidence[each] for each in kinds[1]]
            malign, chosen = choose_slide(self._turn, len(kinds[0]), evidence, self._config.seed, random)
            self._turn += 1
            if (number := kinds[not malign][chosen]) not in self._done:
                return number


def open_network(network: nn.Module, config: BetaKlConfig) -> Backend:
    """The network as it would be served here: by torch on a GPU, on a CPU by ONNX Runtime, which is twice as fast."""
    signature = beta_kl.signature(config)
    if torch.cuda.is_available():
        return TorchBackend(network.cuda(), signature, MAP_BATCH)
    from glassrt.engine.runtimes.ort import open_graph

    return open_graph(export_graph(network, signature), MAP_BATCH, os.cpu_count() or 1, "fp32", "ort", True)
