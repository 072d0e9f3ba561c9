"""The slides that patches are drawn from, and the latest that is suspected of each."""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import nn

from glassrt.engine.errors import TrainingError
from glassrt.engine.files import prepare_folder, write_json
from glassrt.training import checkpoint
from glassrt.training.batches import Random
from glassrt.training.mapping import REMEDY, Ground, MapFolder
from glassrt.training.run import all_finite, other_run
from glassrt.training.suspicion import SuspicionMap, Suspicions, choose_slide
from glassrt.training.world import World

LOGGER = logging.getLogger("glassrt")

LOOK_EVERY_S = 2.0  # between looks for newer maps
GONE_S = 3600.0  # without a newer map, after which another process is taken to be gone
MAPS, NEWEST, FIRST = "maps", "newest", "first"  # folders of a run: its maps, the latest, those before any network
IDENTITY = "run.json"  # beside the maps: which run they are of
WEIGHTS = "weights.safetensors"  # of a run that goes on: what another process makes maps with

MapSlide = Callable[[Ground, NDArray[np.bool_]], Suspicions]


class Place(NamedTuple):
    """A slide's number, and the middle of a patch of it as shares of its width and height."""

    number: int
    x: float
    y: float


class Suspects:
    """The maps of slides in `folder`, to draw places from; those in `first`, where there is one, if it has none yet.

    With `renewed`, maps that another process replaces are read anew. Threads may draw at once.
    """

    def __init__(
        self, grounds: Sequence[Ground], first: MapFolder | None, folder: MapFolder, alpha: float, renewed: bool = False
    ) -> None:
        self._grounds, self._first, self._folder, self._alpha = grounds, first, folder, alpha
        kinds = (True, False)
        self._malign, self._benign = (
            [n for n, each in enumerate(grounds) if each.slide.malign is kind] for kind in kinds
        )
        self._lock = threading.Lock()
        self._maps: dict[int, SuspicionMap] = {}
        self._ages: dict[int, int] = {}
        self._renewed, self._looked = renewed, 0.0
        self.newest = time.monotonic()  # when the last newer map was read
        self._look()

    def draw(self, turn: int, seed: int, random: Random) -> Place:
        """The `turn`-th place."""
        with self._lock:
            if self._renewed and time.monotonic() > self._looked + LOOK_EVERY_S:
                self._look()
            maps = dict(self._maps)
        evidence = [maps[each].evidence for each in self._benign]
        malign, chosen = choose_slide(turn, len(self._malign), evidence, seed, random)
        number = (self._malign if malign else self._benign)[chosen]
        x, y = maps[number].draw(random)
        width, height = self._grounds[number].map_size
        across, down = random.random(2)
        return Place(number, (x + across) / width, (y + down) / height)

    def _look(self) -> None:
        """Read the maps that were not read yet."""
        for number, ground in enumerate(self._grounds):
            file = self._folder.file(ground)
            age = file.stat().st_mtime_ns if file.exists() else 0
            if self._ages.get(number) == age:
                continue
            suspicions = (self._folder if age or self._first is None else self._first).load(ground)
            self._maps[number], self._ages[number] = SuspicionMap(suspicions, self._alpha), age
            self.newest = time.monotonic()
        self._looked = time.monotonic()


class Maps:
    """The maps that a run draws its patches from: renewed every `renew_steps` steps by the run itself, or `beside` it
    by another process all the while, with the weights that the run leaves for it.

    `told` says which run it is: maps and weights of another are refused. What the run itself makes depends on its seed
    alone; of it those stay that were drawn from `kept` steps ago, so that a run resumes. At an `alpha` of 0 no map is
    made: all tissue counts alike.
    """

    def __init__(
        self,
        grounds: Sequence[Ground],
        run: Path,
        told: Mapping[str, str],
        alpha: float,
        renew_steps: int,
        kept: int,
        beside: bool,
        world: World,
    ) -> None:
        self._grounds, self._run, self._told, self._alpha, self._world = grounds, run, told, alpha, world
        self._renew_steps, self._kept, self._beside = renew_steps, kept, beside
        self._first = MapFolder(run / MAPS / FIRST)
        if world.leads:
            begin_maps(run, told)
            for ground in grounds:
                self._first.begin(ground)
        world.wait()
        self._lock = threading.Lock()
        self._known: dict[int, Suspects] = {}
        self._warned = time.monotonic()

    def at(self, step: int) -> Suspects:
        """The maps that a step's patches are drawn from. These are drawn while the step before is taken, so that they
        know of the weights before that one.
        """
        number = 0 if self._beside or not self._alpha else max(0, step - 1) // self._renew_steps
        with self._lock:
            if number not in self._known:
                folder = self._folder(number)
                if number and not folder.folder.is_dir():
                    raise TrainingError(f"{folder.folder}, which step {step} draws from, is gone: {REMEDY}")
                first = None if number else self._first
                self._known = {known: each for known, each in self._known.items() if known == number - 1}
                self._known[number] = Suspects(self._grounds, first, folder, self._alpha, self._beside)
            return self._known[number]

    def renew(self, steps: int, map_slide: MapSlide, network: nn.Module) -> None:
        """After so many steps: make the maps anew, or leave the weights for who does, where that is due."""
        if not self._alpha:
            return
        if self._beside:
            self._warn()
        if steps % self._renew_steps or not all_finite(network.state_dict()):
            return  # of weights that are no numbers the run says so itself
        if self._world.leads and self._beside:
            checkpoint.save(self._run / WEIGHTS, network.state_dict(), {"steps": str(steps), **self._told})
        elif self._world.leads:
            self._make(steps // self._renew_steps, map_slide)
        self._world.wait()

    def _folder(self, number: int) -> MapFolder:
        return MapFolder(self._run / MAPS / (NEWEST if self._beside else str(number)))

    def _make(self, number: int, map_slide: MapSlide) -> None:
        for ground in self._grounds:
            self._folder(number).publish(ground, map_slide(ground, self._first.load(ground) > 0))
        for folder in (self._run / MAPS).glob("[0-9]*"):
            if int(folder.name) < number - 1 - self._kept // self._renew_steps:
                shutil.rmtree(folder, ignore_errors=True)

    def _warn(self) -> None:
        """Say so where no map has become newer for long."""
        now = time.monotonic()
        if now - max(self.at(0).newest, self._warned) > GONE_S:
            LOGGER.warning(
                "%s: no map was renewed for %d minutes; training goes on with those that there are: is "
                "`glassrt map-suspects` running?",
                self._run,
                GONE_S / 60,
            )
            self._warned = now


def begin_maps(run: Path, told: Mapping[str, str]) -> None:
    """Note in the folder of a run's maps which run it is; clear what a killed process left half-written there.

    Raises TrainingError for maps of another run.
    """
    for folder in (run, run / MAPS, *(run / MAPS).glob("*/")):
        prepare_folder(folder)
    if (run / MAPS / IDENTITY).exists():
        check_maps(run, told)
    else:
        write_json(run / MAPS / IDENTITY, dict(told))


def check_maps(run: Path, told: Mapping[str, str]) -> None:
    """Raise TrainingError unless a run's maps are those of the run that `told` says."""
    file = run / MAPS / IDENTITY
    try:
        if msgspec.json.decode(file.read_bytes()) == dict(told):
            return
    except (OSError, msgspec.DecodeError):
        pass
    raise other_run(file)
