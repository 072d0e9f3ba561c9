"""Class activation maps of whole images, and the pseudo-masks they become with the patch labels.

Source: OEEM, section 2.1, Eqs. 1 and 2, and the multi-scale test of section 2.3. The authors' code takes the argmax in
each patch and joins the results; here activations are averaged where windows overlap, before the one argmax.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from glassrt.engine.geometry.views import window_starts
from glassrt.training.networks.classifier import PatchClassifier

WINDOWS_AT_ONCE = {"cpu": 1, "cuda": 32}  # larger batches leave a CPU's caches and take three times as long


def activation_map(
    network: PatchClassifier, pixels: NDArray[np.uint8], zoom: float, scales: Sequence[float], side: int, stride: int
) -> NDArray[np.float32]:
    """Class activations `[C, H, W]` of an image: the mean over scales, mirror images and overlapping windows.

    Windows of `side` image pixels lie `stride` apart. Each is resized by `zoom`, the factor between an image and
    what the network was trained on, times the scale.
    """
    height, width = pixels.shape[:2]
    places = [(top, left) for top in window_starts(height, side, stride) for left in window_starts(width, side, stride)]
    total = np.zeros((len(network.classify.weight), height, width), np.float32)
    cover = np.zeros((height, width), np.float32)
    at_once = WINDOWS_AT_ONCE[network.classify.weight.device.type]
    for begin in range(0, len(places), at_once):
        some = places[begin : begin + at_once]
        windows = [pixels[top : top + side, left : left + side] for top, left in some]
        maps = window_activations(network, windows, zoom, scales)
        for (top, left), each in zip(some, maps, strict=True):
            place = np.s_[top : top + each.shape[1], left : left + each.shape[2]]
            total[:, *place] += each
            cover[place] += 1
    return total / cover


@torch.no_grad()
def window_activations(
    network: PatchClassifier, windows: list[NDArray[np.uint8]], zoom: float, scales: Sequence[float]
) -> NDArray[np.float32]:
    """Activations `[N, C, h, w]` of equally sized windows, at their own size."""
    height, width = windows[0].shape[:2]
    weight = network.classify.weight
    total = torch.zeros(len(windows), len(weight), height, width, device=weight.device)
    for scale in scales:
        size = max(32, round(width * zoom * scale)), max(32, round(height * zoom * scale))
        scaled = np.stack([cv2.resize(window, size) for window in windows])
        batch = torch.from_numpy(scaled).permute(0, 3, 1, 2).to(weight.device).float()
        for mirrored in (False, True):
            maps: Tensor = network.activations(batch.flip(3) if mirrored else batch)
            maps = maps.flip(3) if mirrored else maps
            total += F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)
    return (total / (2 * len(scales))).cpu().numpy()


def pseudo_mask(activations: NDArray[np.float32], absent: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """`[H, W]`: the class of largest activation among those that are not `absent` (`[C, H, W]`), Eq. 2."""
    mask: NDArray[np.uint8] = np.where(absent, -np.inf, activations).argmax(axis=0).astype(np.uint8)
    return mask
