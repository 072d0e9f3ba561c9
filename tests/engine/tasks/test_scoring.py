"""One slide and many, as a library."""

import csv
import importlib.metadata
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from plain_batch import LOCK, list_slides, score_here
from plain_network import PSPNET

from glassrt.engine import ArraySlide, open_bundle, open_slide, score
from glassrt.engine.errors import BackendUnavailable, GlassError, OutputError, SlideError, UsageError
from glassrt.engine.maps.mapfile import NOT_ANALYSED
from glassrt.engine.production.journal import JOURNAL
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.pictures.images import read_image

FILES = ["map.ome.tif", "overlay.png", "regions.geojson", "result.json"]
BUNDLE = open_bundle(PSPNET)


@pytest.fixture(scope="module")
def backend() -> Backend:
    return open_backend(BUNDLE)


@pytest.fixture(scope="module")
def demo_folder(demo_slide: Path, backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "slide"
    with open_slide(demo_slide) as slide:
        score(slide, BUNDLE, folder, backend)
    return folder


def test_a_slide_gets_its_four_files_and_nothing_else(demo_folder: Path) -> None:
    assert sorted(path.name for path in demo_folder.iterdir()) == FILES
    assert [path.name for path in demo_folder.parent.iterdir()] == ["slide"]


def test_the_files_agree_with_each_other(demo_folder: Path) -> None:
    result = json.loads((demo_folder / "result.json").read_text())
    features = json.loads((demo_folder / "regions.geojson").read_text())["features"]
    classes = tifffile.imread(demo_folder / "map.ome.tif")[0]
    pixel_mm2 = result["map"]["mpp"] ** 2 / 1e6
    assert result["classes"]["gland"]["regions"] == len(features)
    assert result["classes"]["gland"]["area_mm2"] == pytest.approx((classes == 1).sum() * pixel_mm2)
    assert result["classes"]["other"]["area_mm2"] == pytest.approx((classes == 0).sum() * pixel_mm2)
    assert result["analysed_mm2"] == pytest.approx((classes != NOT_ANALYSED).sum() * pixel_mm2)
    whole_mm2 = 2220 * 2967 * 0.499**2 / 1e6
    assert classes.size * pixel_mm2 == pytest.approx(whole_mm2)
    assert 0 < result["tissue_mm2"] < result["analysed_mm2"] < whole_mm2
    assert result["bundle"]["sha256"] == BUNDLE.sha256
    assert result["windows"]["run"] > 0 < result["windows"]["skipped"]
    assert set(result["seconds"]) == {"tissue", "read", "cut", "infer", "stitch", "write", "total"}
    overlay = cv2.imread(str(demo_folder / "overlay.png"))
    assert overlay.shape[0] / overlay.shape[1] == pytest.approx(2967 / 2220, rel=0.01)


def test_glands_are_found_where_they_are(data: Path, backend: Backend, tmp_path: Path) -> None:
    """The map of a labelled image, as users get it, against its mask."""
    pixels = read_image(data / "glas" / "testA_1.bmp")
    truth = cv2.imread(str(data / "glas" / "testA_1_anno.bmp"), cv2.IMREAD_UNCHANGED) > 0
    result = score(ArraySlide(pixels, 0.62005), BUNDLE, tmp_path / "out", backend, map_mpp=0.62005)
    classes = tifffile.imread(tmp_path / "out" / "map.ome.tif")[0]
    assert classes.shape == truth.shape
    found = classes == 1
    assert (found & truth).sum() / (found | truth).sum() > 0.7
    assert result.classes["gland"].regions > 0


def test_a_slide_without_tissue_gets_a_result_that_says_so(data: Path, backend: Backend, tmp_path: Path) -> None:
    pixels = read_image(data / "slides" / "tissue" / "almost-white-1.png")
    result = score(ArraySlide(pixels, 0.5), BUNDLE, tmp_path / "out", backend)
    assert result.note.startswith("no tissue found")
    assert result.windows["run"] == 0
    assert result.classes["gland"].area_mm2 == 0
    assert (tifffile.imread(tmp_path / "out" / "map.ome.tif")[0] == NOT_ANALYSED).all()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0)])
