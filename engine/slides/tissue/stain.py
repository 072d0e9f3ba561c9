"""Whether a slide is stained like what a bundle learned from: in haematoxylin and eosin, or in something else.

A pixel's hue is how red, green and blue share its optical density. Haematoxylin and eosin of colon, breast, skin and
lymph node from several laboratories lie within `MOST_BLUE` and `MOST_RED`, but for a few of a hundred pixels. Brown,
yellow and orange (DAB, silver, trichromes) take more blue, blue and green (Giemsa, alcian) more red. Magenta, such as
PAS, and haematoxylin alone cannot be told from it. The line between a bundle's own two stains would tell more, but one
example window does not give it: measured so, every other laboratory's haematoxylin and eosin is foreign.
"""

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.slides.resampling import average_blocks
from glassrt.engine.slides.tissue.density import measure_colour, measure_density
from glassrt.engine.slides.tissue.glass import Glass, find_glass

EXAMPLE_BLOCK = 4  # pixels of the example averaged: noise has hues too
LEAST_COLOUR = 0.08  # of a pixel whose hue can be told
FEWEST = 50  # pixels that tell anything
MOST_BLUE, MOST_RED = 0.335, 1.1  # blue's share of the density; red's density to green's
MOST_BEYOND = 0.135  # of the pixels


def share_beyond(colours: NDArray[np.uint8], glass: Glass) -> float | None:
    """The share of stained RGB pixels `[n, 3]` with a hue beyond those of haematoxylin and eosin; None if too few."""
    if not len(colours):
        return None
    densities = measure_density(colours.reshape(-1, 1, 3)) - np.array(glass.densities, np.float32)
    kept = densities[measure_colour(densities) > LEAST_COLOUR].clip(0, None)
    kept = kept[kept.any(axis=-1)]  # lighter than the glass in every colour is no stain
    if len(kept) < FEWEST:
        return None
    shares = kept / kept.sum(-1, keepdims=True)
    return float(((shares[:, 2] > MOST_BLUE) | (shares[:, 0] > MOST_RED * shares[:, 1])).mean())


def compare_stain(colours: NDArray[np.uint8], glass: Glass, example: NDArray[np.uint8], name: str) -> str:
    """A line that says that a slide's stained pixels `[n, 3]` are unlike the example window `[H, W, 3]` of the bundle
    `name`; else empty.

    Nothing can be said of a slide with next to no stained pixels.
    """
    window = average_blocks(example, EXAMPLE_BLOCK, EXAMPLE_BLOCK)
    learned, seen = share_beyond(window.reshape(-1, 3), find_glass([window])), share_beyond(colours, glass)
    if learned is None or seen is None or (learned > MOST_BEYOND) == (seen > MOST_BEYOND):
        return ""
    if seen > MOST_BEYOND:
        return (
            f"not stained like the example in {name}, haematoxylin and eosin: {seen:.0%} of the tissue has other hues"
        )
    return f"stained like haematoxylin and eosin, unlike the example in {name}"
