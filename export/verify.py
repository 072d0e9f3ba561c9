"""A bundle's graphs through every runtime there is, held against its exact outputs."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.checks import Check, Timing
from glassrt.engine.bundles.parts import RunPrecision
from glassrt.engine.errors import BackendUnavailable, GlassError, UsageError
from glassrt.engine.runtimes.choose import count_small, running
from glassrt.engine.runtimes.isa import count_cores, processor_name
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.runtimes.selftest import check_backend
from glassrt.engine.runtimes.table import RUNTIMES
from glassrt.engine.slides.fingerprint import fingerprint
from glassrt.export.comparison import MadeOn, compare, edge_windows, run_each
from glassrt.export.samples import Samples, count, join

BATCHES = (1, 2, 4)
LABELLED = ("segmentation", "dual")  # the kinds of bundle that the masks of GlaS measure
ROUNDS = 3  # of calls, whose fastest counts


def verify(
    bundle: Bundle,
    tissue: Samples,
    exact: Callable[[Samples], Samples] | None = None,
    data: Path | None = None,
    progress: Callable[[str], None] = lambda name: None,
    failure: Callable[[GlassError], None] = lambda error: None,
    told: Callable[[str], None] = lambda line: None,
) -> tuple[Check, ...]:
    """One check for each runtime and precision that this machine has, against `exact` or ONNX Runtime in float32.

    `tissue` are real windows; all-white, all-black and noisy ones are added, which may change class but not be NaN.
    `data`, the folder of GlaS, adds the change of mIoU on those images of testA that the bundle was not calibrated on;
    how many are left out is `told`. `progress` is told what runs, and `failure` what cannot be opened, which then has
    no check. Raises UsageError.
    """
    if data is not None and bundle.manifest.kind not in LABELLED:
        raise UsageError(f"--data {data}: GlaS measures segmentation, which {bundle.path} is not for: leave --data out")
    seen = frozenset[Path]() if data is None else find_seen(bundle, data)
    if seen:
        told(f"{data}: left out {len(seen)} images of testA that the bundle was calibrated on")
    samples = join([tissue, edge_windows(bundle.manifest.whole.inputs)])
    if exact is None:
        wanted = run_with(bundle, "ort", "fp32", samples).outputs
    else:
        wanted = exact(samples)
        refuse_other(bundle, wanted, count(samples))
    base = None
    checks = []
    for name, precision in sorted(running(bundle), key=lambda each: each[1] != "fp32"):
        progress(f"{precision} through {name}")
        try:
            outputs, made_on, missed = run_with(bundle, name, precision, samples)
        except GlassError as error:
            failure(error)
            continue
        miou = None
        if data is not None:
            found = score(bundle, name, precision, data, seen)
            base = found if base is None else base
            miou = found - base
        check = compare(outputs, wanted, count(tissue), made_on, miou, bundle.manifest)
        if missed:  # `score` would not begin
            told(missed)
            check = msgspec.structs.replace(check, passed=False)
        checks.append(msgspec.structs.replace(check, timing=time_batches(bundle, name, precision, tissue)))
    return tuple(checks)


def refuse_other(bundle: Bundle, wanted: Samples, windows: int) -> None:
    """Raise UsageError for outputs that are not of a bundle's networks."""
    for spec in bundle.manifest.whole.outputs:
        fitting, found = spec.sized(windows), wanted[spec.name].shape if spec.name in wanted else ()
        if found != fitting:
            raise UsageError(
                f"{bundle.path} gives {spec.name} {list(fitting[1:])} for a window, what it is compared with "
                f"{list(found[1:])}: name the run that it was exported from with --against"
            )


class Ran(NamedTuple):
    """What a network gave for windows, what computed it, and the line that says that it misses the stored example."""

    outputs: Samples
    made_on: MadeOn
    missed: str


def run_with(bundle: Bundle, name: str, precision: RunPrecision, samples: Samples) -> Ran:
    """The windows, and the bundle's example, through one runtime."""
    with open_as_score_does(bundle, name, precision) as backend:
        made_on = MadeOn(bundle.sha256, backend.name, backend.version, backend.device, backend.isa, backend.precision)
        missed = ""
        try:
            check_backend(bundle, backend)
        except BackendUnavailable as error:
            missed = str(error)
        return Ran(bundle.manifest.whole.name_outputs(run_each(backend, samples)), made_on, missed)


def find_seen(bundle: Bundle, data: Path) -> frozenset[Path]:
    """The images of GlaS testA that the bundle was calibrated on. Raises UsageError where they are all of them."""
    from glassrt.training.datasets import glas

    images = [image.image_path for image in glas.find_images(data, "testA")]
    calibrated = {seen.fingerprint for seen in bundle.manifest.calibrated}
    seen = frozenset(path for path in images if calibrated and fingerprint(path) in calibrated)
    if len(seen) == len(images):
        raise UsageError(f"--data {data}: {bundle.path} was calibrated on all images of testA: leave --data out")
    return seen


def score(bundle: Bundle, name: str, precision: RunPrecision, data: Path, seen: frozenset[Path]) -> float:
    """mIoU in points on GlaS testA but for the images that were `seen`."""
    from glassrt.training.evaluate import evaluate

    with open_as_score_does(bundle, name, precision) as backend:
        plain = bundle.replace((1.0,), False)
        scores: dict[str, Any] = evaluate(plain, backend, "glas", data, "testA", left_out=seen)["scores"]
    return float(scores["mIoU"])


def open_as_score_does(
    bundle: Bundle, name: str, precision: RunPrecision, batch: int | None = None
) -> AbstractContextManager[Backend]:
    """A backend in the batches and streams that slides are scored in, untested: what it computes is to be told."""
    return closing(open_backend(bundle, name, batch, precision=precision, tested=False, throughput=True))


def time_batches(bundle: Bundle, name: str, precision: RunPrecision, samples: Samples) -> Timing | None:
    """The batch in which a runtime for CPUs finishes most windows here, called as `score` does; None for GPUs."""
    if RUNTIMES[name].target == "gpu":
        return None
    taken = {}
    for batch in (each * count_small(bundle.manifest.window) for each in BATCHES):
        given = {name: np.resize(values, (batch, *values.shape[1:])) for name, values in samples.items()}
        with (
            open_as_score_does(bundle, name, precision, batch) as backend,
            ThreadPoolExecutor(backend.streams) as pool,
        ):
            calls = 2 * backend.streams
            seconds = min(time_calls(pool, backend, given, calls) for _ in range(ROUNDS))
        taken[batch] = 1000 * seconds / (calls * batch)
    best = min(taken, key=taken.__getitem__)
    return Timing(processor_name(), count_cores(), best, taken[best])


def time_calls(pool: ThreadPoolExecutor, backend: Backend, samples: Samples, calls: int) -> float:
    """Seconds of calls from as many threads as the pool has."""
    start = time.perf_counter()
    for done in [pool.submit(backend.infer, samples) for _ in range(calls)]:
        done.result()
    return time.perf_counter() - start
