"""Whether an opened runtime computes what its bundle says: the stored example, run once before anything else."""

import numpy as np

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.checks import TOLERANCES
from glassrt.engine.errors import BackendUnavailable, BundleError
from glassrt.engine.runtimes.protocol import Backend, run_windows


def check_backend(bundle: Bundle, backend: Backend) -> None:
    """Run the bundle's example, or a blank window where it has none, through a backend that was just opened.

    Raises BundleError when the graph does not fit the manifest, BackendUnavailable when the logits are further from
    the exact ones, or more of their classes differ, than the backend's precision allows.
    """
    manifest = bundle.manifest
    side = manifest.window // manifest.output_stride
    image = np.zeros((1, manifest.window, manifest.window, 3), np.uint8)
    image, exact = bundle.read_example() or (image, None)
    logits = run_windows(backend, np.repeat(image, backend.batch, axis=0))
    fitting = (backend.batch, len(manifest.classes), side, side)
    if logits.shape != fitting:
        raise BundleError(
            f"{bundle.path}: the graph gives logits {list(logits.shape)}, its manifest means {list(fitting)}: "
            "export or download the bundle again"
        )
    if exact is None:
        return
    allowed = TOLERANCES[backend.precision]
    largest = float(np.abs(logits - exact).max())  # NaN wherever the logits are
    wanted = exact.argmax(1)
    flipped = int((logits.argmax(1) != wanted).sum(axis=(1, 2)).max())
    close = largest <= allowed.largest * max(1.0, float(np.abs(exact).max()))
    if not close or flipped > most_flips(wanted.size, allowed.flips):
        raise BackendUnavailable(
            f"{backend.name} {backend.version} in {backend.precision} on {backend.device} ({backend.isa}) does not "
            f"compute what {bundle.path} should give: its stored example is off by {largest:.2g}, "
            f"{flipped / wanted.size:.2%} of it in another class; choose another --backend or --precision"
        )


def most_flips(cells: int, share: float) -> int:
    """Logits of one window that may be of another class where `share` of many windows' may: the share of them, and one
    that lies between two classes.
    """
    return int(cells * share) + 1
