"""Features that were stored before and a bundle for bags of them: what all of a slide's tiles together say."""

import csv
import time
from pathlib import Path
from typing import Any, Literal

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.bundle import Bundle
from glassrt.engine.bundles.kinds.mil import Mil
from glassrt.engine.bundles.parts import Making
from glassrt.engine.errors import SlideError, UsageError
from glassrt.engine.files import output_errors, replace_folder, write_json
from glassrt.engine.flow.bag import BagMean, open_mean
from glassrt.engine.geometry.boxes import bands
from glassrt.engine.results.bag import Bag, BagResult, close_bag, describe_bag
from glassrt.engine.results.cells import as_text
from glassrt.engine.results.features import Stored, read_features
from glassrt.engine.results.figures import package_versions
from glassrt.engine.results.origin import RESULT, describe_origin, refuse_other
from glassrt.engine.runtimes.protocol import Backend

TABLE = "tiles.csv"
Floats = NDArray[np.float32]


class StoredResult(msgspec.Struct, frozen=True):
    """The figures of one file of features, as `result.json` holds them; `unit` is that of tiles' places."""

    slide: dict[str, Any]
    bundle: dict[str, Any]
    backend: dict[str, Any]
    unit: Literal["px", "um"]
    bag: BagResult
    seconds: dict[str, float]
    versions: dict[str, str]


def find_head(bundle: Bundle) -> Mil:
    """The manifest of a bundle that scores features. Raises UsageError for another."""
    manifest = bundle.manifest
    if isinstance(manifest, Mil) and manifest.takes == "features":
        return manifest
    raise UsageError(
        f"{bundle.path} takes no features that were stored before: name slides, or a bundle of a head alone"
    )


def score_features(path: Path, bundle: Bundle, out: Path, backend: Backend) -> StoredResult:
    """Score the features of one slide into the folder `out`, which appears whole or not at all.

    Writes `result.json`, and `tiles.csv` with each tile's place, attention and probabilities. `path` is an HDF5 file of
    any of the layouts in `results/features.py`. Raises UsageError, SlideError for features that make no bag,
    OutputError or BackendUnavailable.
    """
    start, manifest = time.perf_counter(), find_head(bundle)
    with read_features(path) as stored:
        refuse_unfit(path, stored, manifest)
        mean = open_mean(manifest.pooling)
        scores, logits = run_head(path, stored.table, backend, mean)
        bag, coords = close_bag(mean, scores, logits), stored.coords[:]
    found = describe_bag(bag, coords, manifest)
    with replace_folder(out, RESULT, lambda: refuse_other(out, path)) as folder, output_errors(out):
        write_tiles(folder / TABLE, bag, coords, manifest)
        result = StoredResult(
            {"name": path.name, **describe_origin(path)},
            {"name": manifest.name, "sha256": bundle.sha256, "precision": backend.precision},
            {"name": backend.name, "device": backend.device, "isa": backend.isa, "version": backend.version},
            stored.unit,
            found,
            {"total": time.perf_counter() - start},
            dict(package_versions()),
        )
        write_json(folder / RESULT, result)
    return result


def refuse_unfit(path: Path, stored: Stored, manifest: Mil) -> None:
    """Raise SlideError for features that the head does not take."""
    count, length = stored.table.shape
    if length != manifest.features:
        raise SlideError(
            f"{path} has features of {length} numbers, the bundle {manifest.name} takes {manifest.features}: embed the "
            "slide with the encoder that it was trained on"
        )
    refuse_made_otherwise(path, stored.making, manifest)
    if not count:
        raise SlideError(f"{path} holds no tiles: an empty bag is of no class")


def refuse_made_otherwise(path: Path, making: Making, manifest: Mil) -> None:
    """Raise SlideError for features that say they were made in another way than those that a head learned from."""
    if manifest.made and (told := making.differ(manifest.made)):
        raise SlideError(
            f"{path} has {told[0]}, the bundle {manifest.name} learned from {told[1]}: embed the slide as those were"
        )


def run_head(path: Path, table: h5py.Dataset, backend: Backend, mean: BagMean) -> tuple[Floats, Floats]:
    """The scores `[N]` and logits `[N, 1 or C]` of all tiles, which are added to the bag. Raises SlideError."""
    given = np.zeros((backend.batch, table.shape[1]), np.float32)
    parts = []
    for top, bottom in bands(len(table), backend.batch):
        count = bottom - top
        given[:count] = table[top:bottom]
        if not np.isfinite(given[:count]).all():
            raise SlideError(f"{path}: features {top} to {bottom - 1} hold NaN or infinity")
        outputs = backend.infer({"features": given})
        scores, logits = outputs["scores"][:count], outputs["logits"][:count]
        mean.add(scores, logits)
        parts.append((scores, logits))
    scores, logits = (np.concatenate(each) for each in zip(*parts, strict=True))
    return scores, logits


def write_tiles(path: Path, bag: Bag, coords: NDArray[Any], manifest: Mil) -> None:
    """A row for each tile, in the file's order."""
    names = [f"{info.name}_probability" for info in manifest.classes[1:]]
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["x", "y", "attention", *map(as_text, names)])
        for place, attention, probabilities in zip(
            coords.tolist(), bag.attention.tolist(), bag.tiles[:, 1:].tolist(), strict=True
        ):
            figures = (f"{value:.6g}" for value in (attention, *probabilities))
            table.writerow([*(f"{at:g}" if isinstance(at, float) else at for at in place), *figures])
