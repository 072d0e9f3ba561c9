"""What a finished run holds, ready to become a bundle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from torch import nn

from glassrt.engine.bundles.manifest import Manifest
from glassrt.engine.bundles.parts import Graph, Overlay, Role, SlideScoring
from glassrt.engine.errors import TrainingError, first_line

UNMADE = (Graph("unmade.onnx", 64 * "0"),)  # stands for the graphs in the manifest of a bundle that has none yet


class Made(NamedTuple):
    """A run's networks by their roles, and the manifest of its bundle but for graphs and examples.

    A network takes what its signature says, but images as float `[N, 3, H, W]` in 0..255.
    """

    networks: Mapping[Role, nn.Module]
    manifest: Manifest


def add_wishes(manifest: Manifest, metadata: Mapping[str, str], file: Path) -> Manifest:
    """A manifest that asks for what a method wrote beside its run's networks, if anything: `slide_scores`, the JSON of
    a SlideScoring, and `overlay`, a word. Raises TrainingError.
    """
    wishes: dict[str, Any] = {}
    try:
        if "slide_scores" in metadata:
            wishes["slide_scores"] = msgspec.json.decode(metadata["slide_scores"], type=SlideScoring)
        if "overlay" in metadata:
            wishes["overlay"] = msgspec.convert(metadata["overlay"], Overlay)
        return msgspec.structs.replace(manifest, **wishes)
    except (msgspec.MsgspecError, ValueError) as error:
        raise TrainingError(
            f"{file} asks for no bundle of this version: {first_line(error)}; train it again"
        ) from error
