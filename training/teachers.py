"""Bundles as teachers: what they have in common, and what the engine makes of them on images and slides."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from glassrt.engine.bundles.bundle import Bundle, open_bundle
from glassrt.engine.bundles.kinds.classification import Classification
from glassrt.engine.bundles.kinds.segmentation import Segmentation
from glassrt.engine.bundles.parts import Teacher
from glassrt.engine.errors import DatasetError, OutputError, TrainingError, UsageError
from glassrt.engine.files import output_errors
from glassrt.engine.geometry.boxes import Size
from glassrt.engine.maps.mapfile import MapFile, MapWriter
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.fingerprint import fingerprint
from glassrt.engine.slides.grid import SAME_MPP, GridReader
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.slide import Slide
from glassrt.engine.slides.tissue.masks import Mask
from glassrt.engine.staging import add_suffix, own_name
from glassrt.engine.tasks.segment import lay_windows, segment
from glassrt.engine.tasks.segmentation import choose_map_size
from glassrt.training.mapping import find_tissue
from glassrt.training.soft_maps import SoftMap, open_map, raw_size, write_map

GIGA = 1e9
COARSEST = 1.5  # times the mpp of teachers, and of the student, that what they see may have
COMPRESSED = 5  # times that a map becomes smaller, with room: maps of the images of GlaS are 12 times smaller
FORMAT = 2  # of maps: those of another are made anew


class Source(NamedTuple):
    """An image or slide to learn from. `mpp` replaces what the file says of its resolution. Of one that is not `whole`
    its tissue alone is looked at. `sample` is its number among those that have labels.
    """

    path: Path
    mpp: float | None
    whole: bool
    sample: int | None = None


class Teachers(NamedTuple):
    """Bundles that tell the same classes apart at the same resolution."""

    bundles: tuple[Bundle, ...]

    @property
    def manifest(self) -> Segmentation:
        """The first one's."""
        return self.bundles[0].segmentation

    @property
    def smallest_um2(self) -> float | msgspec.UnsetType:
        """The smallest region that counts: what they agree on, or the largest of what each says."""
        if len({each.segmentation.smallest_um2 for each in self.bundles}) == 1:
            return self.manifest.smallest_um2
        return max(each.segmentation.smallest_region_um2 for each in self.bundles)

    @property
    def described(self) -> tuple[Teacher, ...]:
        """What manifests and runs say of them."""
        return tuple(
            Teacher(each.manifest.name, each.sha256, each.segmentation.scales, each.segmentation.flips)
            for each in self.bundles
        )


class Planned(NamedTuple):
    """A map that is there, or will be: whose it is, its file, its (width, height), and that of its source's grid."""

    source: Source
    path: Path
    made: str
    size: Size
    grid: Size


def open_teachers(paths: Sequence[Path], scales: tuple[float, ...] | None, flips: bool | None) -> Teachers:
    """Bundles that teach together, each at its own scales and flips or at those given.

    Raises BundleError, and UsageError for bundles that do not go together.
    """
    bundles = tuple(open_bundle(path).replace(scales, flips) for path in paths)
    first = bundles[0]
    for number, bundle in enumerate(bundles):
        if any(bundle.sha256 == other.sha256 for other in bundles[:number]):
            raise UsageError(f"--teacher {bundle.path} is a bundle that was named before: leave it out")
        if not isinstance(bundle.manifest, Segmentation) or isinstance(bundle.manifest, Classification):
            raise UsageError(
                f"--teacher {bundle.path} is of the kind {bundle.manifest.kind}, which makes no maps: choose another"
            )
        for what, mine, other in zip(("classes", "contours"), told_apart(bundle), told_apart(first), strict=True):
            if mine != other:
                raise UsageError(
                    f"--teacher {bundle.path} has {mine}, {first.path} {other}: teachers need the same {what}"
                )
        mpp, other_mpp = bundle.manifest.mpp, first.manifest.mpp
        if abs(mpp / other_mpp - 1) > SAME_MPP:
            raise UsageError(
                f"--teacher {bundle.path} is made for {mpp:g} micrometres per pixel, {first.path} for {other_mpp:g}: "
                "teachers need the same mpp"
            )
    return Teachers(bundles)


def told_apart(bundle: Bundle) -> tuple[str, str]:
    """What a bundle tells apart, in words."""
    manifest = bundle.segmentation
    classes = f"the classes {', '.join(each.name for each in manifest.classes)}"
    return classes, f"contours of {manifest.contour_of}" if manifest.contoured else "no contours"


