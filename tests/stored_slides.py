"""Features of slides that nobody has: few tiles of each positive slide look like its class."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

LENGTH = 24
SHOWING = 0.15  # of a positive slide's tiles
FAR = 5.0  # deviations that they are off in the features of their class


def store_slide(path: Path, features: np.ndarray, layout: str = "trident", half: bool = False) -> None:
    """A file as other tools write it: TRIDENT with each row as a chunk of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    features = features.astype(np.float16 if half else np.float32)
    places = np.arange(2 * len(features)).reshape(-1, 2) * 256
    with h5py.File(path, "w") as file:
        if layout == "stamp":
            file["feats"], file["coords"] = features, places * 0.5
            file.attrs.update({"unit": "um", "extractor": "made", "tile_size_um": 112.0, "tile_size_px": 224})
        elif layout == "trident":
            file.create_dataset("features", data=features, chunks=(1, features.shape[1]), maxshape=(None, None))
            file.create_dataset("coords", data=places, chunks=(1, 2), maxshape=(None, 2))
            file["features"].attrs.update({"name": path.stem, "savetodir": "", "encoder": "made"})
            file["coords"].attrs.update({"patch_size": 512, "target_magnification": 10, "overlap": 0})
        else:
            file.create_dataset("features", data=features, chunks=(7, 5), compression="gzip")
            file["coords"] = places.astype(np.int32)


def draw_slide(label: int, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features `[count, LENGTH]` on scales of their own, the last of them dead, and which tiles show the class."""
    features = random.normal(0, 1, (count, LENGTH))
    showing = np.arange(count) < max(1, round(SHOWING * count)) if label else np.zeros(count, bool)
    random.shuffle(showing)
    features[showing, 3 * label : 3 * label + 3] += FAR
    features = features * np.geomspace(0.1, 30, LENGTH) + np.linspace(-5, 50, LENGTH)
    features[:, -1] = 7
    return features, showing


def store_slides(
    folder: Path, classes: Sequence[str], each: int, layout: str = "trident", half: bool = False, seed: int = 0
) -> dict[str, np.ndarray]:
    """A folder with so many slides of each class and their `labels.csv`; by name, which of their tiles show it."""
    random = np.random.default_rng(seed)
    lines, shown = ["slide,label,group"], {}
    for number in range(each * len(classes)):
        label = number % len(classes)
        features, shown[f"slide_{number}"] = draw_slide(label, int(random.integers(30, 90)), random)
        store_slide(folder / "h5" / f"slide_{number}.h5", features, layout, half)
        lines.append(f"h5/slide_{number}{'.h5' * (number % 2)},{classes[label]},patient {number}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return shown
