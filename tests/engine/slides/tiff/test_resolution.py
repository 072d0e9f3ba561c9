"""What a TIFF file says of its resolution is believed where all of it agrees, in tiles as in strips."""

from pathlib import Path
from typing import Any

import pytest
import tifffile
from made_tiffs import stained

from glassrt.engine.errors import SlideError
from glassrt.engine.slides.readers import open_slide

LAYOUTS: dict[str, dict[str, Any]] = {"tiles": {"tile": (64, 64)}, "strips": {"rowsperstrip": 32}}
TAGS = {"resolutionunit": "CENTIMETER"}
PIXELS = stained(310, 200)


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> dict[str, Any]:
    """How the pixels lie in the file: OpenSlide opens tiles only."""
    return LAYOUTS[request.param]


def write_ome(path: Path, x: float, y: float, unit: str = "µm", **options: Any) -> Path:
    stated = {"axes": "YXS", "PhysicalSizeX": x, "PhysicalSizeY": y}
    stated |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(path, PIXELS, photometric="rgb", ome=True, metadata=stated, **options)
    return path


@pytest.mark.parametrize(
    ("side", "unit", "tags"),
    [
        (0.25, "µm", {}),
        (250, "nm", {}),
        (0.25, "µm", {"resolution": (40_000, 40_000), **TAGS}),
        (0.25, "µm", {"resolution": (40_400, 40_400), **TAGS}),  # rounded
        (0.25, "µm", {"resolution": (72, 72), "resolutionunit": "INCH"}),  # of a screen
    ],
)
def test_the_resolution_in_ome_xml_is_read(
    tmp_path: Path, layout: dict[str, Any], side: float, unit: str, tags: dict[str, Any]
) -> None:
    path = write_ome(tmp_path / "a.ome.tif", side, side, unit, **layout, **tags)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.25)
    with open_slide(path, 0.5) as slide:
        assert slide.mpp == 0.5


def test_pixels_that_are_not_square_by_ome_xml_are_refused(tmp_path: Path, layout: dict[str, Any]) -> None:
    path = write_ome(tmp_path / "a.ome.tif", 0.25, 0.5, **layout)
    with pytest.raises(SlideError, match=r"a\.ome\.tif: pixels are not square \(0.25 x 0.5 micrometres\)"):
        open_slide(path, 0.5)


def test_ome_xml_and_tags_that_differ_leave_the_resolution_to_the_user(tmp_path: Path, layout: dict[str, Any]) -> None:
    path = write_ome(tmp_path / "a.ome.tif", 0.25, 0.25, resolution=(20_000, 20_000), **TAGS, **layout)
    says = r"a\.ome\.tif: its OME-XML says 0.25 micrometres per pixel, its resolution tags say 0.5; pass .* --mpp"
    with pytest.raises(SlideError, match=says):
        open_slide(path)
    with open_slide(path, 0.5) as slide:
        assert slide.mpp == 0.5


@pytest.mark.parametrize("stated", [{"resolution": (20_000,) * 2, **TAGS}, {"resolution": (50_800,) * 2}])
def test_the_resolution_in_tags_is_read(tmp_path: Path, layout: dict[str, Any], stated: dict[str, Any]) -> None:
    options = {"resolutionunit": "INCH", **stated, **layout}
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="rgb", metadata=None, **options)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.mpp == pytest.approx(0.5)
