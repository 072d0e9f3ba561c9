"""Which workers a batch has: processes of this machine, by cores or by devices, or those of a Ray cluster."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from glassrt.engine.errors import UsageError
from glassrt.engine.production.executor import Executor
from glassrt.engine.production.on_ray import OnRay
from glassrt.engine.production.processes import Limits, Processes
from glassrt.engine.production.share import CORES_EACH, WORKERS_EACH, share_cores, share_devices
from glassrt.engine.production.wire import Setup
from glassrt.engine.runtimes.table import RUNTIMES


class Workers(NamedTuple):
    """How many workers are `wanted`, by default as many as finish most slides; on which `devices`, by their numbers;
    on the cluster `ray`; and when one is given up.
    """

    wanted: int | None = None
    devices: Sequence[str] = ()
    ray: str | None = None
    limits: Limits = Limits()

    def open(self, setup: Setup, backend: str) -> Executor:
        """The executor, for a runtime. Raises UsageError and BackendUnavailable as `OnRay` does."""
        on_device = RUNTIMES[backend].target == "gpu"
        if self.devices and not on_device:
            raise UsageError(f"--devices: {backend} runs on the CPU; name another --backend")
        if self.ray is not None:
            gpus = 1 / WORKERS_EACH if on_device else 0.0
            return OnRay(self.ray, setup, self.limits, self.wanted, CORES_EACH, gpus)
        if on_device:
            return Processes(share_devices(setup, self.devices or ("",), self.wanted), self.limits)
        return Processes(share_cores(setup, self.wanted), self.limits)


def parse_devices(text: str) -> tuple[str, ...]:
    """The numbers of devices from `cuda:0,cuda:1`; UsageError for anything else."""
    found = [re.fullmatch(r"(?:cuda:)?(\d{1,3})", part.strip()) for part in text.split(",")]
    numbers = [each[1] for each in found if each]
    if len(numbers) < len(found) or len({*numbers}) < len(numbers):
        raise UsageError(f"--devices {text}: expected different devices with commas, as in cuda:0,cuda:1")
    return tuple(numbers)
