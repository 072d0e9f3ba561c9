"""What a run asks of the engine beside its windows goes into its bundle."""

import json
from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor, nn

from glassrt.engine.bundles.bundle import open_bundle
from glassrt.engine.bundles.kinds.segmentation import Segmentation
from glassrt.engine.bundles.parts import ClassInfo, SlideScoring
from glassrt.engine.errors import TrainingError
from glassrt.export import bundle as exporting
from glassrt.export.bundle import export_run
from glassrt.export.kinds.made import UNMADE, Made
from glassrt.training import checkpoint

SCORING = SlideScoring("malign", 2.5)


class Toy(nn.Module):
    """A convolution on 32 pixels to a side."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Conv2d(3, 2, 8, 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(images / 255)


def read_toy(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str], name: str) -> Made:
    network = Toy()
    checkpoint.load_into(network, tensors, file)
    manifest = Segmentation(
        name=name, mpp=0.5, window=32, stride=32, graphs=UNMADE, trained="toy", licence="none", output_stride=8,
        classes=(ClassInfo("benign", (0, 0, 0)), ClassInfo("malign", (255, 0, 0))), scales=(1.0,), flips=False,
    )  # fmt: skip
    return Made({"main": network.eval()}, manifest)


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Saves the run of a method that is not in the repository, with more beside its network."""
    monkeypatch.setitem(exporting.READERS, "toy", read_toy)
    torch.manual_seed(0)

    def write(**more: str) -> Path:
        checkpoint.save(tmp_path / "model.safetensors", Toy().state_dict(), {"method": "toy", **more})
        return tmp_path

    return write


@pytest.mark.parametrize("overlay", ["heat", None])
@pytest.mark.parametrize("scoring", [SCORING, None])
def test_a_bundle_asks_for_what_its_run_asked_for(
    save, tmp_path: Path, scoring: SlideScoring | None, overlay: str | None
) -> None:
    wishes = {"slide_scores": msgspec.json.encode(scoring).decode()} if scoring else {}
    wishes |= {"overlay": overlay} if overlay else {}
    export_run(save(**wishes), tmp_path / "toy.glass", "toy")
    manifest = open_bundle(tmp_path / "toy.glass").manifest
    assert manifest.slide_scores == (scoring or msgspec.UNSET)
    assert manifest.overlay == (overlay or msgspec.UNSET)
    written = json.loads((tmp_path / "toy.glass" / "manifest.json").read_text())
    assert {"slide_scores", "overlay"} & written.keys() == wishes.keys()


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"overlay": "hot"}, "Invalid enum value 'hot'"),
        ({"slide_scores": '{"of": "tumour", "eta": 5}'}, r"`\$.slide_scores.of` names 'tumour'"),
        ({"slide_scores": '{"of": "malign", "eta": 0}'}, r"at `\$.eta`"),
        ({"slide_scores": "malign"}, "malformed"),
    ],
)
def test_wishes_that_no_bundle_can_have_are_refused_in_a_line(
    save, tmp_path: Path, wishes: dict[str, str], says: str
) -> None:
    with pytest.raises(TrainingError, match=f"model.safetensors asks for no bundle of this version: .*{says}") as told:
        export_run(save(**wishes), tmp_path / "toy.glass", "toy")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "toy.glass").exists()
