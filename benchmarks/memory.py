"""Peak memory of `glassrt score` on made slides of any size."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from glassrt.benchmarks.mosaic import Mosaic
from glassrt.engine.errors import SlideError


def measure_memory(data: Path, side: int, tissue: float) -> dict[str, Any]:
    """Peak resident memory and time of `glassrt score` on a made slide of `side` pixels, in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        slide = Path(folder, "mosaic.tiff")
        Mosaic(data, side, tissue).write(slide)
        size = slide.stat().st_size
        command = [
            str(Path(sys.executable).with_name("glassrt")),
            "score",
            str(slide),
            "--out",
            str(Path(folder, "out")),
        ]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SlideError(f"{slide}: glassrt score ended with exit code {process.returncode}")
        result = Path(folder, "out", "mosaic", "result.json").read_text()
    figures = msgspec.json.decode(result)
    return {
        "side": side,
        "slide_gb": size / 1e9,
        "tissue": tissue,
        "windows": figures["windows"],
        "peak_rss_gb": usage.ru_maxrss * 1024 / 1e9,
        "seconds": seconds,
        "stages": figures["seconds"],
        "backend": figures["backend"],
    }
