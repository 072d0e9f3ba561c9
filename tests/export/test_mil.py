"""The two graphs of a network for bags: tiles to features, and the head over the features of one bag."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from glassrt.engine.bundles.tensors import Signature, TensorSpec
from glassrt.export.to_onnx import export_graph
from glassrt.training.networks.bag_head import BagHead, Pooling
from glassrt.training.networks.mil import Design, MilNetwork


@pytest.mark.parametrize(("pooling", "classes"), [("attention", 2), ("attention", 3), ("max", 3)])
def test_the_head_is_a_graph_for_bags_of_any_size(pooling: Pooling, classes: int) -> None:
    torch.manual_seed(0)
    head, logits = BagHead(6, classes, pooling, 4).eval(), 1 if classes == 2 else classes
    head.scorer.feature_mean.uniform_(-1, 1)
    signature = Signature(
        (TensorSpec("features", "float32", (None, 6)),),
        (
            TensorSpec("probability", "float32", (logits,)),
            TensorSpec("attention", "float32", (None,)),
            TensorSpec("instances", "float32", (None, logits)),
        ),
    )
    graph = export_graph(head, signature)
    (free, width) = onnx.load_from_string(graph).graph.input[0].type.tensor_type.shape.dim
    assert free.dim_param
    assert width.dim_value == 6
    session = onnxruntime.InferenceSession(graph)
    for size in (1, 2, 5, 300):
        given = np.random.default_rng(size).normal(0, 3, (size, 6)).astype(np.float32)
        found = session.run([spec.name for spec in signature.outputs], {"features": given})
        with torch.inference_mode():
            wanted = head(torch.from_numpy(given))
        for one, other in zip(found, wanted, strict=True):
            assert one.shape == tuple(other.shape)
            assert np.abs(one - other.numpy()).max() < 1e-6


def test_the_encoder_is_a_graph_of_tiles() -> None:
    torch.manual_seed(0)
    network = MilNetwork(2, Design("conv2")).eval()
    tile = TensorSpec("tile", "uint8", (None, 27, 27, 3))
    graph = export_graph(network.encoder, Signature((tile,), (TensorSpec("features", "float32", (None, 512)),)))
    x = np.random.default_rng(0).integers(0, 256, (3, 27, 27, 3), dtype=np.uint8)
    (found,) = onnxruntime.InferenceSession(graph).run(None, {"tile": x})
    with torch.inference_mode():
        wanted = network.encoder(torch.from_numpy(x).float().permute(0, 3, 1, 2)).numpy()
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_scores_of_chunks_are_a_graph_too() -> None:
    """What a running softmax takes: each instance on its own, whatever chunk it comes in."""
    head = BagHead(6, 2, "attention", 4).eval()
    signature = Signature(
        (TensorSpec("features", "float32", (None, 6)),),
        (TensorSpec("scores", "float32", (None,)), TensorSpec("logits", "float32", (None, 1))),
    )
    session = onnxruntime.InferenceSession(export_graph(head.scorer, signature))
    given = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    scores, logits = session.run(None, {"features": given})
    with torch.inference_mode():
        probability, attention, _ = head(torch.from_numpy(given))
    assert np.allclose(np.exp(scores) / np.exp(scores).sum(), attention.numpy(), atol=1e-6)
    assert 1 / (1 + np.exp(-(attention.numpy() @ logits))) == pytest.approx(probability.numpy(), abs=1e-6)
