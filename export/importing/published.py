"""What others publish beside their networks: WSInfer's `config.json`, and the `metadata.json` of MONAI's bundles."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from glassrt.engine.errors import UsageError

TOP = 255  # of a pixel's values
OWN_SCALING = (  # what stands in the names of MONAI's transforms that change pixels, or may
    "ScaleIntensity", "NormalizeIntensity", "ShiftIntensity", "Normalize", "TorchVision", "Lambda",
)  # fmt: skip
STEPS = ("inference.json", "inference.yaml", "inference.yml")  # files in which a MONAI bundle has them
Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]


class Published(NamedTuple):
    """Keys of `settings.Settings`, and what the user has to know of how they were understood."""

    keys: dict[str, object]
    notes: tuple[str, ...] = ()


class Transform(msgspec.Struct):
    """A step of WSInfer's preparation of a tile, as torchvision calls it."""

    name: str
    arguments: dict[str, Any] = {}  # msgspec copies it


class WsInfer(msgspec.Struct):
    """WSInfer's `config.json`, version 1: a tile of `patch_size_pixels` at `spacing_um_px`, then the transforms."""

    spec_version: Literal["1.0"]
    num_classes: Count
    class_names: list[str]
    patch_size_pixels: Count
    spacing_um_px: Annotated[float, msgspec.Meta(gt=0)]
    transform: list[Transform]


class MonaiImage(msgspec.Struct):
    """What a MONAI bundle's network takes."""

    num_channels: int
    spatial_shape: list[int | str]
    value_range: tuple[float, float]


class MonaiPrediction(msgspec.Struct):
    """What a MONAI bundle's network gives."""

    format: str
    num_channels: int
    channel_def: dict[str, str]


class MonaiInputs(msgspec.Struct):
    """All of the inputs."""

    image: MonaiImage


class MonaiOutputs(msgspec.Struct):
    """All of the outputs that are understood."""

    pred: MonaiPrediction


class MonaiFormat(msgspec.Struct):
    """Both sides of the network."""

    inputs: MonaiInputs
    outputs: MonaiOutputs


class Monai(msgspec.Struct):
    """The parts of a MONAI bundle's `metadata.json` that tell how its network is run."""

    network_data_format: MonaiFormat
    name: str = ""
    version: str = ""
    data_source: str = ""


def read_published(found: Any, path: Path) -> Published:
    """The settings in a decoded JSON file. Raises UsageError for one of neither, msgspec's errors for what it lacks."""
    if isinstance(found, Mapping) and "network_data_format" in found:
        return read_monai(msgspec.convert(found, Monai), path)
    if isinstance(found, Mapping) and "transform" in found:
        return read_wsinfer(msgspec.convert(found, WsInfer), path)
    raise UsageError(
        f"{path} is neither WSInfer's config.json nor the metadata.json of a MONAI bundle: write a bundle.toml"
    )


def read_wsinfer(config: WsInfer, path: Path) -> Published:
    """A network that tells tiles apart, given the window that it is resized to, at the resolution which that has.

    Raises UsageError for transforms other than Resize, ToTensor and Normalize in their order.
    """
    if len(config.class_names) != config.num_classes:
        raise UsageError(f"{path}: num_classes is {config.num_classes}, class_names has {len(config.class_names)}")
    steps = {step.name: step.arguments for step in config.transform}
    names = [step.name for step in config.transform]
    if names != [name for name in ("Resize", "ToTensor", "Normalize") if name in steps] or "ToTensor" not in steps:
        raise UsageError(f"{path}: transform is {', '.join(names)}; Resize, ToTensor, Normalize are understood")
    side, notes = config.patch_size_pixels, []
    if "Resize" in steps:
        side = read_size(steps["Resize"].get("size"), path)
    mpp = config.spacing_um_px * config.patch_size_pixels / side
    if side != config.patch_size_pixels:
        notes.append(
            f"tiles of {config.patch_size_pixels} pixels at {config.spacing_um_px:g} um, which it resizes to {side}, "
            f"are read as windows of {side} pixels at {mpp:.6g} um"
        )
    keys: dict[str, object] = {
        "kind": "classification", "mpp": mpp, "window": side, "scale": TOP, "classes": config.class_names,
        "origin": "WSInfer",
    }  # fmt: skip
    if "Normalize" in steps:
        keys |= {name: steps["Normalize"].get(name) for name in ("mean", "std")}
    return Published(keys, tuple(notes))


def read_size(size: Any, path: Path) -> int:
    """The side of a square that Resize makes. Raises UsageError."""
    sides = {size} if isinstance(size, int) else set(size) if isinstance(size, list) else set()
    if len(sides) != 1 or not isinstance(side := sides.pop(), int) or side < 1:
        raise UsageError(f"{path}: Resize to {size} makes no square of pixels")
    return side


def read_monai(metadata: Monai, path: Path) -> Published:
    """A network for two-dimensional colour images. What its outputs are is left to be found: `metadata.json` describes
    them as they are after further steps. Raises UsageError where it is for others, or pixels are changed elsewhere.
    """
    image, prediction = metadata.network_data_format.inputs.image, metadata.network_data_format.outputs.pred
    if image.num_channels != 3 or len(image.spatial_shape) != 2:
        raise UsageError(
            f"{path}: the network takes {image.num_channels} channels of {len(image.spatial_shape)} dimensions; "
            "windows of slides are RGB"
        )
    if prediction.format not in ("segmentation", "classification"):
        raise UsageError(f"{path}: the prediction's format is {prediction.format!r}; segmentation and classification "
                         "are understood")  # fmt: skip
    refuse_own_scaling(path)
    low, high = image.value_range
    if not low < high:
        raise UsageError(f"{path}: value_range {low:g} to {high:g} is none")
    names = [prediction.channel_def.get(str(number)) for number in range(prediction.num_channels)]
    if None in names:
        raise UsageError(f"{path}: channel_def does not name all of {prediction.num_channels} channels")
    told = " ".join(filter(None, (metadata.name, metadata.version)))
    keys: dict[str, object] = {
        "kind": prediction.format, "classes": names, "scale": TOP, "mean": -low / (high - low),
        "std": 1 / (high - low), "layout": "nchw",
        "origin": f"MONAI: {told}" + (f", {metadata.data_source}" if metadata.data_source else ""),
    }  # fmt: skip
    if len(sides := {side for side in image.spatial_shape if isinstance(side, int)}) == 1:
        keys["window"] = sides.pop()
    return Published(keys, (f"its pixels reach the network as {low:g} to {high:g}, which value_range says",))


def refuse_own_scaling(path: Path) -> None:
    """Raise UsageError where the steps of inference beside `metadata.json`, or in `configs` beside it, change pixels,
    which this does not tell.
    """
    for file in (folder / name for folder in (path.parent, path.parent / "configs") for name in STEPS):
        try:
            text = file.read_text(errors="replace")
        except OSError:
            continue
        for name in OWN_SCALING:
            if name in text:
                raise UsageError(
                    f"{file} changes pixels by {name}, which {path.name} does not tell: write a bundle.toml that says "
                    "with `scale`, `mean` and `std` what the network takes"
                )
