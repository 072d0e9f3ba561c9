"""What `glassrt verify` measured of a bundle. It lies beside the manifest, which it never changes, and counts only
where it was made: on that instruction set, device, runtime and version.
"""

from collections.abc import Iterable

import msgspec

from glassrt.engine.bundle import Bundle, RunPrecision, Strict, read_file
from glassrt.engine.errors import BundleError
from glassrt.engine.files import readable_json, replace_file

CHECKS = "checks.json"


class Timing(Strict, frozen=True):
    """How fast a runtime was: milliseconds a window in the batch that is best, on a processor and so many cores."""

    processor: str
    cores: int
    batch: int
    ms: float


class Check(Strict, frozen=True):
    """How far one runtime's logits lay from the exact ones, and what it was made on.

    `bundle` is the identity of what was measured, `isa` the processor's instructions or the GPU's compute capability,
    `version` the runtime's. `largest` and `mean` are absolute differences, `flips` the share of pixels whose class
    changed, `miou_change` in points on a labelled set.
    """

    bundle: str
    backend: str
    version: str
    device: str
    isa: str
    precision: RunPrecision
    passed: bool
    windows: int
    largest: float
    mean: float
    nan: int
    flips: float
    miou_change: float | None = None
    timing: Timing | None = None

    @property
    def made_on(self) -> tuple[str, ...]:
        """All that tells one check from another."""
        return self.bundle, self.backend, self.version, self.device, self.isa, self.precision


def read_checks(bundle: Bundle) -> tuple[Check, ...]:
    """The checks that were made of this very bundle, wherever; none where it was not verified. Raises BundleError."""
    path = bundle.path / CHECKS
    if not path.exists():
        return ()
    try:
        stored = msgspec.json.decode(read_file(path), type=tuple[Check, ...])
    except msgspec.MsgspecError as error:
        raise BundleError(f"{path}: {error}; delete it and run: glassrt verify {bundle.path}") from error
    return tuple(check for check in stored if check.bundle == bundle.sha256)


def record_checks(bundle: Bundle, checks: Iterable[Check]) -> tuple[Check, ...]:
    """All checks of a bundle after these were stored beside its manifest. Raises BundleError or OutputError."""
    made = {check.made_on: check for check in (*read_checks(bundle), *checks)}
    with replace_file(bundle.path / CHECKS) as beside:
        beside.write_bytes(readable_json(tuple(made.values())))
    return tuple(made.values())
