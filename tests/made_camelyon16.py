"""Slides in the published layout of CAMELYON16, small and made, so that nothing needs the real ones.

Tissue lies on glass; in it, slides named as malign are darker where an outline is drawn.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from made_tiffs import stained, write_pages
from numpy.typing import NDArray

SIZE = (640, 512)
MPP = 1.94  # so that a small slide has lesions of the size that counts
GLASS = 243
LEVELS = 3


class Drawn(NamedTuple):
    """An annotation as ASAP writes it."""

    corners: Sequence[tuple[Any, Any]]
    group: str = "Tumor"
    kind: str = "Polygon"
    name: str = "Annotation 0"

    def xml(self) -> str:
        places = "".join(f'<Coordinate Order="{n}" X="{x}" Y="{y}" />' for n, (x, y) in enumerate(self.corners))
        return (
            f'<Annotation Name="{self.name}" Type="{self.kind}" PartOfGroup="{self.group}" Color="#F4FA58">'
            f"<Coordinates>{places}</Coordinates></Annotation>"
        )


def rectangle(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


LESION = Drawn(rectangle(200.25, 160.25, 360.75, 300.75))
HOLE = Drawn(rectangle(240, 200, 280, 240), "Exclusion")
SPECK = Drawn(rectangle(460, 400, 466, 406), "_1", "Spline")


def annotations(drawn: Sequence[Drawn] = (LESION,)) -> str:
    """What ASAP writes around annotations."""
    groups = '<Group Name="Tumor" PartOfGroup="None" Color="#64FE2E"><Attributes /></Group>'
    return (
        f'<?xml version="1.0"?>\n<ASAP_Annotations><Annotations>{"".join(each.xml() for each in drawn)}</Annotations>'
        f"<AnnotationGroups>{groups}</AnnotationGroups></ASAP_Annotations>"
    )


def paint(seed: int, drawn: Sequence[Drawn]) -> NDArray[np.uint8]:
    """RGB of tissue on glass, with dark lesions."""
    pixels = np.full((SIZE[1], SIZE[0], 3), GLASS, np.uint8)
    tissue = stained(SIZE[0], SIZE[1], seed)
    pixels[60:-60, 60:-60] = tissue[60:-60, 60:-60]
    for each in drawn:
        dark = each.group in ("Tumor", "_0", "_1")
        cv2.fillPoly(pixels, [np.rint(each.corners).astype(np.int32)], (60, 20, 90) if dark else (220, 150, 200))
    return pixels


def write_slide(path: Path, pixels: NDArray[np.uint8]) -> Path:
    """A tiled pyramid as the challenge's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pages: list[tuple[NDArray[np.uint8], dict[str, Any]]] = []
    for level in range(LEVELS):
        per_cm = 1e4 / MPP / 2**level
        pages.append((pixels, {"resolution": (per_cm, per_cm), "subfiletype": int(level > 0)}))
        pixels = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA).astype(np.uint8)
    return write_pages(path, pages)


def make_training(folder: Path, benign: int = 2, malign: int = 2, drawn: Sequence[Drawn] = (LESION,)) -> Path:
    """Training slides with their outlines in a folder; returns `training`."""
    place = folder / "training"
    for number in range(1, benign + 1):
        write_slide(place / "normal" / f"normal_{number:03}.tif", paint(number, ()))
    (place / "lesion_annotations").mkdir(parents=True)
    for number in range(1, malign + 1):
        write_slide(place / "tumor" / f"tumor_{number:03}.tif", paint(100 + number, drawn))
        (place / "lesion_annotations" / f"tumor_{number:03}.xml").write_text(annotations(drawn))
    return place


def make_testing(folder: Path, labels: dict[int, str], drawn: Sequence[Drawn] = (LESION,)) -> Path:
    """Test slides of these numbers, `Normal` or `Tumor`, with their outlines in an archive; returns `testing`."""
    place = folder / "testing"
    place.mkdir(parents=True)
    with zipfile.ZipFile(place / "lesion_annotations.zip", "w") as archive:
        for number, label in labels.items():
            tumor = label == "Tumor"
            write_slide(place / "images" / f"test_{number:03}.tif", paint(number, drawn if tumor else ()))
            if tumor:
                archive.writestr(f"lesion_annotations/test_{number:03}.xml", annotations(drawn))
                archive.writestr(f"__MACOSX/lesion_annotations/test_{number:03}.xml", b"\0")
    rows = [
        f"test_{number:03},{label},{'IDC,Macro' if label == 'Tumor' else 'None,None'}"
        for number, label in labels.items()
    ]
    (place / "reference.csv").write_text("\n".join(rows) + "\n")
    return place
