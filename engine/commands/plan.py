"""`glassrt plan`."""

import contextlib
import itertools
import time
from pathlib import Path
from typing import Annotated

import typer

from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE, Bundle, open_bundle
from glassrt.engine.bundles.parts import Precision
from glassrt.engine.commands.options import parse_counts, parse_precisions
from glassrt.engine.errors import UsageError
from glassrt.engine.runtimes.device import explain_unused, has_device
from glassrt.engine.runtimes.flavours import MODULES, find_flavour
from glassrt.engine.runtimes.open import open_plan_backend
from glassrt.engine.runtimes.plans import open_plan
from glassrt.engine.runtimes.table import GPU_BATCH


def plan_command(
    bundle: Annotated[Path, typer.Argument(help="Bundle.", show_default="the one shipped")] = DEFAULT_BUNDLE,
    backend: Annotated[str, typer.Option(help="tensorrt or tensorrt-rtx.", show_default="what is installed")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, fp16, int8, with commas.")] = "fp32",
    batch: Annotated[str, typer.Option(help="Windows per network call, with commas.")] = str(GPU_BATCH),
) -> None:
    """Build TensorRT engines for this machine before they are needed; they are kept in the user's cache."""
    build_plans(open_bundle(bundle), backend, parse_precisions(precision), parse_counts("--batch", batch, 1))


def build_plans(bundle: Bundle, backend: str, precisions: tuple[Precision, ...], sizes: tuple[int, ...]) -> None:
    """Build the plans of a bundle and print where they are; on a GPU each is tried on the bundle's example."""
    flavour = find_flavour() if backend == "auto" else backend
    if flavour not in MODULES:
        raise UsageError(f"--backend {backend} has no plans; choose {' or '.join(MODULES)}")
    for precision, size, role in itertools.product(precisions, sizes, bundle.manifest.networks):
        start = time.perf_counter()
        if has_device():
            with contextlib.closing(open_plan_backend(bundle, flavour, size, precision, role=role)) as opened:
                plan, tried = opened.plan, "gives the bundle's example"
        else:
            plan = open_plan(bundle, flavour, precision, size, role=role)
            tried = f"not tried: {explain_unused(lambda device: device.name) or 'no CUDA device here'}"
        made = f"built in {time.perf_counter() - start:.1f} s" if plan.built else "kept from before"
        print(f"{plan.path}: {len(plan.engine) / 1e6:.1f} MB, {made}, {tried}")
