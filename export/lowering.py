"""Graphs of lower precisions beside the exact ones: made, run, and refused where they lose more than they may."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.checks import TOLERANCES
from glassrt.engine.bundles.kinds.shared import Shared
from glassrt.engine.bundles.parts import Graph, Precision, Role, Target
from glassrt.engine.errors import BundleError
from glassrt.export.calibration import Calibration
from glassrt.export.comparison import MadeOn, compare, edge_windows
from glassrt.export.precision import FLIPS_AIM, WEIGHT_BITS, Measure, run_graph, run_plainly, to_float16, to_int8
from glassrt.export.samples import Samples, count, join, pick, take


class Together:
    """Several networks' exact graphs, and what each gives for measured windows in each lower precision so far."""

    def __init__(self, exact: Mapping[Role, bytes], kind: Shared, measured: Samples) -> None:
        self._exact, self._kind, self._measured = exact, kind, measured
        self._given: dict[tuple[Precision, Target], dict[str, NDArray[Any]]] = {}

    def measure(self, role: Role, precision: Precision, target: Target) -> Measure | None:
        """How a network is measured: by what all give in the end, on what those before it give in its own precision;
        None for one alone.
        """
        if len(self._exact) == 1:
            return None
        given = {**self._measured, **self._given.get((precision, target), {})}
        after = list(self._exact)[list(self._exact).index(role) + 1 :]
        return Measure(
            pick(given, self._kind.networks[role].inputs),
            pick(self._measured, self._kind.whole.outputs),
            partial(self._finish, role, after),
            FLIPS_AIM / (1 + len(after)),
        )

    def note(self, entry: Graph, outputs: Samples) -> None:
        """Keep what a graph gives for those after it."""
        named = self._kind.networks[entry.role].name_outputs(outputs)
        self._given.setdefault((entry.precision, entry.target), {}).update(named)

    def _finish(self, role: Role, after: Sequence[Role], outputs: Samples) -> Samples:
        """What all give in the end where one gives these outputs, through the exact graphs after it."""
        known = {**self._measured, **self._kind.networks[role].name_outputs(outputs)}
        for later in after:
            network = self._kind.networks[later]
            known |= network.name_outputs(run_graph(self._exact[later], pick(known, network.inputs)))
        return pick(known, self._kind.whole.outputs)


def lower_all(
    exact: Mapping[Role, bytes], precisions: Sequence[Precision], tissue: Calibration, kind: Shared
) -> Iterator[tuple[Graph, bytes]]:
    """The wanted graphs of all networks beside the float32 ones, with their entries in the manifest.

    `tissue` holds what each of several networks gives too. Raises BundleError for a graph that loses too much.
    """
    together = Together(exact, kind, tissue.measured)
    for role, graph in exact.items():
        takes = kind.networks[role].inputs
        own = Calibration(pick(tissue.calibrated, takes), pick(tissue.measured, takes), ())
        in_int8 = together.measure(role, "int8", "cpu")
        for entry, content in lower_precisions(graph, precisions, own, kind, role, name_prefix(role), in_int8):
            measure = together.measure(role, entry.precision, entry.target)
            outputs = refuse_lossy(graph, entry, content, own.measured, kind, measure)
            if measure is not None:
                together.note(entry, outputs)
            yield entry, content


def name_prefix(role: Role) -> str:
    """How the files of a network begin."""
    return "" if role == "main" else f"{role}_"


def lower_precisions(
    exact: bytes,
    precisions: Sequence[Precision],
    tissue: Calibration,
    kind: Shared,
    role: Role = "main",
    prefix: str = "",
    measure: Measure | None = None,
) -> Iterator[tuple[Graph, bytes]]:
    """The wanted graphs beside the float32 one, int8 calibrated on tissue, with their entries in the manifest."""
    if "fp16" in precisions:
        content = to_float16(exact)
        yield describe_graph(f"{prefix}fp16.onnx", content, "fp16", "gpu", role=role), content
    if "int8" in precisions:
        made = to_int8(exact, tissue.calibrated, tissue.measured, kind, measure)
        for target, content in made.graphs.items():
            file, bits = f"{prefix}int8_{target}.onnx", WEIGHT_BITS[target]
            yield describe_graph(file, content, "int8", target, made.kept, bits, role), content


def refuse_lossy(
    exact: bytes, entry: Graph, content: bytes, measured: Samples, kind: Shared, measure: Measure | None = None
) -> Samples:
    """What a graph gives for `measured` windows that it was not made with; of one among several, for what those before
    it give in its own precision, and judged by what those after it make of that. Raises BundleError for one that loses
    more than its precision may.

    A graph for GPUs is run without any optimisation: its own arithmetic, not that of this processor's short cuts.
    """
    edges = edge_windows(kind.networks[entry.role].inputs)
    run = run_graph if entry.target == "cpu" else run_plainly
    given = measured if measure is None else measure.given
    outputs = run(content, join([given, edges]))
    own = take(outputs, slice(count(given)))
    if measure is None:
        found, wanted = outputs, run_graph(exact, join([measured, edges]))
    else:
        found, wanted = measure.finish(own), measure.wanted
    check = compare(found, wanted, count(given), MadeOn("", "ort", "", "CPU", "", entry.precision), None, kind)
    bad = sum(int(np.count_nonzero(~np.isfinite(values))) for values in outputs.values())
    aim = FLIPS_AIM if entry.precision == "int8" else TOLERANCES[entry.precision].flips
    turned = "" if check.cosine is None else f", the least cosine of features is {check.cosine:.4f}"
    turned += ", all windows as a bag change class" if check.bag_changes else ""
    if bad or check.flips > aim or not check.passed:
        raise BundleError(
            f"{entry.precision} for {entry.target} is not exported: {check.flips:.2%} of the places change class where "
            f"{aim:.2%} may, {' and '.join(wanted)} are off by {check.largest:.2g} where "
            f"{check.farthest:.2g} may{turned}, {bad} are no numbers; "
            f"{'calibrate on more of the tissue, or ' if entry.precision == 'int8' else ''}"
            f"leave {entry.precision} out of --precision"
        )
    return own


def describe_graph(
    file: str,
    content: bytes,
    precision: Precision = "fp32",
    target: Target = "any",
    kept_float: tuple[str, ...] = (),
    weight_bits: Literal[7, 8] | None = None,
    role: Role = "main",
) -> Graph:
    """A graph's entry in the manifest."""
    sha256 = hashlib.sha256(content).hexdigest()
    return Graph(file, sha256, precision, role, target, kept_float, weight_bits)
