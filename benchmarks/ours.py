"""GlassRT as a contender of `glassrt bench peers`."""

import numpy as np
from numpy.typing import NDArray

from glassrt.benchmarks.contender import Contender, Probabilities
from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.runtimes.choose import choose
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.tasks.segment import map_image


def build_exact(bundle: Bundle, pixels: NDArray[np.uint8]) -> Contender:
    """GlassRT in float32."""
    return build_glassrt(bundle, pixels, "fp32")


def build_fastest(bundle: Bundle, pixels: NDArray[np.uint8]) -> Contender | None:
    """GlassRT as `score` would run it, where that is another precision."""
    return None if choose(bundle)[1] == "fp32" else build_glassrt(bundle, pixels, "auto")


def build_other(bundle: Bundle, pixels: NDArray[np.uint8], precision: str, mpp: float) -> Contender:
    """GlassRT with a bundle of its own, on pixels of `mpp` micrometres as another bundle has them."""
    return build_glassrt(bundle, pixels, precision, mpp, f" with {bundle.manifest.name}")


def build_glassrt(
    bundle: Bundle, pixels: NDArray[np.uint8], precision: str, mpp: float | None = None, told: str = ""
) -> Contender:
    """GlassRT's library call for an image in memory: probabilities of each of its pixels."""
    backend = open_backend(bundle, precision=precision, throughput=True)

    def run() -> Probabilities:
        size = (pixels.shape[1], pixels.shape[0])
        return map_image(pixels, mpp or bundle.manifest.mpp, bundle, backend, size).probabilities

    return Contender(f"GlassRT {backend.precision} ({backend.name}){told}", backend.precision, run)
