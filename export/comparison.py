"""How far what a graph gives lies from what is wanted. Needs neither torch nor onnx."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.checks import Check
from glassrt.engine.bundles.kinds.shared import Shared
from glassrt.engine.bundles.parts import RunPrecision
from glassrt.engine.bundles.tensors import TensorSpec
from glassrt.engine.runtimes.protocol import Backend
from glassrt.export.samples import Samples, count, join, take

SOMEWHERE = 0.4  # of a window's surroundings, from their left and top


class MadeOn(NamedTuple):
    """What was measured and what computed it."""

    bundle: str
    backend: str
    version: str
    device: str
    isa: str
    precision: RunPrecision


def run_each(backend: Backend, samples: Samples) -> Samples:
    """What a network gives for any number of windows, a batch at a time; blank ones fill up the last."""
    missing = -count(samples) % backend.batch
    filled = {
        name: np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)])
        for name, values in samples.items()
    }
    starts = range(0, count(filled), backend.batch)
    given = [backend.infer(take(filled, slice(start, start + backend.batch))) for start in starts]
    return take(join(given), slice(count(samples)))


def compare(
    found: Samples, wanted: Samples, real: int, made_on: MadeOn, miou_change: float | None, kind: Shared
) -> Check:
    """How far a network's outputs lie from those that are wanted; where either are no numbers they are counted instead.

    Of several outputs the largest difference is that of the one that is furthest off for its reach. The classes that
    the bundle's kind tells of them, of each place and of all windows as a bag, and the directions of vectors are
    compared on the first `real` windows.
    """
    largest, reach, total = 0.0, 1.0, 0.0
    bad = values = 0
    for name, exact in wanted.items():
        finite = np.isfinite(found[name]) & np.isfinite(exact)
        bad += int(np.count_nonzero(~finite))
        # In float64, where no difference of two float32 is infinite.
        difference = np.abs(np.subtract(found[name], exact, where=finite, out=np.zeros(exact.shape), dtype=np.float64))
        furthest, own = float(difference.max()), float(np.abs(exact[np.isfinite(exact)]).max(initial=0))
        if name == next(iter(wanted)) or furthest / max(1.0, own) > largest / max(1.0, reach):
            largest, reach = furthest, own
        total, values = total + float(difference.sum()), values + difference.size
    mine, theirs = take(found, slice(real)), take(wanted, slice(real))
    check = Check(
        *made_on,
        True,
        count(found),
        largest,
        total / values,
        bad,
        flip_rate(mine, theirs, kind),
        miou_change,
        reach=reach,
        cosine=kind.lowest_cosine(mine, theirs) if kind.vectors else None,
        bag_changes=kind.classify_bag(mine) != kind.classify_bag(theirs),
    )
    return msgspec.structs.replace(check, passed=check.is_within)


def flip_rate(found: Samples, exact: Samples, kind: Shared) -> float:
    """Share of places whose class is another; none where a bundle's kind tells no classes apart."""
    classes, wanted = kind.classify(found), kind.classify(exact)
    return 0.0 if classes is None or wanted is None else float((classes != wanted).mean())


def loss(found: Samples, exact: Samples, kind: Shared) -> float:
    """What a lower precision loses: the share of places of another class or, if more, how far features turned."""
    return max(flip_rate(found, exact, kind), 1.0 - kind.lowest_cosine(found, exact))


def edge_windows(inputs: Iterable[TensorSpec]) -> Samples:
    """Three windows no slide should have, white, black and noise, anywhere in their surroundings; none for a network
    that takes other than pixels and places.
    """
    inputs = list(inputs)
    places = [spec for spec in inputs if spec.dtype == "float32" and spec.sized(0) == (0, 2)]
    pixels = [spec for spec in inputs if spec.dtype == "uint8"]
    if not pixels or len(pixels) + len(places) < len(inputs):
        return {spec.name: np.zeros(spec.sized(0), spec.dtype) for spec in inputs}
    made: dict[str, NDArray[Any]] = {spec.name: np.full(spec.sized(3), SOMEWHERE, np.float32) for spec in places}
    for spec in pixels:
        noise = np.random.default_rng(0).integers(0, 256, spec.sized(1)[1:], np.uint8)
        made[spec.name] = np.stack([np.full_like(noise, 255), np.zeros_like(noise), noise])
    return made
