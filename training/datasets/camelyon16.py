"""CAMELYON16, the grand challenge on metastases in lymph nodes: 270 slides to train on and 129 to test on.

Source: Ehteshami Bejnordi et al., JAMA 2017. Published layout: `training/normal/normal_001.tif`,
`training/tumor/tumor_001.tif`, `training/lesion_annotations.zip`, `testing/images/test_001.tif`,
`testing/lesion_annotations.zip` and `testing/reference.csv`; annotations may also be unpacked. A slide is malign that
holds a metastasis. The metastases of test_114 are not all outlined: it has its label and no truth, so that it counts
among slides and not among pixels and lesions, as the challenge's evaluation has it.
"""

import csv
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from glassrt.engine.errors import DatasetError, first_line
from glassrt.engine.slides.readers import open_slide
from glassrt.training.datasets.asap import Outline, parse_outlines, read_outlines
from glassrt.training.datasets.drawings import SHOWN, Ring, check_length
from glassrt.training.datasets.outlines import OutlineTruth
from glassrt.training.datasets.weak import CLASSES as CLASSES
from glassrt.training.datasets.weak import NoLesion, WeakSlide

SPLITS = ("train", "test")
PLACES = ("", "CAMELYON16", "camelyon16")  # of the set in the folder that --data names
LABELS = {"normal": False, "tumor": True}  # also the folders of training slides; whether they are malign
NOT_EXHAUSTIVE = "test_114"
LESION_GROUPS = ("Tumor", "_0", "_1")
CUT_OUT_GROUPS = ("_2", "Exclusion")

Annotations = Callable[[str], list[Outline]]  # the outlines on the slide of that name


def find_slides(folder: Path, split: str) -> list[WeakSlide]:
    """The slides of a split, normal ones first in `train`, in the order of their numbers.

    `folder` holds `training` and `testing`, or holds what does. Without annotations, no slide has a truth. Raises
    DatasetError, and SlideError for an outlined slide that cannot be read.
    """
    if split not in SPLITS:
        raise DatasetError(f"CAMELYON16 has no split {split!r}; choose one of {', '.join(SPLITS)}")
    part = "training" if split == "train" else "testing"
    place = next((folder / each / part for each in PLACES if (folder / each / part).is_dir()), None)
    if place is None:
        raise DatasetError(f"{folder}: no folder {part} here; --data must name the folder of CAMELYON16")
    labels = find_training(place) if split == "train" else find_testing(place)
    annotations = find_annotations(place)
    slides = []
    for path, malign in labels.items():
        truth: OutlineTruth | NoLesion | None = None
        if annotations is not None and path.stem != NOT_EXHAUSTIVE:
            truth = outline_lesions(path, annotations(path.stem)) if malign else NoLesion()
        slides.append(WeakSlide(path.stem, path, None, malign, truth))
    return slides


def find_training(place: Path) -> dict[Path, bool]:
    """Whether each training slide is malign, by its folder."""
    labels: dict[Path, bool] = {}
    for name, malign in LABELS.items():
        found = [path for path in (place / name).glob("*.tif") if re.fullmatch(rf"{name}_\d+", path.stem)]
        if not found:
            raise DatasetError(f"{place / name}: no {name}_001.tif or others here; unpack the set again")
        labels.update(dict.fromkeys(sorted(found, key=slide_number), malign))
    return labels


def find_testing(place: Path) -> dict[Path, bool]:
    """Whether each test slide is malign, by `reference.csv`; with or without a header, names with or without `.tif`."""
    table, labels = place / "reference.csv", dict[Path, bool]()
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = [[field.strip() for field in row] for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"{table} cannot be read as a table in UTF-8 ({first_line(error)}); unpack the set again"
        ) from error
    for number, row in enumerate(rows, start=1):
        name = row[0].removesuffix(".tif")
        if not re.fullmatch(r"test_\d+", name):
            if number == 1:
                continue
            raise DatasetError(f"{table}, row {number}: {name[:SHOWN]!r} is no test slide; unpack the set again")
        label = row[1] if len(row) > 1 else ""
        if label.casefold() not in LABELS:
            raise DatasetError(f"{table}, row {number}: {label[:SHOWN]!r} is neither Normal nor Tumor")
        path = place / "images" / f"{name}.tif"
        if path in labels:
            raise DatasetError(f"{table}, row {number}: {name} is listed twice; unpack the set again")
        if not path.is_file():
            raise DatasetError(f"{path} is missing: {table.name} lists it; unpack the set again")
        labels[path] = LABELS[label.casefold()]
    if not labels:
        raise DatasetError(f"{table} lists no slide; unpack the set again")
    return {path: labels[path] for path in sorted(labels, key=slide_number)}


def slide_number(path: Path) -> int:
    """The number of a slide in its file's name."""
    return int(path.stem.split("_")[1])


def find_annotations(place: Path) -> Annotations | None:
    """What reads the outlines of a split from its folder or archive `lesion_annotations`; None where there is none."""
    folder, archive = place / "lesion_annotations", place / "lesion_annotations.zip"
    if folder.is_dir():
        return lambda name: read_outlines(folder / f"{name}.xml")
    if archive.is_file():
        return lambda name: read_packed(archive, f"{name}.xml")
    return None


def read_packed(archive: Path, name: str) -> list[Outline]:
    """The outlines in a file of an archive, in whatever folder of it."""
    try:
        with zipfile.ZipFile(archive) as opened:
            names = [each for each in opened.infolist() if Path(each.filename).name == name]
            found = [each for each in names if not each.filename.startswith("__MACOSX/")]
            if len(found) != 1:
                raise DatasetError(f"{archive} holds {name} {len(found)} times, expected once; unpack the set again")
            check_length(found[0].file_size, f"{archive}: {name}")
            content = opened.read(found[0])
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        raise DatasetError(f"{archive}: {name} cannot be read ({first_line(error)}); fetch it again") from error
    return parse_outlines(content, f"{archive}: {name}")


def outline_lesions(path: Path, outlines: list[Outline]) -> OutlineTruth:
    """The truth of a slide with metastases; what is to be cut out is, whatever it was drawn before or after."""
    lesions: list[Ring] = []
    cut_out: list[Ring] = []
    for outline in outlines:
        if outline.group not in (*LESION_GROUPS, *CUT_OUT_GROUPS):
            raise DatasetError(
                f"{path.stem}.xml: {outline.name[:SHOWN]!r} is in the group {outline.group[:SHOWN]!r}, which "
                f"CAMELYON16 does not have ({', '.join((*LESION_GROUPS, *CUT_OUT_GROUPS))})"
            )
        (lesions if outline.group in LESION_GROUPS else cut_out).append(outline.corners)
    if not lesions:
        raise DatasetError(f"{path.stem}.xml outlines no metastasis, but {path.name} has one; unpack the set again")
    with open_slide(path) as slide:
        size = slide.levels[0].size
    return OutlineTruth(size, [*lesions, *cut_out], [1] * len(lesions) + [0] * len(cut_out))
