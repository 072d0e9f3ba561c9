"""BACH, the grand challenge on breast cancer histology of ICIAR 2018: ten slides with regions of three lesions.

Source: Aresta et al., "BACH" (MedIA 2019); the splits are those of DA-RefineNet, section III.E. Published layout:
`ICIAR2018_BACH_Challenge/WSI/A01.svs`, `A01.xml`, ... `A10.svs`, `A10.xml`. For research only.
"""

import re
from pathlib import Path

from glassrt.engine.errors import DatasetError, SlideError
from glassrt.engine.geometry.boxes import Size
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.resolution import PLAUSIBLE_MPP
from glassrt.training.datasets.aperio import Drawing, Region, read_drawing
from glassrt.training.datasets.drawings import SHOWN
from glassrt.training.datasets.labelled import LabelledSlide
from glassrt.training.datasets.outlines import OutlineTruth

GROUPS: dict[str, tuple[int, ...]] = {}
CLASSES = ("normal", "benign", "in situ", "invasive")  # by rising grade
SPLITS = {"train": (1, 2, 3, 4, 6, 7, 8, 9), "validation": (10,), "test": (5,)}
NEGATION = re.compile(rf"\b(non|not?|without)[\s-]*({'|'.join(CLASSES[1:])})")
PLACES = ("", "WSI", "ICIAR2018_BACH_Challenge/WSI")  # of the slides in the folder that --data names


def find_slides(folder: Path, split: str) -> list[LabelledSlide]:
    """The slides of a split, in the order of their numbers.

    `folder` holds the slides, or is the challenge's, or holds that. Raises DatasetError, and SlideError for a slide
    that cannot be read.
    """
    if split not in SPLITS:
        raise DatasetError(f"BACH has no split {split!r}; choose one of {', '.join(SPLITS)}")
    places = [folder / place for place in PLACES]
    found = next((place for place in places if any(is_slide(path) for path in place.glob("A*.svs"))), None)
    if found is None:
        raise DatasetError(f"{folder}: no A01.svs to A10.svs here; --data must name the folder of the BACH slides")
    paths = [found / f"A{number:02}.svs" for number in SPLITS[split]]
    for path in paths:
        if not path.is_file():
            raise DatasetError(f"{path} is missing: BACH's split {split} has it; unpack the set again")
    return [label_slide(path) for path in paths]


def is_slide(path: Path) -> bool:
    """Whether a file is named as a labelled slide is."""
    return re.fullmatch(r"A\d\d\.svs", path.name) is not None


def label_slide(path: Path) -> LabelledSlide:
    """A slide with the regions in the XML file beside it; what is cut out of those drawn before is normal."""
    annotations = path.with_suffix(".xml")
    drawing = read_drawing(annotations)
    classes = [0 if region.negative else classify(region, annotations) for region in drawing.regions]
    size, mpp = measure(path, annotations, drawing)
    return LabelledSlide(path.stem, path, OutlineTruth(size, [each.corners for each in drawing.regions], classes), mpp)


def classify(region: Region, annotations: Path) -> int:
    """The number in `CLASSES` of what a region is called, as in `Carcinoma in situ`.

    Raises DatasetError for a label that names no lesion, several classes, or what a region is not.
    """
    label = region.label.casefold()
    found = [number for number, name in enumerate(CLASSES) if name in label]
    if len(found) == 1 and found[0] > 0 and not NEGATION.search(label):
        return found[0]
    raise DatasetError(
        f"{annotations} calls {region.place} {region.label[:SHOWN]!r}: a label says {', '.join(CLASSES[1:-1])} "
        f"or {CLASSES[-1]}, one of them and nothing that it is not"
    )


def measure(path: Path, annotations: Path, drawing: Drawing) -> tuple[Size, float | None]:
    """Level-0 size of a slide, and what its annotations say of its resolution; None where its file says it."""
    try:
        with open_slide(path) as slide:
            return slide.levels[0].size, None
    except SlideError:
        low, high = PLAUSIBLE_MPP
        mpp = drawing.mpp if drawing.mpp is not None and low <= drawing.mpp <= high else None
        with open_slide(path, mpp or high) as slide:  # which raises again unless resolution was all that is missing
            size = slide.levels[0].size
    if mpp is None:
        raise DatasetError(f"{path} does not say its resolution, nor does MicronsPerPixel in {annotations}")
    return size, mpp
