"""`glassrt bench kernels` where there is no device, and its refusal to time what is wrong. `--report` is tested with
what builds.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glassrt.benchmarks import kernels
from glassrt.training import losses

GLASSRT = Path(sys.executable).parent / "glassrt"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_the_benchmark_says_so_in_one_line() -> None:
    seen = subprocess.run([GLASSRT, "bench", "kernels"], capture_output=True, text=True)
    assert seen.returncode == 2
    assert seen.stderr.startswith("glassrt: no CUDA device can be used: ")
    assert seen.stderr.count("\n") == 1


@pytest.mark.gpu
def test_the_benchmark_measures_every_call() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    figures = kernels.measure_kernels(repeats=3)
    assert {row["kernel"] for row in figures["kernels"]} == set(kernels.bytes_to_move())
    assert all(row["share_of_copy"] > 0 and row["bound_by"] in ("device", "launches") for row in figures["kernels"])


def test_a_loss_that_is_off_is_not_timed() -> None:
    logits = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.ones(2, 8, 8, dtype=torch.int64)
    labels[:, :4] = 0
    kernels.agree("oeem", logits, lambda x: losses.oeem(x, labels), lambda x: losses.oeem(x, labels), 1e-5)
    with pytest.raises(kernels.Disagreement, match=r"oeem on torch\.float32 is off its statement by"):
        kernels.agree(
            "oeem", logits, lambda x: losses.oeem(x, labels, "lc_mix"), lambda x: losses.oeem(x, labels), 1e-5
        )


def test_what_is_timed_was_checked(host: Any) -> None:
    """The checks that go before the times, on the CPU."""
    random = np.random.default_rng(0)
    kernels.check_windows(host, random)
    kernels.check_canvas(host, random)


def test_wrong_windows_are_not_timed(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = kernels.windows.cut
    monkeypatch.setattr(kernels.windows, "cut", lambda *arguments: cut(*arguments)[:, :, ::-1])
    with pytest.raises(kernels.Disagreement, match="windows are not those of the engine"):
        kernels.check_windows(host, np.random.default_rng(0))
