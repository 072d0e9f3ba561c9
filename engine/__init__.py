"""Runs bundles on slides: read, cut, infer, stitch, write.

    from glassrt.engine import open_bundle, open_slide, score

    bundle = open_bundle()
    with open_slide("slide.svs") as slide:
        result = score(slide, bundle, "results/slide")
    print(result.classes["gland"].area_mm2)

Importing this loads no runtime; `score` and `open_backend` load the one that they use.
"""

from glassrt.engine.bundles.bundle import open_bundle
from glassrt.engine.errors import GlassError
from glassrt.engine.results.figures import Result
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.push import PushSlide
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.tasks.scan import ScanSession
from glassrt.engine.tasks.scoring import score
from glassrt.engine.tasks.segment import segment_image

__all__ = [
    "ArraySlide",
    "GlassError",
    "PushSlide",
    "Result",
    "ScanSession",
    "open_backend",
    "open_bundle",
    "open_slide",
    "score",
    "segment_image",
]
