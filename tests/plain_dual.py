"""The multi-scale test of a dual-input bundle, stated plainly: whole images, loops, two sessions, one window a time."""

import math
from fractions import Fraction

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from plain_statement import Floats, resize, softmax, starts

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.slides.grid import GridReader

Image = NDArray[np.uint8]


class Networks:
    """Both networks of a bundle, through ONNX Runtime."""

    def __init__(self, bundle: Bundle) -> None:
        self.kind = bundle.manifest
        self.context, self.fine = (
            onnxruntime.InferenceSession(bundle.read_graph(role=role)) for role in ("context", "fine")
        )

    def __call__(self, fine: Image, context: Image, place: tuple[float, float]) -> NDArray[np.float32]:
        features = self.context.run(None, {"context": context[None]})
        given = {"fine": fine[None]}
        given |= {feature.name: values for feature, values in zip(self.kind.features, features, strict=True)}
        if self.kind.placed:
            given["place"] = np.array([place], np.float32)
        return np.asarray(self.fine.run(None, given)[0][0])


def segment_plainly(grid: GridReader, bundle: Bundle) -> Floats:
    """Probabilities `[C, H, W]` of a grid; both of its images are read as a whole."""
    kind, networks = bundle.manifest, Networks(bundle)
    coarse = grid.at(kind.context_factor)
    near, far = grid.read(0, 0, grid.width, grid.height), coarse.read(0, 0, coarse.width, coarse.height)
    views = []
    for scale in kind.scales:
        for flip in (False, True) if kind.flips else (False,):
            fine, context = (scale_image(image, scale)[:, :: -1 if flip else 1] for image in (near, far))
            logits = slide_both(fine, context, networks, flip)
            views.append(softmax(resize(resize(logits, 1, grid.height), 2, grid.width))[:, :, :: -1 if flip else 1])
    return np.mean(views, axis=0)


def scale_image(image: Image, scale: float) -> Image:
    height, width = (max(1, math.floor(scale * length + 0.5)) for length in image.shape[:2])
    return np.rint(resize(resize(image, 1, width), 0, height)).astype(np.uint8)


def slide_both(fine: Image, context: Image, networks: Networks, mirrored: bool) -> Floats:
    """Logits `[C, H, W]` of an image, averaged over the windows that cover each pixel."""
    kind = networks.kind
    window, stride = kind.window, kind.stride
    (height, width), (wide_height, wide_width) = fine.shape[:2], context.shape[:2]
    padded = reflect(fine, 0, window)
    surroundings = reflect(context, 2 * window, 4 * window)
    total: Floats = np.zeros((len(kind.classes), *padded.shape[:2]))
    count = np.zeros(padded.shape[:2])
    for y in starts(height, window, stride):
        for x in starts(width, window, stride):
            left = find_start(x, width, wide_width, kind, mirrored)
            top = find_start(y, height, wide_height, kind, False)
            at_y, at_x = top + 2 * window, left + 2 * window
            around = surroundings[at_y : at_y + window, at_x : at_x + window]
            place = (x * wide_width / width - left) / window, (y * wide_height / height - top) / window
            logits = networks(np.ascontiguousarray(padded[y : y + window, x : x + window]), around.copy(), place)
            total[:, y : y + window, x : x + window] += resize(resize(logits, 1, window), 2, window)
            count[y : y + window, x : x + window] += 1
    total /= np.maximum(count, 1)
    return total[:, :height, :width]


def reflect(image: Image, before: int, after: int) -> Image:
    return np.pad(image, ((before, after), (before, after), (0, 0)), mode="reflect")


def find_start(start: int, length: int, wide: int, kind: object, mirrored: bool) -> int:
    """Where along an axis the surroundings of the window at `start` begin, both in the image as it is shown.

    The lattice of shared ones begins at the left of the image as it is stored.
    """
    window, factor, anchor = kind.window, kind.context_factor, kind.context_anchor  # type: ignore[attr-defined]
    if anchor == "centre":
        begin, end = (length - start - window, length - start) if mirrored else (start, start + window)
        middle = Fraction(max(begin, 0) + min(end, length), 2) * wide / length
        stored = math.floor(middle - Fraction(window, 2) + Fraction(1, 2))
        return wide - window - stored if mirrored else stored
    if wide < window:
        return 0
    step = window - math.ceil(window / factor) - 1
    begin = max(length - start - window, 0) if mirrored else start
    tile = math.floor(Fraction(begin * wide, length) / step)
    stored = min(tile * step, wide - window)
    return wide - window - stored if mirrored else stored
