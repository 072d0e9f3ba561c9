"""How far a graph's logits lie from those that are wanted. Needs neither torch nor onnx."""

from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.checks import Check
from glassrt.engine.bundles.parts import RunPrecision
from glassrt.engine.runtimes.protocol import Backend, run_windows

Windows = NDArray[np.uint8]
Logits = NDArray[np.float32]


class MadeOn(NamedTuple):
    """What was measured and what computed it."""

    bundle: str
    backend: str
    version: str
    device: str
    isa: str
    precision: RunPrecision


def run_each(backend: Backend, windows: Windows) -> Logits:
    """Logits `[n, C, h, w]` of any number of windows, a batch at a time; blank windows fill up the last."""
    blank = np.zeros((-len(windows) % backend.batch, *windows.shape[1:]), np.uint8)
    batches = np.concatenate([windows, blank]).reshape(-1, backend.batch, *windows.shape[1:])
    return np.concatenate([run_windows(backend, batch) for batch in batches])[: len(windows)]


def compare(
    logits: Logits,
    wanted: Logits,
    real: int,
    made_on: MadeOn,
    miou_change: float | None,
) -> Check:
    """How far logits lie from those that are wanted; where either are no numbers they are counted instead.

    Classes are compared on the first `real` windows.
    """
    finite = np.isfinite(logits) & np.isfinite(wanted)
    bad = int(np.count_nonzero(~finite))
    # In float64, where no difference of two float32 is infinite.
    difference = np.abs(np.subtract(logits, wanted, where=finite, out=np.zeros(wanted.shape), dtype=np.float64))
    largest, mean = float(difference.max()), float(difference.mean())
    flips = float((logits[:real].argmax(1) != wanted[:real].argmax(1)).mean())
    reach = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0))
    found = Check(*made_on, True, len(logits), largest, mean, bad, flips, miou_change, reach=reach)
    return msgspec.structs.replace(found, passed=found.is_within)


def edge_windows(side: int) -> Windows:
    """Three windows no slide should have: white, black and noise."""
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return np.stack([np.full_like(noise, 255), np.zeros_like(noise), noise])
