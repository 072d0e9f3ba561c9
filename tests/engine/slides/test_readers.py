"""Readers are a list: each is asked in turn, and a new one needs no other change."""

from pathlib import Path

import numpy as np
import pytest

from glassrt.engine.errors import SlideError
from glassrt.engine.slides import readers
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.readers import READERS, open_slide

MARK = b"a new format"


def open_marked(path: Path, mpp: float | None) -> ArraySlide | None:
    """A slide of white of a format that is not read yet."""
    if not path.read_bytes().startswith(MARK):
        return None
    return ArraySlide(np.full((30, 40, 3), 255, np.uint8), mpp or 0.5, path.stem, "marked", path)


def test_a_reader_that_is_added_to_the_list_opens_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.new"
    path.write_bytes(MARK)
    with pytest.raises(SlideError, match="not a slide that OpenSlide reads, nor a PNG, JPEG, BMP or TIFF image"):
        open_slide(path)
    monkeypatch.setattr(readers, "READERS", (*READERS, open_marked))
    with open_slide(path, 0.3) as slide:
        assert (slide.source, slide.mpp, slide.levels) == ("marked", 0.3, (((40, 30), (1.0, 1.0), None),))


def test_the_first_reader_that_knows_a_file_opens_it(demo_slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSlide before plain images: a tiled TIFF is both."""

    def refuse(path: Path, mpp: float | None) -> ArraySlide | None:
        raise AssertionError(f"{path} was offered to a second reader")

    monkeypatch.setattr(readers, "READERS", (READERS[0], refuse))
    with open_slide(demo_slide) as slide:
        assert slide.source.startswith("OpenSlide")
