"""Classification of tiles: a tile in, the logits of its classes out."""

from collections.abc import Mapping
from typing import Annotated

import msgspec

from glassrt.engine.bundles.kinds.encoder import tiles
from glassrt.engine.bundles.kinds.segmentation import Segmentation
from glassrt.engine.bundles.parts import Role, Text
from glassrt.engine.bundles.tensors import Signature, TensorSpec
from glassrt.engine.geometry.plan import InputSpec

MOST_LEARNED = 1000  # slides that a manifest names


class Classification(Segmentation, frozen=True, kw_only=True, tag="classification"):
    """What a network tells apart of tiles, each as a whole. Of a slide's map a tile is a pixel: `output_stride` is
    `window`; where tiles overlap, what they say is averaged.

    `learned_from` names the slides that it learned from, of which nobody should take tiles to test it, where known.
    """

    learned_from: Annotated[tuple[Text, ...], msgspec.Meta(max_length=MOST_LEARNED)] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_stride != self.window:
            raise ValueError(f"output_stride {self.output_stride} is not window {self.window}: a tile has one class")
        if self.views != ((1.0,), False):
            raise ValueError("tiles are seen at one scale, not mirrored: `scales` has to be [1], `flips` false")
        if self.contoured:
            raise ValueError("a tile has no contour: leave `contour_of` out")

    @property
    def networks(self) -> Mapping[Role, Signature]:
        logits = TensorSpec("logits", "float32", (None, len(self.classes)))
        return {"main": Signature((tiles(self.window),), (logits,))}

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        return (InputSpec("tile", self.window),)
