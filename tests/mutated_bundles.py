"""Mutated bundles, the same for a seed: `python mutated_bundles.py FIRST LAST` opens and runs each in this process.

Of each it prints a line of JSON: its number, what was changed, and what came of it: the refusals' lines or a digest of
the logits. Anything but a GlassError of one line or a result that comes out twice alike is a `fault`.
"""

import io
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hunting import Told, digest, judge_twice, refusal, try_each
from known import run_windows
from small_bundle import CLASSES, WINDOW, make_bundle, pin, read_manifest, write_manifest

from glassrt.engine.bundles.bundle import open_bundle
from glassrt.engine.errors import GlassError
from glassrt.engine.runtimes.open import open_backend

RUNS = (("ort", "fp32"), ("openvino", "fp32"), ("ort", "int8"), ("openvino", "int8"), ("ort", "auto"))
VALUES: list[Any] = [
    0, 1, -1, 2, 0.5, 1e-300, 1e308, 2**31, 2**45, 2**63 - 1, -(2**63), 10**40, True, None, "", "x", "x" * 70_000,
    "\x00", "\x1b[31m", "../x.onnx", "fp32.onnx", "int8", "gpu", "fp16", "\u202e", "=1+1", "[red]", [], {}, [[]],
    [0, 0, 0], [1.0] * 1000, ["a"] * 10_000, {"a": 1}, [0.75, 1, 1.5],
]  # fmt: skip


def change_json(value: Any, chance: random.Random) -> Any:
    """A document with one value, somewhere in it, removed, replaced, repeated or nested."""
    places = [*walk(value)]
    holder, key = chance.choice(places)
    what = chance.choice(("remove", "replace", "replace", "replace", "repeat", "nest", "add"))
    if what == "remove":
        del holder[key]
    elif what == "replace":
        holder[key] = chance.choice(VALUES)
    elif what == "repeat":
        holder[key] = [holder[key]] * chance.choice((2, 300, 20_000))
    elif what == "nest":
        for _ in range(chance.choice((1, 50, 450))):
            holder[key] = [holder[key]]
    elif isinstance(holder, dict):
        holder[chance.choice(("colour", "verified", "a" * 1000, "\n"))] = chance.choice(VALUES)
    return value


