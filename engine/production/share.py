"""How the cores, or the devices, of this machine are shared among workers."""

from collections.abc import Sequence

import msgspec

from glassrt.engine.production.wire import Setup
from glassrt.engine.system import list_cores

CORES_EACH = 1  # of a worker, unless a number of workers is asked for: what finished most slides
WORKERS_EACH = 2  # of a device: while one reads, the other one computes


def share_cores(setup: Setup, workers: int | None) -> Sequence[Setup]:
    """A setup for each worker, whose cores are its own; of more workers than cores, all of them are everyone's."""
    cores = list_cores()
    count = workers or max(1, len(cores) // CORES_EACH)
    if count > len(cores):
        return [msgspec.structs.replace(setup, threads=1)] * count
    parts = [tuple(cores[at * len(cores) // count : (at + 1) * len(cores) // count]) for at in range(count)]
    return [
        msgspec.structs.replace(setup, cores=part if count > 1 else (), threads=len(part) if count > 1 else 0)
        for part in parts
    ]


def share_devices(setup: Setup, devices: Sequence[str], workers: int | None) -> Sequence[Setup]:
    """A setup for each worker, by turns of the `devices`, by their numbers."""
    count = workers or WORKERS_EACH * len(devices)
    return [msgspec.structs.replace(setup, device=devices[at % len(devices)]) for at in range(count)]
