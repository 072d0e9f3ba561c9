"""How well a network that learned on natural images knows them: whether a pre-training came to anything."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.training import metrics
from glassrt.training.datasets import voc
from glassrt.training.datasets.voc import VocImage


@torch.inference_mode()
def score_natural(
    network: nn.Module, images: Sequence[VocImage], progress: Callable[[int], None] = lambda done: None
) -> dict[str, float]:
    """In percent on whole images: `mIoU` over VOC's 21 classes of logits `[1, 21, h, w]`, or `mAP` over its 20 kinds
    of things of logits `[1, 20]`, NaN if the images show none. `progress` is told how many images are done.
    """
    network.eval()
    place = next(network.parameters()).device
    counts = np.zeros((len(voc.CLASSES), len(voc.CLASSES)), np.int64)
    said, shown = [], []
    for number, image in enumerate(images):
        pixels, mask = image.read()
        logits = network(torch.from_numpy(pixels).permute(2, 0, 1)[None].to(place).float())
        if logits.ndim == 4:
            counts += metrics.confusion(mask, name_pixels(logits, mask.shape), len(voc.CLASSES))
        else:
            said.append(logits[0].cpu().numpy())
            shown.append([(mask == thing).any() for thing in range(1, len(voc.CLASSES))])
        progress(number)
    if not said:
        return {"mIoU": 100 * metrics.mean_iou(counts)}
    logits, truth = np.array(said, np.float64), np.array(shown)
    each = [average_precision(logits[:, at], truth[:, at]) for at in range(truth.shape[1]) if truth[:, at].any()]
    return {"mAP": 100 * float(np.mean(each)) if each else float("nan")}


def name_pixels(logits: Tensor, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The likeliest class of every pixel of an image of that shape."""
    upsampled = F.interpolate(logits, size=shape, mode="bilinear", align_corners=False)
    return upsampled[0].argmax(0).byte().cpu().numpy()


def average_precision(scores: NDArray[np.float64], shown: NDArray[np.bool_]) -> float:
    """The mean, over the images that show a thing, of the share of those ranked as high or higher that show it too; NaN
    where none shows it.
    """
    above = scores[:, None] >= scores[shown][None]
    with np.errstate(invalid="ignore"):
        precision = (above & shown[:, None]).sum(0) / above.sum(0)
    return float(precision.mean()) if precision.size else float("nan")
