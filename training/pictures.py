"""Pictures of a training run, RGB `[H, W, 3]`."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.engine.files import replace_file
from glassrt.training.metrics import IGNORE

Picture = NDArray[np.uint8]
OUTLINE = (30, 120, 220)
UNKNOWN = (128, 128, 128)
MOST_SHOWN = 8


def outline(pixels: Picture, mask: NDArray[np.uint8]) -> Picture:
    """The image with the borders of class 1 drawn and unknown pixels grey."""
    shown: Picture = np.where((mask == IGNORE)[..., None], np.array(UNKNOWN, np.uint8), pixels)
    contours, _ = cv2.findContours((mask == 1).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(shown, contours, -1, OUTLINE, max(1, round(max(mask.shape) / 250)))
    return shown


def show_segmentation(network: nn.Module, pixels: Tensor, labels: Tensor) -> Picture:
    """One row an image: as it went in, with its label, with the prediction."""
    pixels, labels = pixels[:MOST_SHOWN], labels[:MOST_SHOWN]
    with torch.no_grad():
        logits = network.eval()(pixels)
    height, width = labels.shape[1:]
    rows = []
    for image, label, each in zip(as_images(pixels), labels.cpu().numpy(), logits.float().cpu().numpy(), strict=True):
        predicted = np.stack([cv2.resize(plane, (width, height)) for plane in each]).argmax(0)
        masks = (np.zeros_like(label), label, predicted)
        rows.append(np.hstack([outline(image, mask.astype(np.uint8)) for mask in masks]))
    return np.vstack(rows)


def show_patches(network: nn.Module, pixels: Tensor, labels: Tensor) -> Picture:
    """One column a patch, its label and the predicted probabilities written on it."""
    pixels, labels = pixels[:MOST_SHOWN], labels[:MOST_SHOWN]
    with torch.no_grad():
        probabilities = network.eval()(pixels).float().sigmoid().cpu().numpy()
    columns = []
    for image, label, probability in zip(as_images(pixels), labels.cpu().numpy(), probabilities, strict=True):
        shown = np.ascontiguousarray(image)
        for line, (present, share) in enumerate(zip(label, probability, strict=True), start=1):
            cv2.putText(shown, f"{present:.0f} {share:.2f}", (3, 14 * line), cv2.FONT_HERSHEY_PLAIN, 0.9, OUTLINE)
        columns.append(shown)
    return np.hstack(columns)


def as_images(pixels: Tensor) -> list[Picture]:
    """RGB `[N, 3, H, W]` in 0..255 as N pictures."""
    return list(pixels.permute(0, 2, 3, 1).byte().cpu().numpy())


def contact_sheet(pictures: list[Picture], columns: int, width: int = 320) -> Picture:
    """The pictures in rows, each shrunk into a cell of `width` pixels and three quarters of it."""
    height = width * 3 // 4
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        scale = min(width / picture.shape[1], height / picture.shape[0])
        size = max(1, int(picture.shape[1] * scale)), max(1, int(picture.shape[0] * scale))
        top, left = number // columns * height, number % columns * width
        sheet[top : top + size[1], left : left + size[0]] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return sheet


def write(picture: Picture, path: Path) -> None:
    """A picture (RGB `[H, W, 3]` or `[H, W]`) as the file format that the name says, whole or not at all."""
    colours = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    encoded = cv2.imencode(path.suffix, colours)[1].tobytes()
    with replace_file(path) as beside:
        beside.write_bytes(encoded)


def show_dual(network: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor) -> Picture:
    """One row a window: its context, where it has one, the window, its classes and those predicted, in grey levels."""
    height, width = labels.shape[1:]
    with torch.no_grad():
        logits = F.interpolate(network.eval()(**inputs).float(), size=(height, width), mode="bilinear")
    shade = 255 // max(1, logits.shape[1] - 1)
    masks = [each.cpu().numpy().astype(np.uint8).clip(0, logits.shape[1] - 1) for each in (labels, logits.argmax(1))]
    shown = [as_images(inputs[name]) for name in ("context", "fine") if name in inputs]
    rows = []
    for number in range(min(len(labels), MOST_SHOWN)):
        images = [each[number * len(each) // len(labels)] for each in shown]  # several windows may share a context
        pictures = [cv2.resize(each, (width, height)).astype(np.uint8, copy=False) for each in images]
        pictures += [np.repeat(mask[number][..., None] * np.uint8(shade), 3, axis=2) for mask in masks]
        rows.append(np.hstack(pictures))
    return np.vstack(rows)
