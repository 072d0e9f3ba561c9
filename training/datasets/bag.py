"""Bags: images of which one label is known for all that was cut from them, what multiple-instance learning learns from.

Source: Distill-to-Label, section IV.A. A bag is positive that holds a positive instance; which ones are is hidden from
training and kept for evaluation.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glassrt.training.datasets.stored import StoredInstances


class LabelledBag(NamedTuple):
    """A bag of K instances.

    What has one `group`, as a patient or a slide, stays together in cross-validation. `label` is a number in the set's
    `CLASSES`. `instances` `[K, H, W, 3]` are RGB, or `[K, D]` features that were stored. `instance_labels` `[K]` are
    numbers in `CLASSES` too and for evaluation alone; None: nobody knows them. `positions` `[K, 2]` say where in the
    bag's image each instance's middle lies, x and y in pixels from its top left corner, so that the middle of the first
    pixel is (0.5, 0.5); None: there is no such image.
    """

    name: str
    group: str
    label: int
    instances: NDArray[np.uint8] | StoredInstances
    instance_labels: NDArray[np.int64] | None
    positions: NDArray[np.float64] | None
