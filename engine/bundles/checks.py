"""What `glassrt verify` measured of a bundle. It lies beside the manifest, which it never changes, and counts only
where it was made: on that instruction set, device, runtime and version.
"""

import contextlib
import logging
import os
import stat
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.parts import RunPrecision, Strict
from glassrt.engine.bundles.regular_file import LARGEST_TEXT, read_file
from glassrt.engine.cache import default_folder, keep, make_folder
from glassrt.engine.errors import BundleError, OutputError, first_line
from glassrt.engine.files import readable_json, replace_file
from glassrt.engine.staging import lock_folder

CHECKS = "checks.json"
LOGGER = logging.getLogger("glassrt")


class Tolerance(NamedTuple):
    """What a precision may lose: outputs relative to the largest, places that change class, points of mIoU; and the
    least cosine of features with the exact ones.
    """

    largest: float
    flips: float
    miou: float
    cosine: float


TOLERANCES: dict[RunPrecision, Tolerance] = {
    "fp32": Tolerance(1e-4, 1e-4, 0.01, 0.99999),
    "bf16": Tolerance(0.2, 0.01, 0.5, 0.999),
    "fp16": Tolerance(0.05, 0.005, 0.1, 0.999),
    "int8": Tolerance(0.25, 0.01, 0.5, 0.99),
}
LARGEST_LOGIT = 100.0  # of checks that do not say how far the exact logits reach


class Timing(Strict, frozen=True):
    """How fast a runtime was: milliseconds a window in the batch that is best, on a processor and so many cores."""

    processor: str
    cores: int
    batch: int
    ms: float


class Check(Strict, frozen=True):
    """How far one runtime's logits lay from the exact ones, and what it was made on.

    `bundle` is the identity of what was measured, `isa` the processor's instructions or the GPU's compute capability,
    `version` the runtime's. `largest` and `mean` are absolute differences, `flips` the share of places whose class
    changed, `miou_change` in points on a labelled set; `reach` is the largest exact value of the output that `largest`
    is of, the one that was furthest off for its reach. `cosine` is the least of any window's features with the exact
    ones, `bag_changes` says that all windows as one bag are of another class.
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
    reach: float = LARGEST_LOGIT
    cosine: float | None = None
    bag_changes: bool = False

    @property
    def farthest(self) -> float:
        """How far outputs may be off in its precision."""
        return TOLERANCES[self.precision].largest * max(1.0, self.reach)

    @property
    def is_within(self) -> bool:
        """Whether its figures are what its precision may lose, whatever it says."""
        allowed = TOLERANCES[self.precision]
        return (
            self.windows > 0
            and self.nan == 0
            and 0 <= self.largest <= self.farthest
            and 0 <= self.flips <= allowed.flips
            and (self.cosine is None or self.cosine >= allowed.cosine)
            and not self.bag_changes
            and (self.miou_change is None or self.miou_change >= -allowed.miou)
        )

    @property
    def made_on(self) -> tuple[str, ...]:
        """All that tells one check from another."""
        return self.bundle, self.backend, self.version, self.device, self.isa, self.precision


def read_checks(bundle: Bundle) -> tuple[Check, ...]:
    """The checks that were made of this very bundle, wherever; none where it was not verified.

    They are no part of what the manifest pins, so what is damaged of them counts as none, which is logged.
    """
    made: dict[tuple[str, ...], Check] = {}
    places = [bundle.path / CHECKS]
    with contextlib.suppress(OutputError):  # a user without a home has none of their own
        places.append(own_checks(bundle))
    for path in filter(os.path.lexists, places):
        if not is_plain(path):
            tell_once(f"{path} is a link, or no file, and counts as none; remove it: checks go to your cache till then")
            continue
        stored, fault = decode_checks(path)
        if fault:
            tell_once(f"{fault}: run glassrt verify {bundle.path} again")
        for check in stored:
            older = made.get(check.made_on)
            if check.bundle == bundle.sha256 and (older is None or older.passed):  # a failure stays, wherever it lies
                made[check.made_on] = check
    return tuple(made.values())


def decode_checks(path: Path) -> tuple[list[Check], str]:
    """The checks in a file, each read by itself, so that a damaged one leaves the others; and what counts as none."""
    try:
        stored = msgspec.json.decode(read_file(path, LARGEST_TEXT), type=list[msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return [], f"{path} counts as none ({first_line(error)})"
    except BundleError as error:
        return [], f"checks count as none ({error})"
    checks, faults = [], []
    for each in stored:
        try:
            check = msgspec.json.decode(each, type=Check)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            faults.append(first_line(error))
        else:
            checks.append(msgspec.structs.replace(check, passed=check.passed and check.is_within))
    return checks, f"{path}: {len(faults)} of its checks count as none ({faults[0]})" if faults else ""


@cache
def tell_once(line: str) -> None:
    """Log a warning once in a process, however often the checks are read."""
    LOGGER.warning("%s", line)


def is_plain(path: Path) -> bool:
    """Whether a file stands at `path` itself, rather than a link to one, a folder or a pipe."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def record_checks(bundle: Bundle, checks: Iterable[Check]) -> Path:
    """Store checks with the bundle's older ones, and return where: beside its manifest, or in the user's cache where
    the bundle cannot be written or something else than checks stands there. Raises OutputError where neither can.

    Two processes at once lose none, as each reads what there is under the lock of the folder that it writes.
    """
    path = bundle.path / CHECKS
    try:
        refuse_other(path)
        with lock_folder(path.parent), replace_file(path) as beside:
            beside.write_bytes(add_checks(bundle, checks))
    except (OutputError, OSError):
        path = own_checks(bundle)
        make_folder(path.parent)
        refuse_other(path)
        with lock_folder(path.parent):
            keep(path, add_checks(bundle, checks))
        return path
    with contextlib.suppress(OutputError, OSError):  # they lie beside the manifest now, too
        own_checks(bundle).unlink()
    return path


def add_checks(bundle: Bundle, checks: Iterable[Check]) -> bytes:
    """What a file of checks holds once some are added to those that were made."""
    made = {check.made_on: check for check in (*read_checks(bundle), *checks)}
    return readable_json(tuple(made.values()))


def refuse_other(path: Path) -> None:
    """Raise OutputError where something stands at `path` that is no file itself: what a link leads to is not ours."""
    if os.path.lexists(path) and not is_plain(path):
        raise OutputError(f"{path} is a link, or no file, and is not replaced: remove it")


def own_checks(bundle: Bundle) -> Path:
    """Where this user keeps the checks of a bundle that others own."""
    return default_folder().with_name("checks") / f"{bundle.sha256}.json"
