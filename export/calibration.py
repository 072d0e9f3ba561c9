"""Windows of real tissue from a folder of slides and images: those that lower precisions are made with, and others.

The files that go into a bundle stand in its manifest, by what they hold and not by name, so that no precision is ever
verified on the windows that it was made with.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.manifest import Manifest
from glassrt.engine.bundles.parts import Seen
from glassrt.engine.errors import UsageError
from glassrt.engine.geometry.boxes import Indices
from glassrt.engine.geometry.plan import InputSpec
from glassrt.engine.slides.slide import Pixels
from glassrt.export.ground import Ground, find_files, open_ground
from glassrt.export.samples import Samples, each, join

WANTED = 32  # windows of FULL pixels or more
FULL = 160
MOST_MORE = 4  # times as many of smaller ones, which tell less each
MEASURED = 4  # of so many windows that are taken, one measures what was lost and the others calibrate
FEWEST = 8
LEAST = (6, 2, FEWEST)  # windows to calibrate on, to measure on, and to verify on
MOST_FILES = 48  # that are dealt out: each of the windows of usual size that are wanted has a file of its own
SEED = 1


class Calibration(NamedTuple):
    """Windows that ranges are taken from, others that measure what was lost, and where all lie."""

    calibrated: Samples
    measured: Samples
    seen: tuple[Seen, ...]


class Share(NamedTuple):
    """The numbers of the windows that are taken from a ground."""

    ground: Ground
    numbers: Indices


def choose_count(window: int) -> int:
    """How many windows of so many pixels' side tell enough."""
    return round(WANTED * min(MOST_MORE, max(1.0, (FULL / window) ** 2)))


