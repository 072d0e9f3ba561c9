"""Fully supervised segmentation: PSPNet on pixel masks, the upper row of every weakly supervised table.

Data, augmentation, network, loss, loop: in that order. The served weights are the running average of the
trained ones (Polyak averaging), which on a small set is worth more than choosing a step by test score.
"""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import cv2
import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from glassrt.engine.errors import TrainingError
from glassrt.training import checkpoint
from glassrt.training.datasets import glas
from glassrt.training.networks.efficientnet_lite import imagenet_weights
from glassrt.training.networks.pspnet import PSPNet

IGNORE = 255


class SegmentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one run trains; read from TOML, unknown keys are errors."""

    dataset: str
    split: str
    encoder: str
    output_stride: int
    crop: int
    batch: int
    steps: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    auxiliary_weight: float
    average_decay: float
    seed: int
    save_every: int = 100


def load_config(path: Path) -> SegmentConfig:
    """The configuration in a TOML file."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=SegmentConfig)
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read ({error.strerror})") from error
    except msgspec.DecodeError as error:
        raise TrainingError(f"{path}: {error}") from error


def as_toml(config: SegmentConfig) -> str:
    """The configuration as TOML; its values are scalars, which JSON writes the same way."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in msgspec.structs.asdict(config).items())


Sample = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def load_samples(data: Path, split: str) -> list[Sample]:
    """Every image of the split with its class mask (1 in glands), in memory: GlaS takes about 100 MB."""
    samples = []
    for image in glas.find_images(data, split):
        pixels, instances = image.pixels(), image.instances()
        if pixels.shape[:2] != instances.shape:
            raise TrainingError(f"{image.image_path} and its mask differ in size")
        samples.append((pixels, (instances > 0).astype(np.uint8)))
    return samples


def augment(sample: Sample, crop: int, random: np.random.Generator) -> Sample:
    """A random crop: rotated by any angle, mirrored, scaled by 0.7-1.4, its stain and light varied.

    The image is reflected beyond its border; its mask is `IGNORE` there.
    """
    pixels, mask = sample
    height, width = mask.shape
    angle, scale = random.uniform(0, 2 * math.pi), math.exp(random.uniform(math.log(0.7), math.log(1.4)))
    mirror = random.choice((-1.0, 1.0))
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    turn = np.array([[cosine * mirror, -sine], [sine * mirror, cosine]])
    centre = np.array([margin_uniform(random, width, crop / 2), margin_uniform(random, height, crop / 2)])
    matrix = np.column_stack([turn, centre - turn @ np.full(2, (crop - 1) / 2)])
    inverse = cv2.WARP_INVERSE_MAP
    image = cv2.warpAffine(
        pixels, matrix, (crop, crop), flags=cv2.INTER_LINEAR | inverse, borderMode=cv2.BORDER_REFLECT_101
    )
    labels = cv2.warpAffine(mask, matrix, (crop, crop), flags=cv2.INTER_NEAREST | inverse, borderValue=IGNORE)
    return vary_stain(image.astype(np.uint8, copy=False), random), labels.astype(np.uint8, copy=False)


def margin_uniform(random: np.random.Generator, length: int, margin: float) -> float:
    """A position at least `margin` from both ends where there is room, else the middle."""
    return float(random.uniform(margin, length - margin)) if length > 2 * margin else length / 2


def vary_stain(pixels: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Scale and shift each channel's optical density, then blur or add noise now and then."""
    density = -np.log((pixels.astype(np.float32) + 1) / 256)
    gain = random.uniform(0.75, 1.25) * random.uniform(0.9, 1.1, size=3).astype(np.float32)
    varied = 256 * np.exp(-(density * gain + random.uniform(-0.08, 0.08, size=3).astype(np.float32))) - 1
    if random.random() < 0.2:
        varied = cv2.GaussianBlur(varied, (0, 0), random.uniform(0.3, 1.2))
    if random.random() < 0.2:
        varied = varied + random.normal(0, random.uniform(1, 6), size=varied.shape).astype(np.float32)
    rounded: NDArray[np.uint8] = np.clip(np.rint(varied), 0, 255).astype(np.uint8)
    return rounded


