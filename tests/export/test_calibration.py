"""What lower precisions are made with, and what is left to verify them on."""

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import msgspec
import numpy as np
import openslide
import pytest
import tifffile
from made_tiffs import encode, stained, write_tiles
from plain_network import PSPNET

from glassrt.engine.bundles.bundle import open_bundle
from glassrt.engine.bundles.manifest import Manifest
from glassrt.engine.bundles.parts import Seen
from glassrt.engine.errors import SlideError, UsageError
from glassrt.engine.flow.cut import cut_batches
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.fingerprint import fingerprint
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.tissue.scope import find_scope
from glassrt.engine.slides.tissue.survey import look_over
from glassrt.engine.tasks.segment import lay_windows
from glassrt.engine.tasks.segmentation import open_grid
from glassrt.engine.watch import Clock
from glassrt.export.calibration import choose_count, collect_calibration, collect_windows
from glassrt.export.ground import find_files, open_ground
from glassrt.export.samples import Samples, count

MANIFEST = open_bundle(PSPNET).manifest


@pytest.fixture(scope="module")
def images(demo_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen images cut from the slide, no pixel of which is in two; each holds its number in its red channel."""
    folder = tmp_path_factory.mktemp("images")
    with open_slide(demo_slide) as slide:
        grid = GridReader(slide, MANIFEST.mpp)
        for number in range(16):
            pixels = grid.read(330 + number % 4 * 342, number // 4 * 342, 340, 340)
            pixels[..., 0] = pixels[..., 0] // 16 * 16 + number
            cv2.imwrite(str(folder / f"{number}.png"), pixels[..., ::-1])
    (folder / "notes.txt").write_text("no slide")
    return folder


def numbers(samples: Samples) -> set[int]:
    """Of the images that windows come from."""
    return {int(value) for window in samples["image"] for value in np.unique(window[..., 0] % 16)}


def calibrated_on(seen: tuple[Seen, ...]) -> Manifest:
    return msgspec.structs.replace(MANIFEST, calibrated=seen)


def test_calibration_measurement_and_verification_come_from_different_files(images: Path) -> None:
    made = collect_calibration(images, MANIFEST)
    told: list[str] = []
    unseen = collect_windows(images, calibrated_on(made.seen), told=told.append)
    parts = [numbers(windows) for windows in (made.calibrated, made.measured, unseen)]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert len(told) == 1
    assert "left out" in told[0]


def test_it_is_the_same_each_time_whatever_the_files_are_called(images: Path, tmp_path: Path) -> None:
    for number in range(16):
        shutil.copy(images / f"{number}.png", tmp_path / f"{16 - number}-again.png")
        shutil.copy(images / f"{number}.png", tmp_path / f"{number}-twin.png")
    first, again = (collect_calibration(folder, MANIFEST) for folder in (images, tmp_path))
    assert first.seen == again.seen
    np.testing.assert_array_equal(first.calibrated["image"], again.calibrated["image"])
    unseen = [collect_windows(folder, calibrated_on(first.seen))["image"] for folder in (images, tmp_path)]
    np.testing.assert_array_equal(*unseen)
    assert len(list(find_files(tmp_path))) == 16


@pytest.mark.parametrize(("window", "wanted"), [(320, 32), (160, 32), (113, 64), (80, 128), (16, 128)])
def test_small_windows_are_more(window: int, wanted: int) -> None:
    """Of 64 pixels, eight windows would measure what int8 loses on a twenty-fifth of what eight of 320 do."""
    assert choose_count(window) == wanted


def test_one_slide_alone_is_split_by_place(demo_slide: Path) -> None:
    """No window of verification shares a pixel with any that calibrated or measured."""
    made = collect_calibration(demo_slide.parent, MANIFEST)
    (seen,) = made.seen
    assert seen.fingerprint == fingerprint(demo_slide)
    ground = open_ground(demo_slide, MANIFEST)
    assert ground is not None
    left = ground.outside(seen.box)
    unseen = collect_windows(demo_slide.parent, calibrated_on(made.seen))
    assert count(unseen) == len(left.usable) >= 8
    boxes = [ground.around(left.usable[at : at + 1]) for at in range(len(left.usable))]
    assert all(
        right <= seen.box[0] or left >= seen.box[2] or bottom <= seen.box[1] or top >= seen.box[3]
        for left, top, right, bottom in boxes
    )


def test_a_slide_is_known_by_what_it_shows_not_by_one_file_s_bytes(demo_slide: Path, tmp_path: Path) -> None:
    """As the files of a DICOM series, each of which OpenSlide opens as the whole slide."""
    other = tmp_path / "other.svs"
    other.write_bytes(demo_slide.read_bytes() + bytes(1000))
    assert fingerprint(other) == fingerprint(demo_slide)
    shutil.copy(demo_slide, tmp_path)
    assert len(list(find_files(tmp_path))) == 1


def test_images_keep_the_fingerprints_that_manifests_hold(tmp_path: Path) -> None:
    content = cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes()
    (tmp_path / "a.png").write_bytes(content)
    assert fingerprint(tmp_path / "a.png") == hashlib.sha256(str(len(content)).encode() + 3 * content).hexdigest()
    tiff = write_tiles(tmp_path / "a.tif", (256, 256), [encode(stained(256, 256), "none")], "none")
    content = tiff.read_bytes()
    assert openslide.OpenSlide(tiff).properties["openslide.vendor"] == "generic-tiff"
    assert fingerprint(tiff) == hashlib.sha256(str(len(content)).encode() + 3 * content).hexdigest()


def test_where_nothing_is_left_it_is_refused_in_a_line(images: Path, tmp_path: Path) -> None:
    everything = tuple(Seen(fingerprint(path), (0, 0, 9999, 9999)) for path in images.iterdir())
    with pytest.raises(UsageError, match=r"gave 0 windows .* beside those that the bundle was calibrated on, 8"):
        collect_windows(images, calibrated_on(everything))
    shutil.copy(images / "0.png", tmp_path)
    with pytest.raises(UsageError, match="too few to calibrate on some, measure on others and keep some"):
        collect_calibration(tmp_path, MANIFEST)


def test_a_slide_whose_pixels_cannot_be_read_is_left_out(images: Path, demo_slide: Path, tmp_path: Path) -> None:
    with tifffile.TiffFile(demo_slide) as file:
        page = file.pages.first
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    content = bytearray(demo_slide.read_bytes())
    for start, length in places[12:15]:
        content[start : start + length] = bytes(length)
    (tmp_path / "damaged.svs").write_bytes(content)
    with open_slide(tmp_path / "damaged.svs") as slide, pytest.raises(SlideError):
        look_over(slide, 2)
    for path in images.iterdir():
        shutil.copy(path, tmp_path)
    with_it, without = (collect_windows(folder, MANIFEST)["image"] for folder in (tmp_path, images))
    np.testing.assert_array_equal(with_it, without)


@pytest.mark.parametrize("scales", [(1.0,), (0.75, 1.75), (2.0,)])
def test_windows_are_those_that_the_engine_cuts(demo_slide: Path, scales: tuple[float, ...]) -> None:
    """Above scale 1 too, where a finer level of the slide would show what the network is never served."""
    bundle = open_bundle(PSPNET).replace(scales, True)
    windows = collect_windows(demo_slide.parent, bundle.manifest, wanted=8)["image"]
    with open_slide(demo_slide) as slide, ThreadPoolExecutor(2) as pool:
        grid = open_grid(slide, bundle)
        plan = lay_windows(grid, bundle, find_scope(slide, "auto", 2).searched)
        served = {
            window.tobytes() for _, batch in cut_batches(grid, plan, 1, pool, 2, Clock()) for window in batch["image"]
        }
    assert [window.tobytes() in served for window in windows] == [True] * 8


def test_an_image_smaller_than_a_window_is_reflected_as_when_it_is_scored(images: Path, tmp_path: Path) -> None:
    pixels = cv2.imread(str(images / "5.png"))[:250, :300]
    cv2.imwrite(str(tmp_path / "small.png"), pixels)
    ground = open_ground(tmp_path / "small.png", MANIFEST)
    assert ground is not None
    (window,) = ground.cut(ground.usable)["image"]
    np.testing.assert_array_equal(window[:250, :300], ArraySlide(pixels[..., ::-1], 1).pixels)
    assert window[250:].any()
