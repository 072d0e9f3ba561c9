"""Curves as pictures: where they are drawn."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from glassrt.engine.errors import OutputError
from glassrt.training.plots import BOTTOM, COLOURS, LEFT, RIGHT, TOP, draw_curves

EMPTY = (np.empty(0), np.empty(0))


def draw(path: Path, farthest: float, *curves: tuple[NDArray[np.float64], NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Where the first curve's colour is in the frame, seen from its lower left corner."""
    draw_curves(path, "title", ("x", "y"), farthest, {str(number): curve for number, curve in enumerate(curves)})
    picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    found: NDArray[np.bool_] = (picture == COLOURS[0]).all(axis=2)[TOP : BOTTOM + 1, LEFT : RIGHT + 1][::-1]
    return found


@pytest.mark.parametrize("farthest", [1.0, 8.0])
def test_a_curve_is_drawn_through_its_points(tmp_path: Path, farthest: float) -> None:
    x, y = np.array([0, 0, 0.5, 1]) * farthest, np.array([0, 0.5, 0.9, 1])
    seen = draw(tmp_path / "new" / "curve.png", farthest, (x, y))
    height, width = (length - 1 for length in seen.shape)
    for across, up in ((0, 0.25), (0.25, 0.7), (0.5, 0.9), (0.75, 0.95)):
        row, column = round(up * height), round(across * width)
        assert seen[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3].any(), (across, up)
    assert not seen[: height // 2, 5 : width // 4].any()


def test_what_lies_beyond_is_cut_off(tmp_path: Path) -> None:
    seen = draw(tmp_path / "a.png", 8.0, (np.array([0, 4, 20]), np.array([0, 0.5, 1])))
    height, width = (length - 1 for length in seen.shape)
    assert seen[height // 2 - 2 : height // 2 + 3, width - 5].any()
    assert not seen[height // 2 + 5 :].any()


def test_an_empty_curve_is_no_line(tmp_path: Path) -> None:
    seen = draw(tmp_path / "a.png", 1.0, EMPTY)
    assert 0 < seen.sum() < 800  # its name alone
    assert draw(tmp_path / "b.png", 1.0, (np.array([0.0, 1.0]), np.array([0.0, 1.0]))).sum() > 800


def test_a_folder_that_cannot_be_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        draw(tmp_path / "file" / "a.png", 1.0, EMPTY)
