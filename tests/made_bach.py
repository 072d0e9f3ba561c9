"""Slides in the published layout of BACH, small and made, so that nothing needs the real ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from made_tiffs import APERIO, stained, write_pages
from numpy.typing import NDArray

SIZE = (300, 220)
BESIDE_CORNERS = ((-40.5, -30.25), (60.5, 20.25), (10.75, 90))


class Drawn(NamedTuple):
    """A region as ImageScope writes it: its `Text`, the `Value` of its attribute if it has one, its corners, its `Type`
    and whether it is cut out.
    """

    corners: Sequence[tuple[Any, Any]]
    value: str | None = "Benign"
    text: str = ""
    kind: str = "0"
    negative: str = "0"

    def xml(self) -> str:
        attribute = "" if self.value is None else f'<Attribute Name="Description" Id="0" Value="{self.value}"/>'
        vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in self.corners)
        return (
            f'<Region Id="1" Type="{self.kind}" Text="{self.text}" AreaMicrons="7.5" NegativeROA="{self.negative}">'
            f"<Attributes>{attribute}</Attributes><Vertices>{vertices}</Vertices></Region>"
        )


REGIONS = (
    Drawn(BESIDE_CORNERS),
    Drawn([(100, 40.5), (260.25, 50), (250, 200.75), (90, 180)], "Carcinoma in situ"),
    Drawn([(180, 90), (400, 100.5), (200, 300)], None, "Invasive carcinoma"),
)


def annotations(regions: str, mpp: str = 'MicronsPerPixel="0.467"') -> str:
    """What ImageScope writes around regions."""
    return (
        f'<Annotations {mpp}><Annotation Id="1" Name="" LineColor="255"><Attributes><Attribute Name="Description" '
        'Value="Layer 1"/></Attributes><Regions><RegionAttributeHeaders><AttributeHeader Name="Region"/>'
        f"</RegionAttributeHeaders>{regions}</Regions><Plots/></Annotation></Annotations>"
    )


def write_slide(path: Path, pixels: NDArray[np.uint8]) -> Path:
    """A slide of the scanner that the set was scanned with, which says 0.5 micrometres per pixel."""
    return write_pages(path, [(pixels, {"description": APERIO.format(pixels.shape[1], pixels.shape[0])})])


def make_set(folder: Path, numbers: Sequence[int] = (5,), regions: Sequence[Drawn] = REGIONS) -> Path:
    """The slides of these numbers with their regions; returns the folder they lie in."""
    slides = folder / "ICIAR2018_BACH_Challenge" / "WSI"
    slides.mkdir(parents=True)
    for number in numbers:
        write_slide(slides / f"A{number:02}.svs", stained(*SIZE, seed=number))
        (slides / f"A{number:02}.xml").write_text(annotations("".join(each.xml() for each in regions)))
    return slides
