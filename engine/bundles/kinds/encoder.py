"""Encoders: a tile in, the vector of its features out."""

from collections.abc import Mapping

from glassrt.engine.bundles.kinds.shared import Shared
from glassrt.engine.bundles.parts import Length, Role
from glassrt.engine.bundles.tensors import Signature, TensorSpec
from glassrt.engine.geometry.plan import InputSpec

FEATURES = "features"


class Encoder(Shared, frozen=True, kw_only=True, tag="encoder"):
    """What turns tiles of `window` pixels into `features` numbers each; slides are embedded with it, not scored."""

    features: Length

    @property
    def networks(self) -> Mapping[Role, Signature]:
        return {"main": Signature((tiles(self.window),), (vectors(self.features),))}

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        return (InputSpec("tile", self.window),)

    @property
    def vectors(self) -> tuple[str, ...]:
        return (FEATURES,)


def tiles(side: int) -> TensorSpec:
    """Tiles `[N, side, side, 3]`."""
    return TensorSpec("tile", "uint8", (None, side, side, 3))


def vectors(length: int) -> TensorSpec:
    """Features of tiles, `[N, d]`."""
    return TensorSpec(FEATURES, "float32", (None, length))
