"""Running a bundle tells nobody and forks nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

SCORE = """
import os, sys
told = []
sys.addaudithook(lambda event, details: told.append(event) if event in ("os.fork", "socket.connect") else None)
from pathlib import Path
from glassrt.engine import open_bundle, open_slide, score
with open_slide(Path(sys.argv[1])) as slide:
    score(slide, open_bundle(), Path(sys.argv[2]), sys.argv[3])
import time
time.sleep(0.5)
print(told, sys.modules.get("openvino_telemetry"))
"""


@pytest.mark.parametrize("backend", ["openvino", "ort"])
def test_scoring_connects_to_nothing_and_forks_nothing(demo_slide: Path, tmp_path: Path, backend: str) -> None:
    """A fork among threads may hang for ever, and what is scored in a hospital is nobody else's to know."""
    done = subprocess.run(
        [sys.executable, "-c", SCORE, demo_slide, tmp_path / "out", backend], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "[] None\n"), done.stderr
