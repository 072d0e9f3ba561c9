"""What a measurement was taken on, and its file."""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from glassrt.engine.files import readable_json, replace_file
from glassrt.engine.runtimes.isa import count_cores, cpu_isa, processor_name

PACKAGES = (
    "glassrt",
    "numpy",
    "onnxruntime",
    "openvino",
    "openslide-python",
    "openslide-bin",
    "opencv-python-headless",
    "torch",
    "monai",
    "tiatoolbox",
    "onnxruntime-gpu",
    "tensorrt-cu13",
    "tifffile",
    "simplejpeg",
    "tiffslide",
    "pyvips",
    "cucim-cu13",
    "cupy-cuda13x",
    "tensorrt-rtx",
    "nvidia-cuda-nvrtc",
)


LOAD_AT_START = os.getloadavg()[0]  # before the benchmark adds its own


def describe_machine() -> dict[str, Any]:
    """Processor, cores, load, system, date and the versions of what was measured."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "processor": processor_name(),
        "isa": cpu_isa(),
        "cores": count_cores(),
        "load": LOAD_AT_START,
        "governor": read_governor(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": versions,
    }


def read_governor() -> str:
    """How the system sets the processor's frequency, where it tells."""
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return governor.read_text().strip() if governor.exists() else "not told"


def write_report(path: Path | None, report: dict[str, Any]) -> None:
    """Write a report with the machine it was measured on as indented JSON, if there is a path."""
    if path is None:
        return
    with replace_file(path) as beside:
        beside.write_bytes(readable_json({"machine": describe_machine(), **report}))
