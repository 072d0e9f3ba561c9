"""A network as an ONNX graph: uint8 RGB windows in."""

import traceback

import onnx
import torch
from torch import Tensor, nn

from glassrt.engine.bundles.tensors import Signature
from glassrt.engine.errors import BundleError, first_line
from glassrt.export.silence import silence_exporter

OPSET = 18
BATCH_AXIS = "batch"


class RawPixels(nn.Module):
    """A network behind the bundle's contract: what is uint8 `[N, H, W, 3]` RGB reaches it as float `[N, 3, H, W]`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        # The cast comes first: TensorRT does nothing else with bytes.
        given = (each.float().permute(0, 3, 1, 2) if each.dtype == torch.uint8 else each for each in inputs)
        outputs: Tensor | tuple[Tensor, ...] = self.network(*given)
        return outputs


def export_graph(network: nn.Module, signature: Signature) -> bytes:
    """The network in inference mode as a checked ONNX model with a free batch size; batch norm is folded.

    What it takes and gives is named as the signature does. Raises BundleError naming the module that the exporter
    refuses.
    """
    wrapped = RawPixels(network).eval()
    batch = torch.export.Dim(BATCH_AXIS)
    examples = tuple(torch.zeros(spec.sized(2), dtype=getattr(torch, spec.dtype)) for spec in signature.inputs)
    with torch.no_grad():  # the exporter would refuse what inference mode makes, and only then try its slower way
        wrapped(*examples)  # constants that depend on the size are made here, not in the graph
    silence_exporter()
    try:
        program = torch.onnx.export(
            wrapped,
            examples,
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in signature.inputs],
            output_names=[spec.name for spec in signature.outputs],
            dynamic_shapes=(tuple({0: batch} for _ in examples),),
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise BundleError(f"the network cannot become a graph: {blame(network, error)}") from error
    assert program is not None
    model = program.model_proto
    name_layers(model)
    drop_notes(model)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def blame(network: nn.Module, error: BaseException) -> str:
    """Which module of the network the exporter stopped at, and what it said."""
    names = {id(module): f"{name} ({type(module).__name__})" for name, module in network.named_modules() if name}
    module, operation, causes = "a module", "", [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in causes:
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            module = names.get(id(frame.f_locals.get("self")), module)  # while torch traces it
            node = frame.f_locals.get("node")  # while its trace is translated
            if isinstance(node, torch.fx.Node) and node.meta.get("nn_module_stack"):
                module = next(reversed(node.meta["nn_module_stack"].values()))[0].removeprefix("network.")
                operation = f"{node.target}: "
    return f"{module} is refused: {operation}{first_line(causes[-1])}"


def name_layers(model: onnx.ModelProto) -> None:
    """Call each convolution what the network calls it, as `encoder._conv_stem`: manifests and messages name layers.

    Raises BundleError where the network uses one twice.
    """
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.name = node.input[1].removeprefix("network.").split(".weight")[0]
    names = [node.name for node in model.graph.node]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BundleError(f"the network uses {twice[0]} twice: give each use a convolution of its own")


def drop_notes(model: onnx.ModelProto) -> None:
    """Remove what the exporter noted for those who debug it, such as source lines with this machine's paths."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]
