"""What the manifest of every kind of bundle says."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.parts import (
    LONGEST_NAME,
    Example,
    Graph,
    Resolution,
    Role,
    Seen,
    Side,
    Step,
    Strict,
    Text,
    check_distinct,
    is_name,
)
from glassrt.engine.bundles.tensors import Signature
from glassrt.engine.geometry.plan import InputSpec

MOST_OVERLAP = 8  # windows along an axis that cover a pixel


class Shared(Strict, frozen=True, kw_only=True, tag_field="kind"):
    """What a bundle is, whatever its kind. `window` and `stride` are pixels at `mpp` times the scale."""

    format: Literal[2] = 2
    name: str
    mpp: Resolution
    window: Side
    stride: Step
    graphs: Annotated[tuple[Graph, ...], msgspec.Meta(min_length=1, max_length=16)]
    trained: Text
    licence: Text
    examples: Annotated[tuple[Example, ...], msgspec.Meta(max_length=16)] = ()
    calibrated: Annotated[tuple[Seen, ...], msgspec.Meta(max_length=1000)] = ()

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(
                f"name {self.name[: 2 * LONGEST_NAME]!r} must be letters, digits, dots, dashes and underlines, "
                f"{LONGEST_NAME} at most"
            )
        for name in ("trained", "licence"):
            if not all(each.isprintable() or each == "\n" for each in getattr(self, name)):
                raise ValueError(f"{name} holds characters that cannot be printed")
        check_windows(self.window, self.stride)
        check_distinct("a graph is", ((graph.role, graph.precision, graph.target) for graph in self.graphs))
        check_distinct("an example is", (example.role for example in self.examples))

    @property
    def kind(self) -> str:
        """The kind's name, as the manifest gives it."""
        return str(self.__struct_config__.tag)

    @property
    def networks(self) -> Mapping[Role, Signature]:
        """What each of the bundle's networks takes and gives, by its role."""
        raise NotImplementedError

    @property
    def first_role(self) -> Role:
        """The role of the network that windows are given to."""
        return next(iter(self.networks))

    @property
    def whole(self) -> Signature:
        """What all networks together take of a window and give for it."""
        return self.networks[self.first_role]

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What of a slide a window shows, the fine part first."""
        return (InputSpec("image", self.window),)

    @property
    def views(self) -> tuple[tuple[float, ...], bool]:
        """The scales that a slide's windows are cut at, and whether mirrored too."""
        return (1.0,), False

    @property
    def vectors(self) -> tuple[str, ...]:
        """Names of the outputs whose direction is what counts: features `[N, d]`, held together by their cosine."""
        return ()

    def lowest_cosine(self, found: Mapping[str, NDArray[Any]], exact: Mapping[str, NDArray[Any]]) -> float:
        """Of the `vectors` among outputs with the exact ones: 1 where all have one direction, or there are none."""
        lowest = 1.0
        for name in self.vectors:
            mine, theirs = found[name].astype(np.float64), exact[name].astype(np.float64)
            lengths = np.linalg.norm(mine, axis=1) * np.linalg.norm(theirs, axis=1)
            same = (mine == theirs).all(axis=1)  # as two that are zero
            cosines = np.where(same, 1.0, (mine * theirs).sum(axis=1) / np.where(lengths > 0, lengths, 1.0))
            lowest = min(lowest, float(np.nan_to_num(cosines, nan=-1.0).min(initial=1.0)))
        return lowest

    def classify_bag(self, outputs: Mapping[str, NDArray[Any]]) -> int | None:
        """The likeliest class of windows `[N, ...]` as one bag; None where a bundle's kind knows none."""
        return None

    def classify(self, outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.int64] | None:
        """The likeliest class of each place that a network's outputs tell of, `[N, ...]`; None where it tells none."""
        return None


def check_windows(window: int, stride: int) -> None:
    """Raise ValueError for windows that leave pixels out, or of which there are too many."""
    if stride > window:
        raise ValueError(f"stride {stride} exceeds window {window}: pixels would be left out")
    if stride * MOST_OVERLAP < window:
        raise ValueError(f"stride {stride} is less than an eighth of window {window}: too many windows for any slide")