def test_tissue_is_what_a_mask_says_or_all_of_the_slide(
    demo_slide: Path, backend: Backend, tmp_path: Path, scales: tuple[float, ...]
) -> None:
    """GeoJSON, an image and an array of one area give one result; `all` analyses every pixel."""
    corners = [[400, 1000], [1100, 1000], [1100, 1800], [400, 1800], [400, 1000]]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [corners]}))
    mask = np.zeros((2967, 2220), np.uint8)
    mask[1000:1800, 400:1100] = 255
    cv2.imwrite(str(tmp_path / "a.png"), mask)
    bundle = BUNDLE.replace(scales)
    results = []
    for number, tissue in enumerate((tmp_path / "a.geojson", str(tmp_path / "a.png"), mask > 0, "all")):
        with open_slide(demo_slide) as slide:
            results.append(score(slide, bundle, tmp_path / str(number), backend, tissue=tissue))
    outlined, image, array, whole = results
    assert outlined.tissue.source == str(tmp_path / "a.geojson")
    assert image.tissue_mm2 == array.tissue_mm2 == pytest.approx(700 * 800 * 0.499e-3**2)
    assert outlined.tissue_mm2 == pytest.approx(image.tissue_mm2, rel=0.005)
    assert outlined.windows == image.windows == array.windows
    assert array.tissue.source == "mask"
    assert array.classes["gland"] == image.classes["gland"]
    assert whole.windows["skipped"] == 0
    assert whole.tissue_mm2 == pytest.approx(whole.analysed_mm2)
    for result in results:
        assert 0 <= result.classes["gland"].tissue_fraction <= 1  # type: ignore[operator]
        assert result.warnings == ()


def test_what_is_no_bright_field_picture_is_an_error_and_no_empty_result(
    demo_slide: Path, backend: Backend, tmp_path: Path
) -> None:
    inverted = ArraySlide(255 - tifffile.imread(demo_slide), 0.499)
    with pytest.raises(SlideError, match="not a bright-field picture"):
        score(inverted, BUNDLE, tmp_path / "out", backend)
    assert not list(tmp_path.iterdir())
    result = score(inverted, BUNDLE, tmp_path / "out", backend, tissue="all")
    assert ["not a bright-field" in result.warnings[0], "not stained like" in result.warnings[1]] == [True, True]


@pytest.mark.parametrize("shape", [(1, 1), (7, 900), (64, 64)])
def test_the_smallest_images_are_scored(data: Path, backend: Backend, tmp_path: Path, shape: tuple[int, int]) -> None:
    pixels = read_image(data / "glas" / "train_1.bmp")[: shape[0], :]
    pixels = np.ascontiguousarray(np.tile(pixels, (1, 2, 1))[:, : shape[1]])
    result = score(ArraySlide(pixels, 0.62005), BUNDLE, tmp_path / "out", backend)
    assert result.map["size"] == (max(1, round(shape[1] / 4)), max(1, round(shape[0] / 4)))


@pytest.mark.parametrize("map_mpp", [3.0, 100.0, 5000.0])
def test_maps_of_any_coarseness_are_written(demo_slide: Path, backend: Backend, tmp_path: Path, map_mpp: float) -> None:
    with open_slide(demo_slide) as slide:
        result = score(slide, BUNDLE, tmp_path / "out", backend, map_mpp)
    width, height = result.map["size"]
    assert width == max(1, round(2220 * 0.499 / map_mpp))
    assert tifffile.imread(tmp_path / "out" / "map.ome.tif").shape == (2, height, width)
    coarse = any(f"map pixels of {result.map['mpp']:.3g} micrometres" in line for line in result.warnings)
    assert coarse == (map_mpp > 15)


