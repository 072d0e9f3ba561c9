"""Latency is measured on what really runs."""

import importlib
import json
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from known import image_and_logits
from plain_network import PSPNET

from glassrt.benchmarks import latency
from glassrt.benchmarks.ceiling import count_gmac, measure_ceiling, measure_gpu_ceiling, require_cublas
from glassrt.benchmarks.latency import Setting, closed_loop, lay_settings, open_loop, percentiles
from glassrt.engine.bundles.bundle import Bundle, open_bundle
from glassrt.engine.bundles.example import Known
from glassrt.engine.errors import BackendUnavailable, UsageError
from glassrt.engine.runtimes.device import has_device
from glassrt.engine.runtimes.open import open_backend

# The command, but for how long it warms up and how many starts count.
SHORTER = "from glassrt.benchmarks import latency; latency.WARM_UP_S, latency.STARTS = 0.05, 1"
GLASSRT = (sys.executable, "-c", f"{SHORTER}; from glassrt.engine.commands.main import main; main()")
BUNDLE = open_bundle(PSPNET)


def test_the_command_measures_checks_and_draws(tmp_path: Path) -> None:
    figures, picture = tmp_path / "latency.json", tmp_path / "latency.png"
    command = [*GLASSRT, "bench", "latency", "--backend", "ort,openvino", "--precision", "int8", "--batch", "1"]
    options = ["--duration", "0.5", "--rate", "5", "--json", figures, "--plot", picture]
    done = subprocess.run([*command, *options], capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    report = json.loads(figures.read_text())
    assert {(row["backend"], row["precision"], row["batch"]) for row in report["rows"]} == {
        (backend, "int8", 1) for backend in ("ort", "openvino")
    }
    assert max(map(len, done.stdout.splitlines())) <= 80
    for row in report["rows"]:
        assert done.stdout.count(f" {row['name']} ") == 2  # on one line of each table
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p95_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert row["windows_per_s"] == pytest.approx(1000 * row["batch"] / row["mean_ms"])
        assert row["mpix_per_s"] == pytest.approx(row["windows_per_s"] * 0.1024)
        assert 0.02 < row["ceiling_share"] < 1.2
        assert len(row["runs"]) == 5
        assert row["at_rate"]["windows_per_s"] == 5
        assert min(row["start"].values()) > 0
        assert 0.1 < row["start"]["peak_rss_gb"] < 2
    assert {"processor", "isa", "governor", "load", "versions"} <= report["machine"].keys()
    drawn = cv2.imread(str(picture))
    assert drawn.shape[1] > 400
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 10


def test_the_work_of_the_demo_network_is_counted() -> None:
    """1.69 GMAC by hand: the sum of output size times kernel over its convolutions and matrix products."""
    assert count_gmac(BUNDLE) == pytest.approx(1.69, abs=0.02)


def test_eight_bits_raise_the_ceiling() -> None:
    rates = measure_ceiling({"fp32", "int8"})
    assert rates["int8"] > rates["fp32"] > 1


def test_a_wait_counts_from_the_arrival_not_from_the_start() -> None:
    """One call of 0.1 s holds up nine that arrive meanwhile; a loop that waits for it would see one slow call."""
    durations = iter([0.1] + [0.0] * 9)
    waits = open_loop(lambda: time.sleep(next(durations)), rate=100, duration=0.1)
    assert waits is not None
    assert waits[0] >= 0.1
    assert waits[1] >= 0.09
    assert waits[1] < waits[0]
    assert percentiles(waits)["p50_ms"] > 30


@pytest.mark.parametrize("rate", [40, 1000])
def test_a_rate_that_cannot_be_kept_is_given_up(rate: float) -> None:
    """Twice and fifty times of what a call of 50 ms allows; the first is only seen by what waits at the end."""
    start = time.perf_counter()
    assert open_loop(lambda: time.sleep(0.05), rate, duration=1.0) is None
    assert time.perf_counter() - start < 4


def test_a_loop_lasts_as_long_as_it_is_told_and_calls_at_least_once() -> None:
    assert 2 <= len(closed_loop(lambda: time.sleep(0.01), 0.1)) <= 10
    assert len(closed_loop(lambda: time.sleep(0.05), 0.0)) == 1


def test_combinations_that_no_runtime_has_are_left_out() -> None:
    left_out: list[str] = []
    found = lay_settings(BUNDLE, ("ort", "openvino"), ("fp32", "int8", "fp16"), (1, 8), (0,), left_out.append)
    assert len(left_out) == 2
    assert all("fp16" in reason for reason in left_out)
    assert {each[:2] for each in found} == {(name, each) for name in ("ort", "openvino") for each in ("fp32", "int8")}
    assert {each.batch for each in found} == {1, 8}
    with pytest.raises(UsageError, match="backend 'tpyo' does not exist"):
        lay_settings(BUNDLE, ("ort", "tpyo"), ("fp32",), (1,), (0,))
    with pytest.raises(UsageError, match="precision 'fp64' does not exist"):
        lay_settings(BUNDLE, ("ort",), ("fp32", "fp64"), (1,), (0,))
    with pytest.raises(UsageError, match="precision bf16 does not run through ort"):
        lay_settings(BUNDLE, ("ort",), ("bf16",), (1,), (0,))


def test_a_runtime_that_computes_something_else_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    image, logits = image_and_logits(BUNDLE)
    monkeypatch.setattr(Bundle, "read_example", lambda *_: Known({"image": image}, {"logits": logits + 1}))
    monkeypatch.setattr(latency, "measure_ceiling", lambda *arguments: {})
    with pytest.raises(BackendUnavailable, match="does not compute what"):
        latency.measure_latency(BUNDLE, [Setting("ort", "fp32", 1, 0)], 0.1)


def test_a_runtime_that_goes_wrong_on_the_way_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def miss(*arguments: object) -> None:
        raise BackendUnavailable("not any more")

    monkeypatch.setattr(latency, "check_backend", miss)  # which opening does not call through this name
    monkeypatch.setattr(latency, "measure_ceiling", lambda *arguments: {})
    with pytest.raises(BackendUnavailable, match="not any more"):
        latency.measure_latency(BUNDLE, [Setting("ort", "fp32", 1, 0)], 0.1)


def test_a_bundle_without_an_example_is_timed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = msgspec.structs.replace(BUNDLE.manifest, examples=())
    bundle = Bundle(BUNDLE.path, manifest, BUNDLE.sha256)
    with closing(open_backend(bundle, "ort", 2)) as backend:
        inputs = latency.example_inputs(bundle, backend)
        assert {name: (values.shape, values.dtype) for name, values in inputs.items()} == {
            "image": ((2, 320, 320, 3), np.uint8)
        }
        assert inputs["image"].std() > 10
        backend.infer(inputs)


def test_without_cublas_a_gpus_ceiling_is_refused_in_one_line() -> None:
    try:
        importlib.import_module("cupy_backends.cuda.libs.cublas")
    except ImportError:
        with pytest.raises(BackendUnavailable, match=r"^a GPU's ceiling .* cuBLAS, .*: pip install 'nvidia-cublas.*'$"):
            require_cublas()
    else:
        require_cublas()


@pytest.mark.gpu
def test_a_gpus_ceiling_rises_with_less_precision() -> None:
    if not has_device():
        pytest.skip("no CUDA device")
    try:
        rates = measure_gpu_ceiling({"fp32", "fp16"})
    except BackendUnavailable as error:
        pytest.skip(str(error))
    assert rates["fp16"] > rates["fp32"] > 100
    assert rates["copy"] > 10
