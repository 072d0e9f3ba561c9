"""Runs of benchmarks that are kept: scored anew only for another model or other slides."""

from pathlib import Path

import pytest

from glassrt.benchmarks.runs import lay_once, score_once
from glassrt.engine.errors import DatasetError
from glassrt.engine.files import write_json


def lay(data: Path, folder: Path, layout: str, slides: dict[str, int], cells: int, seed: int) -> None:
    """What stands for making mosaics: their index alone."""
    folder.mkdir()
    facts = {"layout": layout, "slides": slides, "images_a_side": cells, "seed": seed}
    write_json(folder / "mosaics.json", facts)


def test_mosaics_are_laid_once(tmp_path: Path) -> None:
    folder = tmp_path / "weak-1"
    lay_once(lay, tmp_path, folder, "weak", {"train": 2}, 8, 1)
    lay_once(lay, tmp_path, folder, "weak", {"train": 2}, 8, 1)  # which would raise FileExistsError, laid twice


@pytest.mark.parametrize("other", [("coherent", 2, 8, 1), ("weak", 3, 8, 1), ("weak", 2, 4, 1), ("weak", 2, 8, 2)])
def test_other_mosaics_in_their_place_are_refused(tmp_path: Path, other: tuple[str, int, int, int]) -> None:
    layout, slides, cells, seed = other
    lay_once(lay, tmp_path, tmp_path / "laid", "weak", {"train": 2}, 8, 1)
    with pytest.raises(DatasetError, match=r"laid holds other mosaics .* choose another --out"):
        lay_once(lay, tmp_path, tmp_path / "laid", layout, {"train": slides}, cells, seed)


def test_scores_are_of_one_model_on_some_slides(tmp_path: Path) -> None:
    model, index = tmp_path / "model.safetensors", tmp_path / "mosaics.json"
    model.write_bytes(b"one")
    index.write_bytes(b"slides")
    values = iter(range(9))

    def run() -> dict[str, int]:
        return score_once(tmp_path, [tmp_path], lambda: {"value": next(values)})

    assert run() == run() == {"value": 0}
    model.write_bytes(b"another")
    assert run() == run() == {"value": 1}
    index.write_bytes(b"other slides")
    assert run() == run() == {"value": 2}
