"""Teachers, and how students of them are trained in tests."""

import io
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import small_bundle
import torch
from command_line import GLASSRT
from msgspec.structs import replace
from onnx import numpy_helper

from glassrt.training.commands.options import CONFIGS
from glassrt.training.config import load_config
from glassrt.training.methods.distil import DistilConfig
from glassrt.training.world import World

ALONE = World(0, 1, torch.device("cpu"))
CONFIG = replace(load_config(CONFIGS / "distil.toml", DistilConfig), crop=64, window=64, batch=2, steps=4, save_every=2)


def stage(name: str, steps: int):
    return lambda step, loss: None


def make_pair(folder: Path) -> list[Path]:
    """Two teachers that differ, with contours."""
    first = small_bundle.make_bundle(folder / "one.glass", contours=True)
    return [first, copy_teacher(first, folder / "two.glass", scales=[1.0])]


def copy_teacher(of: Path, to: Path, **changes: object) -> Path:
    shutil.copytree(of, to)
    small_bundle.write_manifest(to, small_bundle.read_manifest(of) | changes)
    return to


def command(pair: list[Path], out: Path, config: Path, *options: str) -> list[str]:
    named = [word for each in pair for word in ("--teacher", str(each))]
    return [str(GLASSRT), "train", "distil", *named, "--out", str(out), "--config", str(config), *options]


def make_seeing(folder: Path) -> Path:
    """A teacher that calls gland what is violet: where little is green, the first of its features exceeds 1.5."""
    small_bundle.make_bundle(folder)
    model = onnx.load(folder / "fp32.onnx")
    held = {each.name: numpy_helper.to_array(each).copy() for each in model.graph.initializer}
    for name in ("mix.weight", "mix.bias", "tell.weight", "pool"):
        held[name][:] = 0
    held["mix.weight"][0, 1], held["mix.bias"][:2] = -4 / 64, (0, 3)
    held["tell.weight"][0, 1], held["tell.weight"][1, 0] = 1, 2
    for each in model.graph.initializer:
        each.CopyFrom(numpy_helper.from_array(held[each.name], each.name))
    small_bundle.pin(folder, "fp32.onnx", model.SerializeToString())
    with np.load(folder / "example.npz") as stored:
        image = stored["image"]
    logits = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"image": image})[0]
    again = io.BytesIO()
    np.savez_compressed(again, image=image, logits=logits)
    small_bundle.pin(folder, "example.npz", again.getvalue())
    return folder