def collect_calibration(folder: Path, manifest: Manifest, wanted: int | None = None) -> Calibration:
    """What lower precisions are made with: the same each time, spread over the folder's files and the bundle's scales.

    What calibrates, what measures and what is left for verification come from different files, or, where there are too
    few, from different parts of them. Raises UsageError for a folder with too little tissue.
    """
    wanted = wanted or choose_count(manifest.window)
    grounds = list(islice(find_grounds(folder, manifest), MOST_FILES))
    for calibrating, measuring, kept in deals(grounds):
        counts = count(calibrating), count(measuring), count(kept)
        if all(found >= least for found, least in zip(counts, LEAST, strict=True)):
            break
    else:
        raise UsageError(
            f"{folder} gave {count(grounds)} windows of {manifest.window} pixels with tissue, too few to calibrate on "
            "some, measure on others and keep some for verification: add slides or images of the bundle's tissue"
        )
    measured = share_out(measuring, wanted // MEASURED)
    calibrated = share_out(calibrating, wanted - wanted // MEASURED)
    return Calibration(cut(calibrated), cut(measured), note_seen((*calibrated, *measured)))


def collect_windows(
    folder: Path, manifest: Manifest, wanted: int | None = None, told: Callable[[str], None] = lambda line: None
) -> Samples:
    """Windows of tissue that went into none of the bundle's graphs; the same each time.

    They come from other files than those or, where these hold too little, from other parts of them too; which, is
    `told`. Raises UsageError for a folder with fewer than eight such windows.
    """
    wanted = wanted or choose_count(manifest.window)
    boxes = {seen.fingerprint: seen.box for seen in manifest.calibrated}
    grounds: list[Ground] = []
    known: list[Ground] = []
    for ground in find_grounds(folder, manifest):
        (known if ground.fingerprint in boxes else grounds).append(ground)
        if len(grounds) == wanted:
            break
    if known and count(grounds) >= FEWEST:
        told(f"{folder}: left out {len(known)} files that the bundle was calibrated on")
    elif known:
        told(f"{folder}: verified on parts of files that the bundle was calibrated on, for want of others")
        grounds += [ground.outside(boxes[ground.fingerprint]) for ground in known]
    if not boxes and any(graph.precision == "int8" for graph in manifest.graphs):
        told(f"the bundle does not say what it was calibrated on: keep that out of {folder}")
    shares = share_out(grounds, wanted)
    if (found := sum(len(share.numbers) for share in shares)) < FEWEST:
        beside = " beside those that the bundle was calibrated on" if known else ""
        raise UsageError(
            f"{folder} gave {found} windows of {manifest.window} pixels with tissue{beside}, {FEWEST} are needed: "
            "add slides or images of the bundle's tissue"
        )
    return cut(shares)


def find_grounds(folder: Path, manifest: Manifest) -> Iterator[Ground]:
    """The files of a folder that show tissue, laid out one by one. Raises UsageError."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: name one that holds slides or images of the bundle's tissue")
    for path in find_files(folder):
        ground = open_ground(path, manifest)
        if ground is not None:
            yield ground


def deals(grounds: Sequence[Ground]) -> Iterator[tuple[list[Ground], list[Ground], list[Ground]]]:
    """Ways to deal grounds out to calibrate, to measure and to be kept, the best first: by files, or by their parts."""
    if len(grounds) > 2:
        yield [*grounds[2::4], *grounds[3::4]], list(grounds[1::4]), list(grounds[::4])
    if len(grounds) > 1:
        *kept, largest = sorted(grounds, key=lambda ground: len(ground.usable))
        calibrating, measuring = largest.split((3, 1))
        yield [calibrating], [measuring], kept
    parts = [ground.split((3, 1, 3)) for ground in grounds]
    yield [each[0] for each in parts], [each[1] for each in parts], [each[2] for each in parts]


def count(grounds: Sequence[Ground]) -> int:
    """Windows of all grounds together."""
    return sum(len(ground.usable) for ground in grounds)


def share_out(grounds: Sequence[Ground], wanted: int) -> list[Share]:
    """As many windows as are wanted, or there are, one of each ground in turn."""
    taken = [0] * len(grounds)
    while wanted > 0 and any(len(ground.usable) > some for ground, some in zip(grounds, taken, strict=True)):
        for at, ground in enumerate(grounds):
            if wanted > 0 and len(ground.usable) > taken[at]:
                taken[at] += 1
                wanted -= 1
    return [Share(ground, ground.usable[:some]) for ground, some in zip(grounds, taken, strict=True) if some]


def cut(shares: Sequence[Share]) -> Samples:
    """The windows of all shares, one of each in turn."""
    windows = [each(share.ground.cut(share.numbers)) for share in shares]
    turns = range(max(map(len, windows)))
    return join([some[turn] for turn in turns for some in windows if turn < len(some)])


def note_seen(shares: Sequence[Share]) -> tuple[Seen, ...]:
    """The files of shares with the part of each that they take."""
    numbers: dict[str, list[Indices]] = {}
    grounds = {share.ground.fingerprint: share.ground for share in shares}
    for share in shares:
        numbers.setdefault(share.ground.fingerprint, []).append(share.numbers)
    return tuple(Seen(mark, grounds[mark].around(np.concatenate(numbers[mark]))) for mark in sorted(numbers))


def paint(inputs: Iterable[InputSpec]) -> Samples:
    """A window for want of real tissue, in the middle of its surroundings."""
    inputs = list(inputs)
    painted: dict[str, NDArray[Any]] = {spec.name: paint_window(spec.side) for spec in inputs}
    for spec in inputs:
        if spec.placed:
            painted["place"] = np.full((1, 2), 0.5 - 0.5 * inputs[0].side / (spec.side * spec.factor), np.float32)
    return painted


def paint_window(side: int) -> Pixels:
    """`[1, side, side, 3]` in the colours of a stain, pink, purple and glass in patches."""
    random = np.random.default_rng(SEED)
    colors = np.array([[240, 238, 240], [225, 150, 190], [110, 70, 150]], np.float32)
    patches = random.dirichlet((0.4, 0.4, 0.4), (side // 16 + 1, side // 16 + 1)).astype(np.float32)
    shares = cv2.resize(patches, (side, side), interpolation=cv2.INTER_LINEAR)
    painted = shares @ colors + random.normal(0, 8, (side, side, 1)).astype(np.float32)
    return painted.clip(0, 255).astype(np.uint8)[None]
