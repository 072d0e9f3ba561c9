"""What a bundle's network is known to give, and what a runtime gives."""

import numpy as np

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.runtimes.protocol import Backend


def image_and_logits(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """The stored window `[1, H, W, 3]` and its exact logits `[1, C, h, w]`."""
    known = bundle.read_example()
    assert known is not None
    return known.inputs["image"], known.outputs["logits"]


def run_windows(backend: Backend, windows: np.ndarray) -> np.ndarray:
    """What a network of one input and one output gives for windows `[N, H, W, 3]`, N being the backend's batch."""
    (image,) = backend.inputs
    (given,) = backend.infer({image.name: windows}).values()
    return given
