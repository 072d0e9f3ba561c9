"""What a bundle's network is known to give."""

import numpy as np

from glassrt.engine.bundles.bundle import Bundle


def image_and_logits(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """The stored window `[1, H, W, 3]` and its exact logits `[1, C, h, w]`."""
    known = bundle.read_example()
    assert known is not None
    return known.inputs["image"], known.outputs["logits"]