@contextmanager
def running(teachers: Teachers) -> Iterator[list[Backend]]:
    """The teachers' networks in float32, as fast as they run here. Raises BackendUnavailable or BundleError."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(open_backend(each, throughput=True))) for each in teachers.bundles]


def plan_map(source: Source, teachers: Teachers, mpp: float, folder: Path) -> Planned:
    """What the map of a source that is learned from at `mpp` will be; the file's name tells of what and by whom.

    Raises SlideError for what cannot be read or does not say its resolution, and DatasetError for what is too coarse
    for the teachers.
    """
    with open_slide(source.path, source.mpp) as slide:
        needed = teachers.manifest.mpp
        for who, wanted, other in (("teachers need", needed, "other teachers"), ("student sees", mpp, "a larger mpp")):
            if slide.mpp > COARSEST * wanted:
                raise DatasetError(
                    f"{source.path} has {slide.mpp:g} micrometres per pixel, and the {who} {wanted:g}: "
                    f"leave it out, or choose {other}"
                )
        size = max(choose_map_size(GridReader(slide, needed), each, None) for each in teachers.bundles)
        grid = GridReader(slide, mpp)
    told = msgspec.json.encode([FORMAT, fingerprint(source.path), source.mpp, source.whole, size, teachers.described])
    made = hashlib.sha256(told).hexdigest()
    return Planned(source, folder / f"{source.path.stem[:64]}-{made[:16]}.map", made, size, (grid.width, grid.height))


def refuse_small_disk(planned: Sequence[Planned], teachers: Teachers, folder: Path, processes: int = 1) -> None:
    """Raise OutputError if the disk may not hold the maps that are still to be made, by several processes at once."""
    missing = [each for each in planned if not each.path.exists()]
    sizes = [raw_size(each.size, teachers.manifest.planes) for each in missing]
    meanwhile = len(teachers.bundles) * sum(sorted(sizes)[-processes:])
    with output_errors(folder):
        free = shutil.disk_usage(folder).free
    if sum(sizes) / COMPRESSED + meanwhile <= free:
        return  # whatever of the slides is tissue, which takes a while to find
    kept = sum(size * share_seen(each.source) for size, each in zip(sizes, missing, strict=True)) / COMPRESSED
    if kept + meanwhile > free:
        raise OutputError(
            f"{folder}: the teachers' maps may take {(kept + meanwhile) / GIGA:.3g} GB and {free / GIGA:.3g} GB are "
            "free; free some or choose another --out"
        )


def share_seen(source: Source) -> float:
    """How much of a source is looked at, from 0 to 1."""
    if source.whole:
        return 1.0
    with open_slide(source.path, source.mpp) as slide:
        return float(find_tissue(slide).searched.mean())


def make_map(planned: Planned, teachers: Teachers, backends: Sequence[Backend]) -> None:
    """Run the teachers over a source and store what they say. Raises SlideError or OutputError."""
    source, path = planned.source, planned.path
    with open_slide(source.path, source.mpp) as slide, ExitStack() as stack:
        tissue = None if source.whole else find_tissue(slide).searched
        with output_errors(path):
            stem = stack.enter_context(own_name(path.parent))
            height, width = planned.size[::-1]
            manifest = teachers.manifest
            said = [
                stack.enter_context(
                    MapFile(add_suffix(stem, f".{number}"), len(manifest.classes), height, width, manifest.contoured)
                )
                for number in range(len(backends))
            ]
        for bundle, backend, map_file in zip(teachers.bundles, backends, said, strict=True):
            fill(map_file, slide, bundle, backend, tissue, path)
        write_map(path, planned.made, said)


def fill(map_file: MapFile, slide: Slide, bundle: Bundle, backend: Backend, tissue: Mask | None, path: Path) -> None:
    """What one teacher says of a slide, or of the tissue on it; what fails to be written is told as `path`."""
    grid = GridReader(slide, bundle.manifest.mpp)
    writer = MapWriter(map_file, tissue if tissue is not None else np.ones((1, 1), np.bool_))
    writing, size = output_errors(path), (map_file.width, map_file.height)  # whatever fails beyond it is reading
    segment(grid, lay_windows(grid, bundle, tissue), bundle, backend, size, writing(writer.place))
    with output_errors(path):
        writer.finish()


def open_made(planned: Planned) -> SoftMap:
    """The map that was made. Raises TrainingError for one that is damaged, or another."""
    found = open_map(planned.path)
    if found.about.made != planned.made or found.about.size != planned.size:
        raise TrainingError(f"{planned.path} is another map than its name says: delete it, and it is made anew")
    return found
