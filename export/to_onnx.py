"""A segmentation network as an ONNX graph: uint8 RGB windows in, float32 logits out."""

import logging
import warnings

import onnx
import torch
from torch import Tensor, nn

OPSET = 18
INPUT, OUTPUT, BATCH_AXIS = "image", "logits", "batch"


class RawPixels(nn.Module):
    """A network behind the bundle's contract: uint8 `[N, H, W, 3]` RGB -> float32 logits `[N, C, h, w]`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        # The cast comes first: TensorRT does nothing else with bytes.
        logits: Tensor = self.network(image.float().permute(0, 3, 1, 2))
        return logits


def export_graph(network: nn.Module, window: int) -> bytes:
    """The network in inference mode as a checked ONNX model with a free batch size; batch norm is folded."""
    wrapped = RawPixels(network).eval()
    example = torch.zeros(2, window, window, 3, dtype=torch.uint8)
    with torch.inference_mode():
        wrapped(example)  # constants that depend on the size are made here, not in the graph
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            wrapped,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim(BATCH_AXIS)},),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    name_layers(model)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def name_layers(model: onnx.ModelProto) -> None:
    """Call each convolution what the network calls it, as `encoder._conv_stem`: manifests and messages name layers."""
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.name = node.input[1].removeprefix("network.").split(".weight")[0]
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names), "two layers share a weight"
