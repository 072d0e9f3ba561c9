"""Segmentation: a network on pixel masks. Full masks give the upper row of every weakly supervised table; pseudo-masks
are what the weakly supervised methods train it on. With contours it tells glands apart where they touch, as in Chen et
al., "DCAN" (CVPR 2016), but in one softmax: what of a gland lies near its edge is a class of its own.

Data, network, loss, loop: in that order. The served weights are the running average of the trained ones (Polyak
averaging), which on a small set is worth more than choosing a step by test score.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import cv2
import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.engine.errors import DatasetError
from glassrt.engine.geometry.views import window_starts
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.grid import GridReader
from glassrt.training import augment, losses, pictures
from glassrt.training.config import Number, Schedule, Share, Weight, check_lattice
from glassrt.training.contours import mark_contours
from glassrt.training.datasets import glas
from glassrt.training.fused import require_kernels
from glassrt.training.loop import Example, Progress, Random, Task, fit, shuffled
from glassrt.training.metrics import IGNORE
from glassrt.training.networks.segmenter import Design, Segmenter
from glassrt.training.run import Run
from glassrt.training.world import World

METHOD = "segment"
Side = Annotated[int, Meta(ge=32, multiple_of=32)]
Loss = Literal["cross_entropy", "cross_entropy+dice", "ohem", "c_max", "c_diff", "l_norm", "lc_mix"]


class SegmentConfig(Schedule, frozen=True, kw_only=True):
    """What one segmentation network learns from."""

    dataset: Literal["glas"]
    split: str
    encoder: str
    weights: str = "imagenet"  # or "random", or a file
    output_stride: Literal[4, 8, 16, 32]
    crop: Side
    window: Side  # of the exported network
    tile: Number = 0  # images are cut into tiles of this side first; 0: whole images
    tile_stride: Number = 0
    resize: tuple[Annotated[float, Meta(gt=0)], Annotated[float, Meta(gt=0)]]
    rotate: bool
    colour: augment.Colour
    loss: Loss
    beta: Share = 1.0  # tempers l_norm and lc_mix: 0 is plain cross-entropy, 1 the paper's weight
    beta_rise_steps: Number = 0  # beta rises from 0 over this many steps
    ignored_as_easy: bool = False
    auxiliary_weight: Weight
    network: Literal["pspnet", "fpn"] | UnsetType = UNSET  # unset: pspnet
    width: Annotated[int, Meta(ge=8, le=1024, multiple_of=8)] | UnsetType = UNSET  # channels of an fpn's maps
    mpp: Annotated[float, Meta(ge=glas.MPP, le=8 * glas.MPP)] | UnsetType = UNSET  # unset: the images' own
    contour_um: Annotated[float, Meta(gt=0)] | UnsetType = UNSET  # how much of a gland's edge is its contour
    smallest_um2: Annotated[float, Meta(gt=0)] | UnsetType = UNSET  # what the bundle tells no smaller glands than

    def __post_init__(self) -> None:
        if self.resize[0] > self.resize[1]:
            raise ValueError(f"resize {list(self.resize)} must rise")
        if self.tile:
            check_lattice(self.tile, self.tile_stride)

    @property
    def design(self) -> Design:
        """The network, but for its classes."""
        return Design(
            network=self.network,
            encoder=self.encoder,
            weights=self.weights,
            output_stride=self.output_stride,
            width=self.width,
        )

    @property
    def planes(self) -> int:
        """Planes of logits: one a class, and one for contours."""
        return len(glas.CLASSES) + bool(self.contour_um)


class Sample(NamedTuple):
    """An image or tile `[H, W, 3]`, its class mask `[H, W]` (`IGNORE` where unknown; a contour's number is that after
    the last class's), and the image's file.
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    source: str


def load_samples(
    data: Path,
    split: str,
    masks: Path | None = None,
    mpp: float | UnsetType = UNSET,
    contour_um: float | UnsetType = UNSET,
) -> list[Sample]:
    """Every image of the split with its class mask, in memory: GlaS takes about 100 MB at its own resolution.

    Masks are the published ones, or the PNG files `<image>.png` in the folder `masks`, which hold no contours. Raises
    DatasetError.
    """
    if masks is not None and contour_um:
        raise DatasetError(f"{masks}: masks that were given do not tell glands apart: leave contour_um out")
    samples = []
    for image in glas.find_images(data, split):
        pixels = image.pixels()
        if contour_um:
            mask = mark_contours(image.instances(), contour_um / glas.MPP)
        else:
            mask = image.classes() if masks is None else read_mask(masks / f"{image.name}.png")
        if pixels.shape[:2] != mask.shape:
            size, other = (f"{shape[1]} x {shape[0]}" for shape in (pixels.shape, mask.shape))
            raise DatasetError(f"{image.image_path} has {size} pixels but its mask {other}; they must be equal")
        if mpp:
            pixels, mask = resample(pixels, mask, mpp)
        samples.append(Sample(pixels, mask, image.image_path.name))
    return samples


def resample(
    pixels: NDArray[np.uint8], mask: NDArray[np.uint8], mpp: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image of GlaS as the engine sees it at another resolution, and what most of each pixel there is."""
    grid = GridReader(ArraySlide(pixels, glas.MPP), mpp)
    size = (grid.width, grid.height)
    held = np.unique(mask)
    shares = [cv2.resize((mask == each).astype(np.float32), size, interpolation=cv2.INTER_AREA) for each in held]
    return grid.read(0, 0, *size), held[np.argmax(shares, axis=0)]


def read_mask(path: Path) -> NDArray[np.uint8]:
    """A class mask: one channel, 0 and 1, or `IGNORE`."""
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if mask is None or mask.ndim != 2:
        raise DatasetError(f"{path} is missing or no single-channel image: --masks needs one PNG for each image")
    unknown = np.setdiff1d(mask, [*range(len(glas.CLASSES)), IGNORE])
    if unknown.size:
        raise DatasetError(f"{path} holds the value {unknown[0]}: masks have 0 (other), 1 (gland), {IGNORE} (unknown)")
    return mask.astype(np.uint8, copy=False)


def cut_tiles(samples: list[Sample], side: int, stride: int) -> list[Sample]:
    """The samples as squares of `side` pixels, the last of a row ending at the border."""
    tiles = []
    for pixels, mask, source in samples:
        for top in window_starts(mask.shape[0], side, stride):
            for left in window_starts(mask.shape[1], side, stride):
                place = np.s_[top : top + side, left : left + side]
                tiles.append(Sample(pixels[place], mask[place], source))
    return tiles


def digest(samples: list[Sample]) -> str:
    """The sha256 of all masks: a run belongs to the masks that it began with."""
    content = hashlib.sha256()
    for sample in samples:
        content.update(sample.mask.tobytes())
    return content.hexdigest()


def check(config: SegmentConfig, world: World) -> None:
    """Raise TrainingError if training with these settings cannot begin."""
    config.design.check()
    world.part(config.batch)
    if config.loss in losses.WEIGHTS:
        require_kernels(world.device)


def build_network(config: SegmentConfig) -> Segmenter:
    """The network, with random weights."""
    return config.design.build(config.planes)


def segmentation_loss(logits: Tensor, labels: Tensor, config: SegmentConfig, step: int) -> Tensor:
    """The configured loss of logits `[N, C, h, w]` upsampled to the labels `[N, H, W]`."""
    logits = F.interpolate(losses.full_precision(logits), size=labels.shape[1:], mode="bilinear", align_corners=False)
    if config.loss == "cross_entropy":
        return losses.cross_entropy(logits, labels)
    if config.loss == "cross_entropy+dice":
        return losses.cross_entropy(logits, labels) + losses.dice(logits, labels)
    if config.loss == "ohem":
        return losses.ohem(logits, labels)
    beta = config.beta * min(1.0, step / config.beta_rise_steps) if config.beta_rise_steps else config.beta
    return losses.oeem(logits, labels, config.loss, beta, config.ignored_as_easy)


def train(
    config: SegmentConfig,
    samples: list[Sample],
    folder: Path,
    world: World,
    progress: Progress = lambda step, loss: None,
    method: str = METHOD,
    labels: str = "masks",
) -> None:
    """Train on `samples` to the end, resuming in `folder`; leaves `folder/model.safetensors`. Raises TrainingError.

    `labels` says in a few words where the masks came from.
    """
    check(config, world)
    settings = {"config": msgspec.json.encode(config).decode(), "masks": digest(samples)}
    run = Run(folder, {"method": method, "labels": labels, **settings})
    if run.is_finished():
        return
    if config.tile:
        samples = cut_tiles(samples, config.tile, config.tile_stride)
    colour = augment.COLOURS[config.colour]

    def draw(number: int, random: Random) -> Example:
        pixels, mask, source = samples[shuffled(number, len(samples), config.seed)]
        pixels, mask = augment.crop_at_random(pixels, mask, config.crop, config.resize, config.rotate, random)
        return Example(colour(pixels, random), mask.astype(np.int64), source)

    def loss(network: nn.Module, pixels: Tensor, labels: Tensor, step: int) -> Tensor:
        logits, auxiliary = network(pixels)
        main = segmentation_loss(logits, labels, config, step)
        return main + config.auxiliary_weight * segmentation_loss(auxiliary, labels, config, step)

    def start() -> nn.Module:
        return config.design.start(config.planes)

    fit(Task(start, draw, loss, pictures.show_segmentation), config, run, world, progress)