def walk(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a document as (holder, key)."""
    for key in value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from walk(value[key])


def change_bytes(content: bytes, chance: random.Random) -> bytes:
    """Bytes with some flipped, cut off, taken out, doubled or put in."""
    changed = bytearray(content)
    at, length = chance.randrange(len(changed) + 1), chance.choice((1, 2, 4, 8, 100))
    what = chance.choice(("flip", "flip", "flip", "set", "cut", "take", "double", "insert"))
    if what == "flip":
        for _ in range(chance.choice((1, 1, 2, 8))):
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    elif what == "set":
        changed[at : at + length] = bytes([chance.choice((0, 255, 127, 128))]) * length
    elif what == "cut":
        del changed[at:]
    elif what == "take":
        del changed[at : at + length]
    elif what == "double":
        changed[at:at] = changed[at : at + length]
    else:
        changed[at:at] = chance.randbytes(length)
    return bytes(changed)


def mutate_manifest(folder: Path, chance: random.Random) -> None:
    manifest = read_manifest(folder)
    for _ in range(chance.choice((1, 1, 2))):
        manifest = change_json(manifest, chance)
    write_manifest(folder, manifest)
    if chance.random() < 0.2:
        path = folder / "manifest.json"
        path.write_bytes(change_bytes(path.read_bytes(), chance))


def mutate_graph_bytes(folder: Path, chance: random.Random) -> None:
    name = chance.choice(("fp32.onnx", "int8_cpu.onnx"))
    pin(folder, name, change_bytes((folder / name).read_bytes(), chance))


def mutate_graph(folder: Path, chance: random.Random) -> None:
    """A graph whose protobuf is whole and says something else."""
    name = chance.choice(("fp32.onnx", "int8_cpu.onnx"))
    model = onnx.load_from_string((folder / name).read_bytes())
    for _ in range(chance.choice((1, 1, 3))):
        change_message(model, chance)
    pin(folder, name, model.SerializeToString())


def change_message(model: Any, chance: random.Random) -> None:
    """One field of one message in a model set to something else."""
    messages = [model]
    for message in messages:
        for field, value in message.ListFields():
            if field.type == field.TYPE_MESSAGE:
                messages += [*value] if repeated(value) else [value]
    message = chance.choice(messages)
    field = chance.choice(message.DESCRIPTOR.fields)
    numbers = (0, 1, -1, 2, 3, 7, 2**31 - 1, -(2**31), chance.randrange(64))
    longs = (*numbers, 2**45, 2**62, -(2**63))
    values: Any = {
        field.TYPE_INT64: longs, field.TYPE_INT32: numbers, field.TYPE_UINT64: (0, 2**64 - 1),
        field.TYPE_ENUM: (0, 1, 2, 7),
        field.TYPE_FLOAT: (0.0, float("nan"), float("inf"), 1e38), field.TYPE_DOUBLE: (0.0, 1e300),
        field.TYPE_STRING: ("", "x", "image", "logits", "com.microsoft", "If", "Loop", "Tile", "ConstantOfShape"),
        field.TYPE_BYTES: (b"", b"\x00", b"\xff" * 16, b"/etc/passwd"),
    }.get(field.type)  # fmt: skip
    try:
        if values is None:
            held = getattr(message, field.name)
            if not repeated(held):
                chance.choice((lambda: message.ClearField(field.name), held.SetInParent))()
            elif len(held):
                chance.choice((held.pop, lambda: held.add().CopyFrom(held[0]), held.reverse))()
            else:
                held.add()
        elif repeated(getattr(message, field.name)):
            held = getattr(message, field.name)
            if len(held) and chance.random() < 0.7:
                held[chance.randrange(len(held))] = chance.choice(values)
            else:
                held.append(chance.choice(values))
        else:
            setattr(message, field.name, chance.choice(values))
    except (TypeError, ValueError):
        message.ClearField(field.name)


def repeated(value: Any) -> bool:
    return hasattr(value, "append")


def mutate_example(folder: Path, chance: random.Random) -> None:
    if chance.random() < 0.6:
        content = change_bytes((folder / "example.npz").read_bytes(), chance)
    else:
        dtype = chance.choice((np.uint8, np.float32, np.float64, np.int64, object, "U5"))
        shape = chance.choice(((1, WINDOW, WINDOW, 3), (1, CLASSES, 4, 4), (), (0,), (3, 1000, 100)))
        stored = io.BytesIO()
        with np.errstate(all="ignore"):
            np.savez_compressed(stored, image=np.zeros(shape, dtype), logits=np.full((1, CLASSES, 4, 4), np.nan))
        content = stored.getvalue()
    pin(folder, "example.npz", content)


def mutate_checks(folder: Path, chance: random.Random) -> None:
    path = folder / "checks.json"
    if chance.random() < 0.5:
        path.write_bytes(change_bytes(path.read_bytes(), chance))
    else:
        path.write_text(json.dumps(change_json([*json.loads(path.read_text())], chance)))


def mutate_files(folder: Path, chance: random.Random) -> None:
    """Something else where a file is expected."""
    path = folder / chance.choice(("manifest.json", "fp32.onnx", "int8_cpu.onnx", "example.npz", "checks.json"))
    path.unlink()
    kind = chance.choice(("nothing", "folder", "pipe", "zero", "random", "loop", "astray", "empty", "huge", "closed"))
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind in ("zero", "random", "loop", "astray"):
        path.symlink_to({"zero": "/dev/zero", "random": "/dev/random", "loop": path.name, "astray": "nowhere"}[kind])
    elif kind in ("empty", "huge", "closed"):
        path.touch(0o000 if kind == "closed" else 0o644)
        if kind == "huge":
            os.truncate(path, 1 << 33)


MUTATIONS: tuple[Callable[[Path, random.Random], None], ...] = (
    mutate_manifest, mutate_manifest, mutate_graph_bytes, mutate_graph_bytes, mutate_graph, mutate_graph, mutate_graph,
    mutate_example, mutate_checks, mutate_files,
)  # fmt: skip


def attempt(folder: Path) -> list[str]:
    """What opening and running a bundle gives, through each runtime."""
    outcomes = []
    image = np.random.default_rng(2).integers(0, 256, (1, WINDOW, WINDOW, 3), np.uint8)
    for backend, precision in RUNS:
        try:
            bundle = open_bundle(folder)
            with closing(open_backend(bundle, backend, precision=precision)) as opened:
                logits = run_windows(opened, np.resize(image, (1, bundle.manifest.window, bundle.manifest.window, 3)))
            outcomes.append(f"{logits.shape} {digest(logits.tobytes())}")
        except GlassError as error:
            outcomes.append(refusal(error, folder))
    return outcomes


def mutant(sound: Path, folder: Path, number: int) -> str:
    """Make the mutated bundle of a number in `folder`, and return what was done to it."""
    chance = random.Random(number)
    shutil.copytree(sound, folder)
    mutation = chance.choice(MUTATIONS)
    mutation(folder, chance)
    return mutation.__name__


def judge(sound: Path, folder: Path, number: int) -> Told:
    """Make a mutated bundle, run it twice, and say what came of it."""
    kind = mutant(sound, folder, number)
    try:
        return judge_twice(number, kind, lambda: attempt(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        os.environ["GLASSRT_CACHE"] = f"{place}/cache"
        sound = make_bundle(Path(place, "sound.glass"))
        try_each(lambda number: judge(sound, Path(place, "mutant.glass"), number))


if __name__ == "__main__":
    main()
