"""Whether an opened runtime computes what its bundle says: the stored example, run once before anything else."""

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.checks import TOLERANCES
from glassrt.engine.bundles.parts import Role
from glassrt.engine.errors import BackendUnavailable, BundleError
from glassrt.engine.runtimes.chain import Chain
from glassrt.engine.runtimes.protocol import Backend

Classes = NDArray[np.int64]
ONE_WINDOW = 2  # times as many places of one window may change class as of many


def check_backend(bundle: Bundle, backend: Backend, role: Role | None = None) -> None:
    """Run the example of a bundle's network, or blank inputs where it has none, through a backend that was just opened;
    of a chain each of its networks'.

    Raises BundleError when the graph does not fit the manifest, BackendUnavailable when the outputs are further from
    the exact ones, or more of their classes differ, than the backend's precision allows.
    """
    if isinstance(backend, Chain):
        check_backend(bundle, backend.context, "context")
        check_backend(bundle, backend.fine, "fine")
        return
    network = bundle.manifest.networks[role or bundle.manifest.first_role]
    known = bundle.read_example(role)
    inputs = known.inputs if known else {spec.name: np.zeros(spec.sized(1), spec.dtype) for spec in network.inputs}
    outputs = backend.infer({name: np.repeat(each, backend.batch, axis=0) for name, each in inputs.items()})
    outputs = network.name_outputs(outputs)
    for spec in network.outputs:
        if outputs[spec.name].shape != (fitting := spec.sized(backend.batch)):
            raise BundleError(
                f"{bundle.path}: the graph gives {spec.name} {list(outputs[spec.name].shape)}, its manifest means "
                f"{list(fitting)}: export or download the bundle again"
            )
    if known is None:
        return
    allowed = TOLERANCES[backend.precision]
    off = {name: float(np.abs(outputs[name] - exact).max()) for name, exact in known.outputs.items()}  # NaN stays
    close = all(
        off[name] <= allowed.largest * max(1.0, float(np.abs(exact).max())) for name, exact in known.outputs.items()
    )
    flipped, places = count_flips(bundle.manifest.classify(outputs), bundle.manifest.classify(known.outputs))
    turned = bundle.manifest.lowest_cosine(outputs, known.outputs) < allowed.cosine
    if not close or turned or flipped > most_flips(places, allowed.flips):
        raise BackendUnavailable(
            f"{backend.name} {backend.version} in {backend.precision} on {backend.device} ({backend.isa}) does not "
            f"compute what {bundle.path} should give: its stored example is off by {np.max([*off.values()]):.2g}, "
            f"{flipped / places:.2%} of it in another class; choose another --backend or --precision"
        )


def count_flips(found: Classes | None, wanted: Classes | None) -> tuple[int, int]:
    """Most places of one of the windows `[N, ...]` whose class is not the one `wanted` `[1, ...]`, and their number."""
    if found is None or wanted is None:
        return 0, 1
    return int((found != wanted).reshape(len(found), -1).sum(axis=1).max()), wanted.size


def most_flips(cells: int, share: float) -> int:
    """Places of one window that may be of another class where `share` of many windows' may: twice the share, as windows
    differ, and one that lies between two classes.
    """
    return int(cells * share * ONE_WINDOW) + 1
