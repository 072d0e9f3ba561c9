"""The figures of a scored slide."""

import contextlib
import importlib.metadata
import math
import platform
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.parts import SlideScoring
from glassrt.engine.geometry.plan import Plan
from glassrt.engine.maps.evidence import SlideScores
from glassrt.engine.maps.mapfile import Written
from glassrt.engine.results.bag import BagResult
from glassrt.engine.results.origin import describe_origin
from glassrt.engine.results.tiles import TileClass
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.frames import Frame, result_frames
from glassrt.engine.slides.slide import Slide
from glassrt.engine.slides.tissue.scope import Scope
from glassrt.engine.watch import Clock


class ClassResult(msgspec.Struct, frozen=True):
    """What was found of one class in the analysed part of a slide.

    `area_mm2` of the pixels where it is the likeliest, `mean_probability` over all analysed pixels; for every
    class but the background also `tissue_fraction`, the share of the tissue that it takes (only what lies on tissue
    counts, so those of all classes with the background's add to 1), and the number of its regions, which leaves out
    what is smaller than the map's `smallest_region_um2`.
    """

    area_mm2: float
    mean_probability: float
    tissue_fraction: float | None
    regions: int | None


class SlideScoresResult(msgspec.Struct, frozen=True):
    """How strongly a slide's tissue speaks for the class `of`, in log-odds (see `Evidence`): its pixel with the most,
    the 99th percentile, and the mean of those `eta` percent with the most.
    """

    of: str
    eta: float
    maximum_log_odds: float
    percentile_99_log_odds: float
    top_log_odds: float


class TissueResult(msgspec.Struct, frozen=True):
    """Where tissue was taken from: `auto`, `all`, `mask`, or the path of a mask; and the mask's (width, height)."""

    source: str
    size: tuple[int, int]


class Result(msgspec.Struct, frozen=True):
    """The figures of one scored slide, as `result.json` holds them.

    `warnings` say in a line each what makes them doubtful; `note` is empty unless nothing was analysed. `request` is
    the digest of all that was asked for, `bundle["sha256"]` the bundle's identity; older results have no digest.
    `slide_scores` are there where the bundle asks for them and tissue was analysed, `bag` where it is for bags of tiles
    and there were any, `tiles` by class where it tells each of them apart.
    """

    slide: dict[str, Any]
    bundle: dict[str, Any]
    backend: dict[str, Any]
    tissue: TissueResult
    tissue_mm2: float
    analysed_mm2: float
    classes: dict[str, ClassResult]
    map: dict[str, Any]
    frame: dict[str, Frame]
    windows: dict[str, int]
    seconds: dict[str, float]
    versions: dict[str, str]
    warnings: tuple[str, ...]
    note: str
    request: str = ""
    slide_scores: SlideScoresResult | None = None
    bag: BagResult | None = None
    tiles: dict[str, TileClass] | None = None


def summarise(
    slide: Slide,
    bundle: Bundle,
    backend: Backend,
    scope: Scope,
    windows: Plan,
    written: Written,
    regions: Sequence[int],
    clock: Clock,
    request: str,
    scores: SlideScores | None = None,
) -> Result:
    """The figures of a finished slide; `regions` counts them for each class, `request` is the request's digest,
    `scores` what was pooled over the slide if its bundle asks for it.
    """
    manifest, (width, height), measured = bundle.segmentation, written.size, written.measured
    map_mpp = physical_mpp(slide, width, height)
    base_width, base_height = slide.levels[0].size
    tissue_mm2 = base_width * base_height * slide.mpp**2 / 1e6 * float(scope.tissue.mean())
    analysed = max(1, int(measured.pixels.sum()))
    in_tissue = float(measured.tissue_pixels.sum())
    classes = {}
    for index, info in enumerate(manifest.classes):
        area = float(measured.pixels[index]) * map_mpp**2 / 1e6
        probability = float(measured.probability[index]) / analysed
        if index:
            fraction = float(measured.tissue_pixels[index]) / in_tissue if in_tissue else 0.0
            classes[info.name] = ClassResult(area, probability, fraction, regions[index])
        else:
            classes[info.name] = ClassResult(area, probability, None, None)
    return Result(
        slide={
            "name": slide.name,
            **describe_origin(slide.path),
            "source": slide.source,
            "size": slide.levels[0].size,
            "mpp": slide.mpp,
        },
        bundle={
            "name": manifest.name,
            "sha256": bundle.sha256,
            "precision": backend.precision,
            "scales": manifest.scales,
            "flips": manifest.flips,
        },
        backend={
            "name": backend.name,
            "device": backend.device,
            "isa": backend.isa,
            "version": backend.version,
            "batch": backend.batch,
            "streams": backend.streams,
        },
        tissue=TissueResult(scope.source, (scope.tissue.shape[1], scope.tissue.shape[0])),
        tissue_mm2=tissue_mm2,
        analysed_mm2=sum(found.area_mm2 for found in classes.values()),
        classes=classes,
        map={"mpp": map_mpp, "size": (width, height), "smallest_region_um2": manifest.smallest_region_um2},
        frame=result_frames(slide),
        windows={"run": len(windows.windows), "skipped": windows.skipped},
        seconds=dict(clock.seconds),
        versions=dict(package_versions()),
        warnings=scope.warnings,
        note="" if scope.tissue.any() else "no tissue found: nothing was analysed",
        request=request,
        slide_scores=describe_scores(manifest.slide_scores, scores),
    )


def describe_scores(asked: SlideScoring | msgspec.UnsetType, scores: SlideScores | None) -> SlideScoresResult | None:
    """A slide's scores and what they are of; None where none were asked for or nothing was analysed."""
    return SlideScoresResult(asked.of, asked.eta, *scores) if asked and scores is not None else None


def physical_mpp(slide: Slide, width: int, height: int) -> float:
    """Micrometres per pixel of a picture of the whole slide, `width` x `height`."""
    base_width, base_height = slide.levels[0].size
    return slide.mpp * math.sqrt(base_width * base_height / (width * height))


@lru_cache(maxsize=1)
def package_versions() -> Sequence[tuple[str, str]]:
    """Names and versions of what the result depends on, which are read once."""
    found = [("python", platform.python_version())]
    for name in ("glassrt", "numpy", "openslide-python", "openslide-bin", "opencv-python-headless"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append((name, importlib.metadata.version(name)))
    return tuple(found)
