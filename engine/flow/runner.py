"""What stands between a plan and whatever takes its outputs."""

from collections.abc import Mapping
from typing import Protocol

from glassrt.engine.geometry.boxes import Indices, Size
from glassrt.engine.geometry.plan import Plan
from glassrt.engine.runtimes.protocol import Array
from glassrt.engine.slides.slide import Pixels
from glassrt.engine.watch import Watch


class RegionSource(Protocol):
    """Where the pixels of a plan's grid come from. Reading is thread-safe.

    `name` is the slide's, `base_size` the width and height of its level 0.
    """

    @property
    def name(self) -> str: ...

    @property
    def base_size(self) -> Size: ...

    def read(self, x: int, y: int, width: int, height: int) -> Pixels:
        """RGB `[height, width, 3]` of the region whose first grid pixel is (x, y)."""

    def at(self, factor: float) -> "RegionSource":
        """The same with pixels that are `factor` times as large."""


class Sink(Protocol):
    """Takes what a network gave for a plan's windows, in any order. One thread calls it."""

    def add(self, indices: Indices, outputs: Mapping[str, Array]) -> None:
        """Take the outputs, `[n, ...]` each, of the windows `indices`; they are the sink's own."""

    def drop(self, indices: Indices) -> None:
        """These windows will not come."""

    def finish(self) -> None:
        """All windows of the plan have come, or will not."""


class Runner(Protocol):
    """Runs every window of a plan through a network and hands what it gives to a sink."""

    def run(self, source: RegionSource, plan: Plan, sink: Sink, watch: Watch) -> None:
        """Raises SlideError where pixels cannot be read or outputs are no numbers, BackendUnavailable where the
        runtime fails; what the sink and `watch` raise passes through.
        """
