"""What a finished run holds, ready to become a bundle."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import nn

from glassrt.engine.bundles.manifest import Manifest
from glassrt.engine.bundles.parts import Graph, Role

UNMADE = (Graph("unmade.onnx", 64 * "0"),)  # stands for the graphs in the manifest of a bundle that has none yet


class Made(NamedTuple):
    """A run's networks by their roles, and the manifest of its bundle but for graphs and examples.

    A network takes what its signature says, but images as float `[N, 3, H, W]` in 0..255.
    """

    networks: Mapping[Role, nn.Module]
    manifest: Manifest
