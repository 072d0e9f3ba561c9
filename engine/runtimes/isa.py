"""The instructions that this processor has for networks: arithmetic, and so results, differ by them."""

import os
import platform
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from glassrt.engine.system import list_cores

CPUINFO = Path("/proc/cpuinfo")
# What OpenCV asks the processor itself, by the numbers of its interface, which its Python does not name.
ASKED = {"avx2": 11, "avx512": 256, "avx512_vnni": 23}
HIDING = "OPENCV_CPU_DISABLE"  # a variable that keeps it from using what is there, and from telling of it
# What it does not ask, as Linux calls it; elsewhere these stay unknown, and a newer processor goes by an older one's
# name. What eight bits come to is probed, not read from the name.
READ = {"avx_vnni": "avx_vnni", "avx512_bf16": "bf16", "amx_int8": "amx"}
TOLD = {"avx2": "avx2", "avx512bw": "avx512", "avx512_vnni": "avx512_vnni"}
# OpenVINO computes with oneDNN and with kernels of its own, each with a switch that limits its instructions.
SWITCHES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "OV_CPU_MAX_ISA")
LIMITS = {
    "SSE41": (),
    "SSE42": (),
    "AVX": (),
    "AVX2": ("avx2",),
    "AVX2_VNNI": ("avx2", "avx_vnni"),
    "AVX2_VNNI_2": ("avx2", "avx_vnni"),
    "AVX512_CORE": ("avx2", "avx512"),
    "AVX512_CORE_VNNI": ("avx2", "avx512", "avx512_vnni"),
    "AVX512_CORE_BF16": ("avx2", "avx512", "avx512_vnni", "bf16"),
    "AVX512_CORE_FP16": ("avx2", "avx512", "avx512_vnni", "bf16"),
}


@cache
def cpu_isa(limited: bool = False) -> str:
    """What runtimes compute with here: `avx2`, `avx2-vnni`, `avx512`, then with `-vnni`, `-bf16`, `-amx` as far as they
    are there, `sse` where none is; another architecture by its own name. `limited` as OpenVINO's switches say.
    """
    machine = platform.machine().lower()
    if machine not in ("x86_64", "amd64"):
        return machine or "unknown"
    found = find_features()
    if limited:
        for switch in SWITCHES:
            found &= set(LIMITS.get(os.environ.get(switch, "").upper(), found))
    return name_features(found)


def find_features() -> set[str]:
    """What the processor has, as it says itself, and as Linux says of what it is not asked.

    Where OpenCV is told to hide some of it, Linux says all.
    """
    import cv2

    flags = read_flags()
    told = {name for flag, name in TOLD.items() if flag in flags}
    found = (
        told if os.environ.get(HIDING) else {name for name, number in ASKED.items() if cv2.checkHardwareSupport(number)}
    )
    # An emulator shows the file of the processor beneath.
    if told == found:
        found |= {name for flag, name in READ.items() if flag in flags}
    return found


def read_flags() -> set[str]:
    """The flags that Linux gives of the first processor, none elsewhere."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set())


def name_features(found: Iterable[str]) -> str:
    """Features in one word, which tells apart what computes differently."""
    found = set(found)
    if "avx512" in found:
        parts = (
            "avx512",
            "vnni" if "avx512_vnni" in found else "",
            *(name for name in ("bf16", "amx") if name in found),
        )
    else:
        parts = ("avx2" if "avx2" in found else "sse", "vnni" if "avx_vnni" in found else "")
    return "-".join(filter(None, parts))


def processor_name() -> str:
    """The processor as the system calls it."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    told = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return told or platform.processor() or platform.machine()


def count_cores() -> int:
    """The processor cores that this process may use."""
    return len(list_cores())
