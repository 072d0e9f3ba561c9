"""A slide with the class of every pixel: what networks learn from and are scored on."""

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.geometry.boxes import Box, Size


class Truth(Protocol):
    """The class of every pixel of a slide, whatever it is kept as."""

    def cut(self, box: Box, grid: Size) -> NDArray[np.uint8]:
        """`[h, w]`: the classes of the pixels `box` of the slide resampled to `grid` (width, height).

        A pixel has the class at its centre.
        """


class LabelledSlide(NamedTuple):
    """A slide's file and its truth. `mpp` is what the set says of its resolution; None: the file says it."""

    name: str
    path: Path
    truth: Truth
    mpp: float | None = None
