"""The arithmetic that training runs in."""

from types import SimpleNamespace

import pytest
import torch

from glassrt.training.loop import half_precision


@pytest.mark.parametrize(("generation", "half"), [(7, False), (8, True), (9, True)], ids=["Turing", "Ampere", "Hopper"])
def test_a_gpu_that_would_emulate_bfloat16_trains_in_float32(
    generation: int, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch reads off a device is set; what it makes of that is its own."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=generation))
    with half_precision(torch.device("cuda:0")):
        assert torch.is_autocast_enabled("cuda") == half


def test_cpus_train_in_float32() -> None:
    with half_precision(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.gpu
def test_products_on_a_gpu_have_the_type_that_it_computes_in() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    ones = torch.ones(16, 16, device="cuda")
    wanted = torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float32
    with half_precision(ones.device):
        assert (ones @ ones).dtype == wanted
