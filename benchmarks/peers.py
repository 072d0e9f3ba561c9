"""One network's weights through GlassRT and through what people use instead: the same pixels, the same windows.

No contender may skip background, and none reads the slide: an array in memory becomes the class probabilities of every
pixel.
"""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from operator import truediv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from glassrt.benchmarks.contender import Build, Worker
from glassrt.benchmarks.ours import build_exact, build_fastest, build_other
from glassrt.benchmarks.regions import fit_windows, read_region
from glassrt.benchmarks.tiatoolbox import build_tiatoolbox
from glassrt.benchmarks.torch_peers import (
    build_monai,
    build_monai_channels_last,
    build_torch,
    build_torch_channels_last,
)
from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.checks import TOLERANCES
from glassrt.engine.errors import UsageError
from glassrt.engine.runtimes.choose import choose

Report = dict[str, Any]
BUILDS: tuple[Build, ...] = (
    build_exact,
    build_fastest,
    build_monai,
    build_monai_channels_last,
    build_tiatoolbox,
    build_torch,
    build_torch_channels_last,
)


def measure_peers(
    path: Path,
    bundle: Bundle,
    rounds: int,
    progress: Callable[[str], None] = lambda name: None,
    against: Bundle | None = None,
) -> Report:
    """Seconds of every contender in rounds in which they take turns, and how many times as long as others they take:
    GlassRT in float32, and the fastest of all.

    All are medians, the latter of the rounds' own ratios, so that a machine whose speed drifts does not count.

    A contender whose classes differ from GlassRT's in float32 on more pixels than its precision may lose is not timed
    but named under `left_out`, with the reason. `against` is a bundle that all of them run, on the same pixels that
    GlassRT runs `bundle` on: what a faster network is worth; its classes are held against its own float32 alone. Raises
    GlassError where one fails, UsageError for a bundle of several networks, which nobody else runs.
    """
    judged = against or bundle
    for each in (judged, bundle):
        if len(each.manifest.networks) > 1:
            raise UsageError(
                f"{each.path} is of the kind {each.manifest.kind}, whose networks no peer runs: `glassrt bench slide` "
                "times it"
            )
    pixels = fit_windows(read_region(path, judged), judged)
    workers: list[Worker] = []
    try:
        for build in BUILDS:
            progress(f"starting {build.__name__}")
            workers.append(Worker(build, judged, pixels))
        present = [worker for worker in workers if worker.name is not None]
        flips, left_out = check_classes(present, progress)
        if against is not None:
            others = []
            for precision in dict.fromkeys(("fp32", choose(bundle)[1])):
                progress(f"starting {bundle.manifest.name} in {precision}")
                build_own = partial(build_other, precision=precision, mpp=judged.manifest.mpp)
                others.append(Worker(build_own, bundle, pixels))
            workers += others
            present += others
            own_flips, own_left_out = check_classes(others, progress)
            flips |= own_flips
            left_out += own_left_out
        present = [worker for worker in present if worker.name in flips]
        seconds: dict[str, list[float]] = {worker.name: [] for worker in present}
        for number in range(rounds):
            for worker in present:
                progress(f"round {number + 1} of {rounds}: {worker.name}")
                seconds[worker.name].append(worker.time())
    finally:
        for worker in workers:
            worker.close()
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    exact, fastest = seconds[present[0].name], seconds[min(medians, key=medians.__getitem__)]
    return {
        "slide": path.name,
        "bundle": bundle.manifest.name,
        "against": against.manifest.name if against else None,
        "pixels": list(pixels.shape[:2]),
        "scales": judged.manifest.views[0],
        "flips": judged.manifest.views[1],
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "left_out": left_out,
        "rows": [
            {
                "name": name,
                "unit": "s",
                "runs": seconds[name],
                "seconds": medians[name],
                "times_glassrt_fp32": statistics.median(map(truediv, seconds[name], exact)),
                "times_fastest": statistics.median(map(truediv, seconds[name], fastest)),
                "other_class": flips[name],
            }
            for name in seconds
        ],
    }


def check_classes(workers: Sequence[Worker], progress: Callable[[str], None]) -> tuple[dict[str, float], list[str]]:
    """The share of pixels that each gives another class than the first, and why those are left out of whom it is too
    large.
    """
    flips: dict[str, float] = {}
    left_out: list[str] = []
    exact: NDArray[np.uint8] | None = None
    for worker in workers:  # which also warms up
        progress(f"checking {worker.name}")
        classes = worker.classes()
        exact = classes if exact is None else exact
        other = float((classes != exact).mean())
        if other > TOLERANCES[worker.precision].flips:
            left_out.append(
                f"{worker.name} gives {other:.2%} of the pixels another class than {workers[0].name}: its speed means "
                "nothing"
            )
        else:
            flips[worker.name] = other
    return flips, left_out
