"""Multiple instance learning: a slide's tiles in, what each of them and all together are out."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from glassrt.engine.bundles.kinds.encoder import tiles, vectors
from glassrt.engine.bundles.kinds.segmentation import Segmentation
from glassrt.engine.bundles.parts import Length, Making, Role
from glassrt.engine.bundles.tensors import Signature, TensorSpec
from glassrt.engine.geometry.plan import InputSpec

MOST_LEARNED = 40_000  # bags that a manifest lists: more would not fit
Fingerprint = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{12}$")]


class Mil(Segmentation, frozen=True, kw_only=True, tag="mil"):
    """A slide as a bag of tiles. The network gives each tile's `features`, how much attention it asks for, `scores`,
    and its `logits`; a bag's logits are its tiles', weighted by the softmax of their scores, or with `max` pooling
    those of the tile with the highest score ("Distill-to-Label", Eqs. 1 and 2).

    Two classes have one logit, that of the second. A bundle that `takes` features has no encoder: it scores those that
    were stored before. Of a slide's map a tile is a pixel: `output_stride` is `window`.

    `made` is how the features that a head learned from were made, `learned_from` are the fingerprints of the bags that
    it learned from (`bag_sets.fingerprint`), on which nobody should test it. Both may be unknown.
    """

    features: Length
    pooling: Literal["attention", "mean", "max"]
    takes: Literal["tiles", "features"] = "tiles"
    made: Making | UnsetType = UNSET
    learned_from: Annotated[tuple[Fingerprint, ...], msgspec.Meta(max_length=MOST_LEARNED)] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_stride != self.window:
            raise ValueError(f"output_stride {self.output_stride} is not window {self.window}: a tile has one logit")
        if self.views != ((1.0,), False):
            raise ValueError("tiles are a bag at one scale, not mirrored: `scales` has to be [1], `flips` false")

    @property
    def networks(self) -> Mapping[Role, Signature]:
        width = 1 if len(self.classes) == 2 else len(self.classes)
        found = TensorSpec("scores", "float32", (None,)), TensorSpec("logits", "float32", (None, width))
        features = vectors(self.features)
        if self.takes == "features":
            return {"main": Signature((features,), found)}
        return {"main": Signature((tiles(self.window),), (features, *found))}

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        return (InputSpec("tile", self.window),) if self.takes == "tiles" else ()

    @property
    def vectors(self) -> tuple[str, ...]:
        return ("features",) if self.takes == "tiles" else ()

    def classify(self, outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.int64] | None:
        """The likeliest class of each tile `[N]`."""
        classes: NDArray[np.int64] = beside_background(outputs["logits"]).argmax(1)
        return classes

    def classify_bag(self, outputs: Mapping[str, NDArray[Any]]) -> int | None:
        """The likeliest class of all tiles as one bag; None of no tiles."""
        scores = outputs["scores"].astype(np.float64)
        if not len(scores):
            return None
        highest = scores == scores.max()
        weights = highest.astype(np.float64) if self.pooling == "max" else np.exp(scores - scores.max())
        return int(beside_background(weights @ outputs["logits"]).argmax())


def beside_background(logits: NDArray[Any]) -> NDArray[Any]:
    """Logits of every class `[..., C]`; where one stands for two, `[..., 1]`, that of the background is 0."""
    return np.concatenate([np.zeros_like(logits), logits], axis=-1) if logits.shape[-1] == 1 else logits
