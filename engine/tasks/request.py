"""What a slide is scored with."""

import hashlib
import os
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.parts import RunPrecision, Strict
from glassrt.engine.results.origin import describe_origin
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.slide import Overview, Slide
from glassrt.engine.slides.tissue.annotations import ALL, AUTO
from glassrt.engine.slides.tissue.scope import Tissue


class Request(Strict, frozen=True, kw_only=True):
    """One slide and all that its figures depend on, but for the versions of software and the processor.

    `slide` and `bundle` are absolute paths, or the name of a slide in memory; `identity` is the bundle's sha256, `mpp`
    the slide's resolution, whoever says it, `map_mpp` the map's pixel size where it is not the default. `tissue` is a
    word, the absolute path of a mask, or the sha256 of one in memory; `overview` the sha256 of a picture that stands
    for the slide where tissue is looked for. Its values are plain, so it can be pickled and
    sent anywhere.
    """

    slide: str
    bundle: str
    identity: str
    runtime: str
    precision: RunPrecision
    scales: tuple[float, ...]
    flips: bool
    map_mpp: float | None
    mpp: float
    tissue: str
    overview: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def digest(self) -> str:
        """The sha256 of all but where the bundle lies, which its identity stands for."""
        return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(self, bundle=""))).hexdigest()


def make_request(
    slide: Slide,
    bundle: Bundle,
    backend: Backend,
    map_mpp: float | None,
    tissue: Tissue,
    overview: Overview | None = None,
) -> Request:
    """The request that a call amounts to."""
    return Request(
        slide=slide.name if slide.path is None else describe_origin(slide.path)["path"] or "",
        bundle=os.path.abspath(bundle.path),
        identity=bundle.sha256,
        runtime=backend.name,
        precision=backend.precision,
        scales=bundle.manifest.views[0],
        flips=bundle.manifest.views[1],
        map_mpp=map_mpp,
        mpp=slide.mpp,
        tissue=describe_tissue(tissue),
        overview=msgspec.UNSET if overview is None else digest_of(overview.pixels, str(overview.frame)),
    )


def describe_tissue(tissue: Tissue) -> str:
    """A choice of tissue in a word: `auto`, `all`, the absolute path of a mask, or the sha256 of one in memory."""
    if isinstance(tissue, np.ndarray):
        return digest_of(tissue)  # of any type: whether it is a mask is told later
    if isinstance(tissue, str) and tissue in (AUTO, ALL):
        return tissue
    return os.path.abspath(tissue)


def digest_of(array: NDArray[Any], more: str = "") -> str:
    """The sha256 of an array and what belongs to it."""
    content = hashlib.sha256(f"{array.dtype} {array.shape}{more}".encode())
    content.update(array.tobytes())
    return f"sha256:{content.hexdigest()}"