def draw_batch(samples: list[Sample], config: SegmentConfig, step: int) -> tuple[Tensor, Tensor]:
    """Batch number `step`: the same after a resume as without one. RGB `[N, 3, H, W]` and labels `[N, H, W]`."""
    random = np.random.default_rng([config.seed, step])
    drawn = random.choice(len(samples), config.batch, replace=len(samples) < config.batch)
    images, masks = zip(*(augment(samples[index], config.crop, random) for index in drawn), strict=True)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return pixels, torch.from_numpy(np.stack(masks)).long()


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over labelled pixels plus the soft Dice loss of the foreground classes."""
    logits = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
    cross_entropy = F.cross_entropy(logits, labels, ignore_index=IGNORE)
    known = (labels != IGNORE).unsqueeze(1)
    truth = F.one_hot(labels.where(labels != IGNORE, 0), logits.shape[1]).movedim(3, 1) * known
    probability = logits.softmax(1) * known
    overlap, total = (probability * truth).sum((0, 2, 3)), (probability + truth).sum((0, 2, 3))
    dice = 1 - (2 * overlap + 1) / (total + 1)
    return cross_entropy + dice[1:].mean()


def learning_rate(step: int, config: SegmentConfig) -> float:
    """Linear warm-up, then polynomial decay with power 0.9."""
    warmup = min(1.0, (step + 1) / config.warmup_steps)
    return float(config.learning_rate * warmup * (1 - step / config.steps) ** 0.9)


Progress = Callable[[int, float], None]


def train(config: SegmentConfig, data: Path, run: Path, progress: Progress = lambda step, loss: None) -> None:
    """Train to the end, resuming from `run/state.safetensors` where there is one.

    Leaves `run/model.safetensors` (the averaged weights, with the configuration as metadata).
    `progress` is called after each step with its number and loss.
    """
    samples = load_samples(data, config.split)
    torch.manual_seed(config.seed)
    network = PSPNet(len(glas.CLASSES), config.encoder, config.output_stride)
    network.encoder.load_state_dict(imagenet_weights())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network.to(device).train()
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(config.average_decay), use_buffers=True
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    state_file = run / "state.safetensors"
    first = resume(state_file, config, network, average, optimiser) if state_file.exists() else 0
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.toml").write_text(as_toml(config))
    with open_metrics(run / "metrics.csv", first) as file:
        metrics = csv.writer(file)
        for step in range(first, config.steps):
            torch.manual_seed(config.seed + step)  # dropout, the same after a resume
            optimiser.param_groups[0]["lr"] = learning_rate(step, config)
            pixels, labels = (tensor.to(device) for tensor in draw_batch(samples, config, step))
            logits, auxiliary = network(pixels)
            loss = segmentation_loss(logits, labels) + config.auxiliary_weight * segmentation_loss(auxiliary, labels)
            if not math.isfinite(loss.item()):
                raise TrainingError(f"{run}: the loss became {loss.item()} at step {step}; lower learning_rate")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            average.update_parameters(network)
            metrics.writerow([step, f"{loss.item():.5f}"])
            progress(step, loss.item())
            if (step + 1) % config.save_every == 0 and step + 1 < config.steps:
                file.flush()
                save_state(state_file, step + 1, config, network, average, optimiser)
    metadata = {"method": "segment", "config": msgspec.json.encode(config).decode()}
    checkpoint.save(run / "model.safetensors", average.module.state_dict(), metadata)
    state_file.unlink(missing_ok=True)


def open_metrics(path: Path, first: int) -> TextIO:
    """The metrics file, open for the rows from step `first` on; what a killed run wrote beyond is dropped."""
    lines = path.read_text().splitlines(keepends=True) if first else ["step,loss\n"]
    path.write_text("".join(lines[: first + 1]))
    return open(path, "a", newline="")


def save_state(
    path: Path,
    step: int,
    config: SegmentConfig,
    network: nn.Module,
    average: torch.optim.swa_utils.AveragedModel,
    optimiser: torch.optim.Optimizer,
) -> None:
    """All that `resume` needs to go on as if never stopped."""
    parts: dict[str, dict[str, Any]] = {
        "network": network.state_dict(),
        "average": average.state_dict(),
        "optimiser": checkpoint.flatten_optimiser(optimiser),
    }
    tensors = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
    checkpoint.save(path, tensors, {"step": str(step), "config": msgspec.json.encode(config).decode()})


def resume(
    path: Path,
    config: SegmentConfig,
    network: nn.Module,
    average: torch.optim.swa_utils.AveragedModel,
    optimiser: torch.optim.Optimizer,
) -> int:
    """Load what `save_state` wrote; returns the number of the next step."""
    tensors, metadata = checkpoint.load(path)
    if metadata.get("config") != msgspec.json.encode(config).decode():
        raise TrainingError(f"{path} was written with another configuration; choose another --out or delete it")
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimiser": {}}
    for name, value in tensors.items():
        part, key = name.split("/", 1)
        parts[part][key] = value
    checkpoint.load_into(network, parts["network"], path)
    checkpoint.load_into(average, parts["average"], path)
    checkpoint.restore_optimiser(optimiser, parts["optimiser"])
    return int(metadata["step"])
