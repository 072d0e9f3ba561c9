"""Masks of tissue that people or other programs made: images, and GeoJSON as QuPath writes it.

Both lie over what viewers show of the slide: the whole level 0, or the part from `origin` of `size` in its pixels.
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import msgspec
import numpy as np
import tifffile
from numpy.typing import NDArray

from glassrt.engine.errors import SlideError, UsageError
from glassrt.engine.origin import is_same_file
from glassrt.engine.slide import Size, Slide
from glassrt.engine.tissue import TISSUE_MPP, Mask

AUTO, ALL = WORDS = ("auto", "all")
PICTURES = (".png", ".tif", ".tiff")
OUTLINES = (".geojson", ".json")
MOST_PIXELS = 2**28  # of a mask image: a slide of 1 x 1 m at 60 micrometres
MOST_BYTES = 2**30  # of GeoJSON
MOST_COLOURS = 256  # of a mask image
LOOKED_AT = 2**18  # pixels of it whose colours are counted
DRAWN_PIXELS = 2**24  # of a mask drawn from outlines: finer than `TISSUE_MPP` on most slides
OUTSIDE = 1.0  # level-0 pixels that outlines may lie beyond the border
SHIFT = 4  # binary digits of a pixel's fraction in OpenCV's drawing
Ring = NDArray[np.float64]


def read_mask(path: Path, slide: Slide, origin: tuple[int, int] = (0, 0), size: Size | None = None) -> Mask:
    """A mask over the whole slide from a file. Raises SlideError for one that is malformed, empty or does not fit."""
    if slide.path is not None and is_same_file(str(path), slide.path):
        raise SlideError(f"{path}: is the slide itself; name a mask of its tissue")
    whole = slide.level_sizes[0]
    shown = size or whole
    suffix = path.suffix.lower()
    try:
        if suffix in PICTURES:
            mask = check_mask(read_picture(path), shown, str(path))
        elif suffix in OUTLINES:
            mask = draw(path, shown, slide.mpp)
        else:
            known = ", ".join((*PICTURES, *OUTLINES))
            raise SlideError(f"{path}: a mask of tissue ends in one of {known}")
    except OSError as error:
        raise SlideError(f"{path}: the mask cannot be read ({error.strerror or error})") from error
    return mask if shown == whole else place(mask, whole, origin, shown)


def check_tissue(tissue: str, slides: Sequence[Path]) -> None:
    """Raise UsageError, before any work, for one mask for many slides, or none at all."""
    path = Path(tissue)
    if tissue in WORDS or (tissue and path.is_dir()):
        return
    if not path.is_file():
        raise UsageError(
            f"--tissue {tissue or repr(tissue)}: not {' or '.join(WORDS)}, nor a mask or folder that exists"
        )
    if len(slides) > 1:
        raise UsageError(
            f"--tissue {tissue}: one mask fits one slide; name a folder of masks called like the slides for several"
        )


def choose_mask(tissue: str, slide: Path) -> str | Path:
    """The mask of one slide: in a folder the file of its name. Raises SlideError where there is none, or two."""
    folder = Path(tissue)
    if tissue in WORDS or not folder.is_dir():
        return tissue
    named = [folder / f"{slide.stem}{suffix}" for suffix in (*OUTLINES, *PICTURES)]
    found = [path for path in named if path.is_file()]
    if len(found) != 1:
        problem = (
            f"both {found[0].name} and {found[1].name}" if found else f"no mask called {slide.stem}.geojson or .png"
        )
        raise SlideError(f"{slide}: {folder} holds {problem}; give each slide one")
    return found[0]


def check_mask(mask: NDArray[Any], shown: Size, name: str) -> Mask:
    """A mask `[H, W]` as booleans, if it has the shape of what it lies over and marks something."""
    if mask.ndim != 2 or not mask.size or not (mask.dtype == np.bool_ or np.issubdtype(mask.dtype, np.integer)):
        raise SlideError(f"{name}: expected whole numbers [H, W], got {mask.dtype} {list(mask.shape)}")
    height, width = mask.shape
    expected = width * shown[1] / shown[0]
    if abs(height - expected) > max(1.0, 0.01 * expected) and abs(width - height * shown[0] / shown[1]) > 1:
        raise SlideError(
            f"{name}: {width} x {height} pixels have another shape than the slide's {shown[0]} x {shown[1]}: "
            "is it the mask of this slide?"
        )
    marked: Mask = mask != 0
    if not marked.any():
        raise SlideError(f"{name}: marks no tissue: every pixel is 0")
    return marked


def place(mask: Mask, whole: Size, origin: tuple[int, int], shown: Size) -> Mask:
    """A mask over a part of the slide as one over all of it."""
    across, down = mask.shape[1] / shown[0], mask.shape[0] / shown[1]
    left, top = round(origin[0] * across), round(origin[1] * down)
    height, width = max(top + 1, round(whole[1] * down)), max(left + 1, round(whole[0] * across))
    placed = np.zeros((height, width), np.bool_)
    part = mask[: height - top, : width - left]
    placed[top : top + part.shape[0], left : left + part.shape[1]] = part
    return placed


def read_picture(path: Path) -> NDArray[Any]:
    """Whole numbers `[H, W]` of a PNG or TIFF, not 0 where any colour is; transparent pixels are 0."""
    try:
        if path.suffix.lower() == ".png":
            content = path.read_bytes()
            check_length(path, *struct.unpack(">II", content[16:24]))
            pixels = imagecodecs.png_decode(content)
        else:
            with tifffile.TiffFile(path) as file:
                page = file.pages[0]
                check_length(path, page.imagewidth, page.imagelength)  # type: ignore[union-attr]
                pixels = page.asarray()
    except (imagecodecs.PngError, tifffile.TiffFileError, struct.error, ValueError, IndexError, KeyError) as error:
        raise SlideError(f"{path}: not a readable mask image ({str(error).splitlines()[0]})") from error
    pixels = np.asarray(pixels)
    refuse_photograph(path, pixels)
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        return np.asarray(pixels[..., :-1].any(-1) & (pixels[..., -1] > 0), np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] in (1, 3):
        return np.asarray(pixels.any(-1), np.uint8)
    return pixels


def refuse_photograph(path: Path, pixels: NDArray[Any]) -> None:
    """Raise SlideError for more colours than masks are painted in: next to no pixel of a photograph is 0."""
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        some = pixels.reshape(-1, pixels.shape[2])[:: max(1, pixels[..., 0].size // LOOKED_AT), :3]
        if len(np.unique(some, axis=0)) > MOST_COLOURS:
            raise SlideError(
                f"{path}: a picture of more than {MOST_COLOURS} colours, not a mask, whose other pixels are 0"
            )


def check_length(path: Path, width: int, height: int) -> None:
    """Raise SlideError for more pixels than a mask may have."""
    if width * height > MOST_PIXELS:
        raise SlideError(f"{path}: {width} x {height} pixels are too many for a mask; 8 micrometres a pixel are enough")


def draw(path: Path, shown: Size, mpp: float) -> Mask:
    """A mask from the polygons of a GeoJSON file."""
    ratio = max(1.0, min(TISSUE_MPP / mpp, (shown[0] * shown[1] / DRAWN_PIXELS) ** 0.5))
    size = (max(1, round(shown[0] / ratio)), max(1, round(shown[1] / ratio)))
    mask = np.zeros((size[1], size[0]), np.uint8)
    scale = np.array([size[0] / shown[0], size[1] / shown[1]])
    for rings in read_polygons(path):
        corners = np.concatenate(rings)
        if (corners < -OUTSIDE).any() or (corners > np.add(shown, OUTSIDE)).any():
            x, y = corners[((corners < -OUTSIDE) | (corners > np.add(shown, OUTSIDE))).any(1)][0].tolist()
            raise SlideError(
                f"{path}: x {x:g}, y {y:g} lies outside the slide's {shown[0]} x {shown[1]} pixels: "
                "is it the mask of this slide, in pixels of its full resolution?"
            )
        draw_polygon(mask, [ring * scale for ring in rings])
    if not mask.any():
        raise SlideError(f"{path}: marks no tissue: it holds no polygon")
    return mask.view(np.bool_)


def draw_polygon(mask: NDArray[np.uint8], rings: list[Ring]) -> None:
    """Set the pixels that a polygon without its holes touches."""
    height, width = mask.shape
    corners = np.concatenate(rings)
    left, top = np.clip(np.floor(corners.min(0)).astype(int), 0, (width - 1, height - 1)).tolist()
    right, bottom = np.clip(np.ceil(corners.max(0)).astype(int) + 1, (left + 1, top + 1), (width, height)).tolist()
    part = np.zeros((bottom - top, right - left), np.uint8)
    # OpenCV counts from pixels' centres.
    places = [np.rint((ring - (left + 0.5, top + 0.5)) * 2**SHIFT).astype(np.int32) for ring in rings]
    cv2.fillPoly(part, places, 1, shift=SHIFT)
    mask[top:bottom, left:right] |= part


def read_polygons(path: Path) -> Iterator[list[Ring]]:
    """The rings of each polygon: its outline, then its holes."""
    if path.stat().st_size > MOST_BYTES:
        raise SlideError(f"{path}: too large for outlines of tissue; simplify them or save a mask image")
    try:
        content = msgspec.json.decode(path.read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SlideError(f"{path}: not GeoJSON ({error})") from error
    for geometry in find_geometries(content, path):
        polygons = geometry.get("coordinates")
        if geometry["type"] == "Polygon":
            polygons = [polygons]
        if not isinstance(polygons, list):
            raise SlideError(f"{path}: a {geometry['type']} without coordinates")
        for polygon in polygons:
            if not isinstance(polygon, list) or not polygon:
                raise SlideError(f"{path}: a polygon without rings")
            yield [read_ring(ring, path) for ring in polygon]


def find_geometries(content: Any, path: Path) -> Iterator[dict[str, Any]]:
    """The areas of a FeatureCollection, a list of features, a feature or a geometry."""
    if isinstance(content, list):
        for each in content:
            yield from find_geometries(each, path)
        return
    kind = content.get("type") if isinstance(content, dict) else None
    if kind == "FeatureCollection" and isinstance(content.get("features"), list):
        yield from find_geometries(content["features"], path)
    elif kind == "GeometryCollection" and isinstance(content.get("geometries"), list):
        yield from find_geometries(content["geometries"], path)
    elif kind == "Feature":
        yield from find_geometries(content.get("geometry"), path)
    elif kind in ("Polygon", "MultiPolygon"):
        yield content
    else:
        what = kind if isinstance(kind, str) else "something without a type"
        raise SlideError(f"{path}: holds {what}; areas of tissue are Polygon or MultiPolygon, as QuPath exports them")


def read_ring(ring: Any, path: Path) -> Ring:
    """`[n, 2]` corners of a ring."""
    try:
        corners = np.array(ring, np.float64)
    except (TypeError, ValueError):
        corners = np.zeros(0)
    if corners.ndim != 2 or len(corners) < 3 or corners.shape[1] not in (2, 3) or not np.isfinite(corners).all():
        raise SlideError(f"{path}: a ring of a polygon is no list of at least three points [x, y]")
    return corners[:, :2]