@pytest.mark.parametrize(
    ("mpp", "map_mpp", "says"),
    [
        (3.0, None, "too coarse"),
        (0.5, 0.01, "finer than"),
        (0.5, float("nan"), "finer than"),
        (0.5, float("inf"), "inf"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    data: Path, backend: Backend, tmp_path: Path, mpp: float, map_mpp: float | None, says: str
) -> None:
    pixels = read_image(data / "glas" / "train_1.bmp")
    with pytest.raises(GlassError, match=says):
        score(ArraySlide(pixels, mpp), BUNDLE, tmp_path / "out", backend, map_mpp)
    assert list(tmp_path.iterdir()) == []


def test_scoring_again_replaces_the_older_result(demo_slide: Path, backend: Backend, tmp_path: Path) -> None:
    (tmp_path / "slide").mkdir()
    (tmp_path / "slide" / "result.json").write_text("older")
    (tmp_path / "slide" / "overlay.png").write_text("older")
    with open_slide(demo_slide) as slide:
        score(slide, BUNDLE, tmp_path / "slide", backend)
    assert sorted(path.name for path in (tmp_path / "slide").iterdir()) == FILES
    assert (tmp_path / "slide" / "overlay.png").read_bytes() != b"older"


@pytest.mark.parametrize("theirs", ["Slidedat.ini", None])
def test_what_glassrt_did_not_write_is_never_replaced(
    demo_slide: Path, backend: Backend, tmp_path: Path, theirs: str | None
) -> None:
    """A MIRAX slide's data folder, and a slide without a suffix, stand where the results would go."""
    if theirs:
        (tmp_path / "slide").mkdir()
        (tmp_path / "slide" / theirs).write_text("precious")
    else:
        (tmp_path / "slide").write_text("precious")
    with open_slide(demo_slide) as slide, pytest.raises(OutputError, match="not written by GlassRT"):
        score(slide, BUNDLE, tmp_path / "slide", backend)
    assert [path.name for path in tmp_path.iterdir()] == ["slide"]
    assert (tmp_path / "slide" / (theirs or "")).read_text() == "precious"


def test_a_folder_in_the_way_is_told_before_any_slide_is_scored(demo_slide: Path, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "Slidedat.ini").write_text("precious")
    with pytest.raises(OutputError, match="not written by GlassRT"):
        score_here([demo_slide, Path("second.mrxs")], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"second", LOCK, JOURNAL}
    assert [path.name for path in (tmp_path / "second").iterdir()] == ["Slidedat.ini"]
    assert (tmp_path / "second" / "Slidedat.ini").read_text() == "precious"


@pytest.mark.parametrize("damage", [bytes(3000), b"\xff" * 3000])
def test_a_tile_that_is_damaged_inside_is_not_scored(
    demo_slide: Path, backend: Backend, tmp_path: Path, damage: bytes
) -> None:
    """The tile's header stays whole: only its picture data are overwritten."""
    with tifffile.TiffFile(demo_slide) as file:
        page = file.pages[0]
        start = page.dataoffsets[30] + page.databytecounts[30] // 2
        length = page.databytecounts[30] // 2 - 2
    content = bytearray(demo_slide.read_bytes())
    content[start : start + min(length, 3000)] = damage[: min(length, 3000)]
    (tmp_path / "broken.svs").write_bytes(content)
    with pytest.raises(SlideError, match="damaged at"), open_slide(tmp_path / "broken.svs") as slide:
        score(slide, BUNDLE, tmp_path / "out", backend)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.svs"]


def test_a_slide_that_breaks_in_the_middle_leaves_nothing(demo_slide: Path, backend: Backend, tmp_path: Path) -> None:
    content = bytearray(demo_slide.read_bytes())
    content[800_000:1_000_000] = bytes(200_000)
    broken = tmp_path / "broken.svs"
    broken.write_bytes(content)
    with pytest.raises(SlideError, match="damaged at"), open_slide(broken) as slide:
        score(slide, BUNDLE, tmp_path / "out", backend)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.svs"]


def test_one_bad_slide_among_many_does_not_stop_the_rest(data: Path, demo_slide: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "missing.svs", data / "slides" / "broken.svs", demo_slide]
    outcomes = score_here(paths, tmp_path / "out", backend="auto", precision="auto")
    assert [outcome.status for outcome in outcomes] == ["failed", "failed", "scored"]
    assert "does not exist" in outcomes[0].error
    with open(tmp_path / "out" / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["failed", "failed", "scored"]
    assert float(rows[2]["tissue_mm2"]) > 0
    assert rows[1]["error"] == outcomes[1].error
    assert list_slides(tmp_path / "out") == [demo_slide.stem]


def test_slides_of_one_name_get_folders_of_their_own(demo_slide: Path, tmp_path: Path) -> None:
    twin = Path(shutil.copy(demo_slide, tmp_path))
    first, second = score_here([demo_slide, twin], tmp_path / "out", backend="auto", precision="auto")
    names = list_slides(tmp_path / "out")
    results = [json.loads((tmp_path / "out" / name / "result.json").read_text()) for name in names]
    assert {result["slide"]["file"] for result in results} == {str(demo_slide.resolve()), str(twin)}
    assert all(name.startswith(f"{demo_slide.stem}-") for name in names)
    assert first.result is not None
    assert second.result is not None
    assert first.result.classes == second.result.classes


@pytest.mark.parametrize("name", ["ort", "openvino"])
def test_a_backend_says_what_really_runs(name: str) -> None:
    opened = open_backend(BUNDLE, name, batch=2)
    assert (opened.name, opened.device, opened.batch) == (name, "CPU", 2)
    assert opened.version in importlib.metadata.version("onnxruntime" if name == "ort" else name)
    opened.close()


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(UsageError, match="choose auto, ort, openvino"):
        open_backend(BUNDLE, "tensorflow")


def test_both_builds_of_onnx_runtime_at_once_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "onnxruntime_gpu"):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BackendUnavailable, match="pip uninstall"):
        open_backend(BUNDLE, "ort")
