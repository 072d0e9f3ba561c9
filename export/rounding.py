"""Weights of a float32 graph on the steps that few bits leave them, so that what follows is moved as little as may be.

Rounded to the nearest step each, the weights of a filter err together: what one loses is given to those that are
rounded after it (Frantar et al. 2023, "GPTQ", for the inputs that real windows gave), and what all of them add on
average is taken from the bias (Nagel et al. 2019, section 4.2).
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import numpy_helper

from glassrt.export.samples import Samples, count, each

PATCHES = 200  # of each window and layer, at random places
DAMPED = 0.01  # of the mean square, added to every input's, so that rare ones do not take what others lose
# Weights of a filter, above which each is rounded to the nearest step: the matrices grow with the square. The longest
# filters of the networks for CPUs, whose accuracy it is for, have as many.
LONGEST = 1152
BLOCK = 64  # weights whose errors are given to the rest of a filter at once
SEED = 1

Floats = NDArray[np.float64]


class Inputs(NamedTuple):
    """What windows bring a convolution: products of every two of a filter's inputs, `[groups, k, k]`, and the inputs,
    `[groups, k]`, on average. Long filters have no products.
    """

    products: Floats | None
    mean: Floats


def measure_inputs(graph: bytes, samples: Samples) -> dict[str, Inputs]:
    """What every convolution gets of windows, by its own name."""
    model = onnx.load_from_string(graph)
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    shapes = {each.name: tuple(each.dims) for each in model.graph.initializer}
    taken = list(dict.fromkeys(node.input[0] for node in layers))
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=each) for each in taken)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(SEED)
    sums: dict[str, Inputs] = {}
    for window in each(samples):
        values = dict(zip(taken, session.run(taken, dict(window)), strict=True))
        for node in layers:
            patches = cut_patches(values[node.input[0]][0], node, shapes[node.input[1]], random)
            length = patches.shape[1]
            products = patches @ patches.transpose(0, 2, 1) if length <= LONGEST else None
            added = Inputs(None if products is None else products.astype(np.float64), patches.sum(2, np.float64))
            sums[node.name] = add(sums[node.name], added) if node.name in sums else added
    taken_of_all = count(samples) * PATCHES
    return {
        layer: Inputs(None if sum_.products is None else sum_.products / taken_of_all, sum_.mean / taken_of_all)
        for layer, sum_ in sums.items()
    }


def add(one: Inputs, other: Inputs) -> Inputs:
    """The sum of two."""
    products = None if one.products is None or other.products is None else one.products + other.products
    return Inputs(products, one.mean + other.mean)


def cut_patches(
    image: NDArray[np.float32], node: onnx.NodeProto, shape: tuple[int, ...], random: np.random.Generator
) -> NDArray[np.float32]:
    """What the filters of a convolution lie on at random places of an image `[C, H, W]`: `[groups, k, n]`."""
    given: dict[str, Any] = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    (down, across), (row_step, column_step) = given.get("strides", (1, 1)), given.get("dilations", (1, 1))
    top, left, bottom, right = given.get("pads", (0, 0, 0, 0))
    padded = np.pad(image, ((0, 0), (top, bottom), (left, right))) if top or left or bottom or right else image
    reach = (row_step * (shape[2] - 1) + 1, column_step * (shape[3] - 1) + 1)
    places = sliding_window_view(padded, reach, axis=(1, 2))[:, ::down, ::across, ::row_step, ::column_step]
    rows, columns = random.integers(0, places.shape[1], PATCHES), random.integers(0, places.shape[2], PATCHES)
    cut = places[:, rows, columns].transpose(0, 2, 3, 1)
    return cut.reshape(given.get("group", 1), -1, PATCHES)


class Rounded(NamedTuple):
    """A layer's weights on their steps, and what they add to its outputs on average, `[outputs]`."""

    weights: NDArray[np.float32]
    shift: Floats


def round_weights(
    model: onnx.ModelProto,
    layers: Iterable[onnx.NodeProto],
    inputs: Mapping[str, Inputs],
    largest: int,
    known: dict[tuple[str, int], Rounded],
) -> None:
    """Put the weights of `layers` on as many steps as reach from none to `largest`, and their biases right.

    A layer's rounding depends on no other's: `known` keeps it for the next time.
    """
    constants = {each.name: each for each in model.graph.initializer}
    for node in layers:
        weight = constants[node.input[1]]
        if (node.name, largest) not in known:
            known[node.name, largest] = round_layer(numpy_helper.to_array(weight), inputs[node.name], largest)
        rounded = known[node.name, largest]
        weight.CopyFrom(numpy_helper.from_array(rounded.weights, weight.name))
        if len(node.input) == 2:  # a layer without a bias gets one
            node.input.append(f"{weight.name}.shift")
            model.graph.initializer.append(numpy_helper.from_array(-rounded.shift.astype(np.float32), node.input[2]))
            continue
        bias = constants[node.input[2]]
        moved = numpy_helper.to_array(bias) - rounded.shift
        bias.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), bias.name))


def round_layer(weights: NDArray[np.float32], got: Inputs, largest: int) -> Rounded:
    """The weights of one layer on their steps, for the inputs that it gets."""
    filters = weights.astype(np.float64).reshape(len(got.mean), -1, got.mean.shape[1])
    steps = np.abs(filters).max(2, keepdims=True) / largest
    steps[steps == 0] = 1
    rounded = steps * spread_errors(filters / steps, got.products, largest)
    shift = ((rounded - filters) @ got.mean[:, :, None]).reshape(-1)
    return Rounded(rounded.reshape(weights.shape).astype(np.float32), shift)


def spread_errors(filters: Floats, products: Floats | None, largest: int) -> Floats:
    """Filters `[groups, n, k]` in whole numbers up to `largest`, which each has as its largest before and after."""
    if products is None:
        return filters.round()
    count = filters.shape[2]
    mean = np.trace(products, axis1=1, axis2=2)[:, None, None] / count
    inverse = np.linalg.inv(products + np.maximum(DAMPED * mean, 1e-9) * np.eye(count))
    passed_on = np.linalg.cholesky(inverse).transpose(0, 2, 1)
    left, rounded = filters.copy(), np.empty_like(filters)
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        errors = np.empty((*filters.shape[:2], stop - start))
        for index in range(start, stop):
            exact = np.abs(filters[:, :, index]) >= largest * (1 - 1e-9)  # else the steps would change
            nearest = left[:, :, index].round().clip(-largest, largest)
            rounded[:, :, index] = np.where(exact, filters[:, :, index].round(), nearest)
            error = (left[:, :, index] - rounded[:, :, index]) / passed_on[:, index, index, None]
            left[:, :, index:stop] -= error[:, :, None] * passed_on[:, None, index, index:stop]
            errors[:, :, index - start] = error
        left[:, :, stop:] -= errors @ passed_on[:, start:stop, stop:]
    return rounded
