"""Dual-input segmentation: a window and its surroundings at low resolution in, the logits of each class over it out."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.kinds.segmentation import Segmentation
from glassrt.engine.bundles.parts import LONGEST_NAME, Length, Role, Side, Strict, check_distinct, is_name
from glassrt.engine.bundles.tensors import Signature, TensorSpec
from glassrt.engine.geometry.plan import InputSpec, lattice_step

LARGEST_FEATURES = 1 << 26  # bytes of one window's surroundings
OTHER_TENSORS = {"fine", "context", "place", "logits"}


class Feature(Strict, frozen=True):
    """Some of what the network of surroundings gives of each, float32: its name and its shape, [C] or [C, h, w]."""

    name: str
    shape: Annotated[tuple[Length, ...], msgspec.Meta(min_length=1, max_length=3)]

    def __post_init__(self) -> None:
        if not is_name(self.name) or self.name in OTHER_TENSORS:
            raise ValueError(
                f"feature {self.name[: 2 * LONGEST_NAME]!r} must be letters, digits, dots, dashes and underlines, "
                f"{LONGEST_NAME} at most, and not {', '.join(sorted(OTHER_TENSORS))}"
            )


class Dual(Segmentation, frozen=True, kw_only=True, tag="dual"):
    """A segmentation whose windows are seen with their surroundings, in two networks: `context` makes features of
    `context_side` pixels that are `context_factor` times as large, `fine` makes logits of a window and these.

    Surroundings lie around the window (`centre`) or are shared by all windows within them (`tile`). `placed`: the fine
    network is told where in its surroundings the window lies, `place` `[N, 2]`, x and y from 0 to 1.
    """

    context_side: Side
    context_factor: Annotated[float, msgspec.Meta(gt=1, le=64)]
    context_anchor: Literal["tile", "centre"]
    features: Annotated[tuple[Feature, ...], msgspec.Meta(min_length=1, max_length=16)]
    placed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_distinct("a feature is", (feature.name for feature in self.features))
        if 4 * sum(math.prod(feature.shape) for feature in self.features) > LARGEST_FEATURES:
            raise ValueError("features are too many for anyone to keep")
        if self.context_side * self.context_factor < self.window:
            raise ValueError(
                f"context_side {self.context_side} at context_factor {self.context_factor:g} is less than window "
                f"{self.window}: surroundings have to show all of it"
            )
        if self.context_anchor == "tile" and lattice_step(self.context_side, self.window, self.context_factor) < 1:
            raise ValueError(
                f"context_factor {self.context_factor:g} is too small for windows of {self.window} pixels to share "
                "surroundings: `context_anchor` may be `centre`"
            )

    @property
    def networks(self) -> Mapping[Role, Signature]:
        sides = {"fine": self.window, "context": self.context_side}
        fine, context = (TensorSpec(name, "uint8", (None, side, side, 3)) for name, side in sides.items())
        features = tuple(TensorSpec(feature.name, "float32", (None, *feature.shape)) for feature in self.features)
        logits = super().networks["main"].outputs
        return {
            "context": Signature((context,), features),
            "fine": Signature((fine, *features, *self._place), logits),
        }

    @property
    def first_role(self) -> Role:
        return "fine"

    @property
    def whole(self) -> Signature:
        (context,), (fine, *_) = (self.networks[role].inputs for role in ("context", "fine"))
        return Signature((fine, context, *self._place), self.networks["fine"].outputs)

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        around = InputSpec("context", self.context_side, self.context_factor, self.context_anchor, self.placed)
        return InputSpec("fine", self.window), around

    def classify(self, outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.int64] | None:
        """The likeliest class of each logit `[N, h, w]`; features tell none."""
        return super().classify(outputs) if len(outputs) == 1 and "logits" in outputs else None

    @property
    def _place(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("place", "float32", (None, 2)),) if self.placed else ()
