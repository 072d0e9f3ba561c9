"""A ResNet with half the layers and a quarter of the channels, for what does not depend on an encoder's size."""

import pytest

from glassrt.training.networks import resnet


def shrink_resnet18(patch: pytest.MonkeyPatch) -> None:
    """One block a stage: a network takes longest to become a graph, layer by layer."""
    patch.setattr(resnet, "STAGE_CHANNELS", (16, 32, 64, 128))
    patch.setitem(resnet.LAYOUTS, "resnet18", (resnet.BasicBlock, (1, 1, 1, 1)))
