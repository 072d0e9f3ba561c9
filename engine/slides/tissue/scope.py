"""What of a slide is analysed: its tissue as found, all of it, or what a mask says."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from glassrt.engine.slides.frames import keep_scanned, shown_part
from glassrt.engine.slides.pictures.colours import check_stain
from glassrt.engine.slides.slide import Overview, Pixels, Slide
from glassrt.engine.slides.tissue.annotations import ALL, AUTO, check_mask, read_mask
from glassrt.engine.slides.tissue.masks import Mask, widen
from glassrt.engine.slides.tissue.stain import compare_stain
from glassrt.engine.slides.tissue.survey import look_over, refuse_doubtful

Tissue = str | Path | Mask


class Scope(NamedTuple):
    """What of a slide is analysed.

    `tissue` is a mask of the whole at any resolution, which figures refer to; windows that touch `searched`, which may
    have a margin, are run. `source` says where it is from.
    """

    thumbnail: Pixels
    tissue: Mask
    searched: Mask
    source: str
    warnings: tuple[str, ...]

    def warn(self, *lines: str) -> "Scope":
        """The same with more warnings."""
        return self._replace(warnings=(*self.warnings, *lines))


def find_scope(
    slide: Slide,
    tissue: Tissue,
    readers: int,
    example: Pixels | None = None,
    name: str = "",
    overview: Overview | None = None,
) -> Scope:
    """What of a slide to analyse: `auto`, `all`, the path of a mask (an image or GeoJSON), or a mask as an array.

    Its stain is compared with the `example` window of the bundle `name`. An `overview` is looked at in place of the
    slide's own, or of its levels. Raises SlideError for a mask that does not fit
    the slide and, with `auto`, for what is no bright-field picture.
    """
    given = None if isinstance(tissue, str) and tissue in (AUTO, ALL) else read_given(tissue, slide)
    survey = look_over(slide, readers, overview)
    if tissue_is(tissue, AUTO):
        refuse_doubtful(survey, str(slide.path or slide.name))
    check_stain(survey.thumbnail, slide.path or slide.name)
    doubts = [survey.doubt] if survey.doubt else []
    if example is not None and (stain := compare_stain(survey.colours, survey.glass, example, name)):
        doubts.append(stain)
    if given is not None:
        source = "mask" if isinstance(tissue, np.ndarray) else str(tissue)
        return Scope(survey.thumbnail, given, given, source, tuple(doubts))
    if tissue_is(tissue, ALL):
        whole = keep_scanned(np.ones(survey.tissue.shape if slide.bounds else (1, 1), np.bool_), slide)
        return Scope(survey.thumbnail, whole, whole, ALL, tuple(doubts))
    found = keep_scanned(survey.tissue, slide)
    return Scope(survey.thumbnail, found, widen(found, survey.mpp), AUTO, tuple(doubts))


def tissue_is(tissue: Tissue, word: str) -> bool:
    """Whether the choice of tissue is this word and no mask."""
    return isinstance(tissue, str) and tissue == word


def read_given(tissue: Tissue, slide: Slide) -> Mask:
    """The mask that was given, as a file or an array."""
    if isinstance(tissue, str | Path):
        shown = shown_part(slide)
        return read_mask(Path(tissue), slide, (shown.left, shown.top), shown.size)
    return check_mask(tissue, slide.levels[0].size, "the mask")
