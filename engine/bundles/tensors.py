"""What a graph takes and gives."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray


class TensorSpec(NamedTuple):
    """An input or output of a graph: None is a dimension that is free, and a shape that is not told."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        return f"{self.dtype} {self.sides}"

    @property
    def sides(self) -> str:
        """The shape in words; N is free."""
        return f"[{', '.join('N' if length is None else str(length) for length in (self.shape or ())[:8])}]"

    def fits(self, meant: "TensorSpec") -> bool:
        """Whether this is what is `meant`, as far as a file tells: lengths may be left open, what is open has to be."""
        if self.dtype != meant.dtype:
            return False
        if self.shape is None or meant.shape is None:
            return True
        return len(self.shape) == len(meant.shape) and all(
            length in (None, wanted) for length, wanted in zip(self.shape, meant.shape, strict=True)
        )

    def sized(self, free: int) -> tuple[int, ...]:
        """The shape with `free` for every length that is open."""
        return tuple(free if length is None else length for length in self.shape or ())


class Signature(NamedTuple):
    """What a network takes and gives, in order. The first length of each is open: how many windows come at once."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def name_outputs(self, outputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Outputs under the names that are meant; a graph's single one may have another."""
        if len(self.outputs) == len(outputs) == 1:
            return {self.outputs[0].name: next(iter(outputs.values()))}
        return outputs


def all_fit(found: Sequence[TensorSpec], meant: Sequence[TensorSpec], named: bool = True) -> bool:
    """Whether tensors are those that are `meant`, whatever their order; a single one that need not be `named` may have
    any name.
    """
    if len(found) == len(meant) == 1 and not named:
        return found[0].fits(meant[0])
    by_name = {spec.name: spec for spec in found}
    return (
        len(found) == len(meant)
        and by_name.keys() == {spec.name for spec in meant}
        and all(by_name[spec.name].fits(spec) for spec in meant)
    )
