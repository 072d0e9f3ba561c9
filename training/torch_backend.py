"""A network under training as a runtime of the engine's: what it makes of slides before it is exported."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from glassrt.engine.bundles.parts import RunPrecision
from glassrt.engine.bundles.tensors import Signature, TensorSpec
from glassrt.engine.runtimes.protocol import Array, check_inputs


class TorchBackend:
    """Runs a network of one image and one output, as `signature` names them, in evaluation mode where it lies.

    The network stays the caller's, who must not train it meanwhile.
    """

    name, isa = "torch", ""
    precision: RunPrecision = "fp32"
    streams = 1
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __init__(self, network: nn.Module, signature: Signature, batch: int) -> None:
        self._network = network.eval()
        self._place = next(network.parameters()).device
        self.device, self.version, self.batch = str(self._place), str(torch.__version__), batch
        (taken,), (given,) = signature.inputs, signature.outputs
        self.inputs = (taken._replace(shape=taken.sized(batch)),)
        self.outputs = (given._replace(shape=given.sized(batch)),)

    @torch.inference_mode()
    def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """As `Backend.infer`; raises UsageError for other inputs."""
        check_inputs(self.inputs, inputs)
        (pixels,) = inputs.values()
        given = torch.from_numpy(np.ascontiguousarray(pixels)).to(self._place).float().permute(0, 3, 1, 2)
        return {self.outputs[0].name: self._network(given).float().cpu().numpy()}

    def close(self) -> None:
        """Nothing is held."""
