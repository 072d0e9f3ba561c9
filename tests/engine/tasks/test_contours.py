"""Bundles that tell touching regions apart: the same whether a slide is scored whole, while it is scanned, or as an
image in memory.
"""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import small_bundle
import tifffile
from made_tiffs import stained
from scanned import assert_same, at_random, open_push, push_all

from glassrt.engine import ArraySlide, ScanSession, score
from glassrt.engine.bundles.bundle import Bundle, open_bundle
from glassrt.engine.bundles.manifest import decode_manifest
from glassrt.engine.errors import BundleError
from glassrt.engine.maps.instances import insides, tell_apart
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.tasks.segment import map_image

MPP = 0.5


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(small_bundle.make_bundle(tmp_path_factory.mktemp("contours") / "small.glass", contours=True))


@pytest.fixture(scope="module")
def backend(bundle: Bundle) -> Iterator[Backend]:
    with closing(open_backend(bundle, "ort", precision="fp32")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Tissue in stripes and spots of every darkness."""
    rows, columns = np.indices((700, 1300))
    shade = 0.6 + 0.4 * np.sin(rows / 23) * np.sin(columns / 31)
    return (stained(1300, 700, seed=3) * shade[..., None]).astype(np.uint8)


def test_a_slide_gets_one_polygon_a_thing(bundle: Bundle, backend: Backend, pixels: np.ndarray, tmp_path: Path) -> None:
    score(ArraySlide(pixels, MPP), bundle, tmp_path / "whole", backend, tissue="all", map_mpp=MPP)
    stored = tifffile.imread(tmp_path / "whole" / "map.ome.tif")
    assert len(stored) == 2  # the contour is part of its class
    features = json.loads((tmp_path / "whole" / "regions.geojson").read_text())["features"]
    found = map_image(pixels, MPP, bundle, backend)
    assert found.contour is not None
    assert np.abs(found.probabilities.sum(axis=0) - 1).max() < 1e-5
    assert (found.contour <= found.probabilities[1] + 1e-6).all()
    gland, contour = (np.rint(255 * each).astype(np.uint8) for each in (found.probabilities[1], found.contour))
    mask = found.probabilities.argmax(axis=0) == 1
    assert np.array_equal(stored[0] == 1, mask)
    smallest = bundle.segmentation.smallest_region_um2 / MPP**2
    labels = tell_apart(mask, insides(gland, contour), smallest)
    assert smallest == 80
    assert len(features) == labels.max() > 10 * tell_apart(mask, np.ones_like(mask), smallest).max()
    areas = sorted(each["properties"]["measurements"]["Area um^2"] for each in features)
    assert np.allclose(areas, np.sort(np.bincount(labels.ravel())[1:] * MPP**2), atol=1e-3)


def test_a_scan_gives_the_same_files(bundle: Bundle, backend: Backend, pixels: np.ndarray, tmp_path: Path) -> None:
    score(ArraySlide(pixels, MPP), bundle, tmp_path / "whole", backend, overview=pixels[::8, ::8])
    told: list[str] = []
    planes: set[int] = set()
    with ScanSession(
        bundle, open_push(pixels, 256, MPP), tmp_path / "scan", pixels[::8, ::8], backend,
        on_map=lambda tile: planes.add(len(tile.probabilities)), on_region=lambda region, feature: told.append(feature),
    ) as session:  # fmt: skip
        push_all(session, pixels, at_random((1300, 700), 256), 256)
        session.finish()
    assert_same(tmp_path / "scan", tmp_path / "whole")
    assert planes == {1}
    assert len(told) == len(json.loads((tmp_path / "whole" / "regions.geojson").read_text())["features"]) > 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contour_of": "other"}, "names 'other', which is no class but the background: expected one of gland"),
        ({"contour_of": "vessel"}, "names 'vessel'"),
        ({"smallest_um2": 0}, "smallest_um2"),
        ({"teachers": [{"name": "a", "sha256": "0" * 64, "scales": [], "flips": False}]}, r"length.*scales"),
        ({"teachers": [{"name": "a", "sha256": "B" * 64, "scales": [1.0], "flips": False}]}, r"\^\[0-9a-f\].*sha256"),
        ({"teachers": []}, r"length.*teachers"),
    ],
)
def test_a_manifest_that_means_nothing_is_refused(bundle: Bundle, change: dict[str, object], message: str) -> None:
    manifest = small_bundle.read_manifest(bundle.path) | change
    with pytest.raises(BundleError, match=message):
        decode_manifest(json.dumps(manifest).encode())


def test_a_graph_without_the_plane_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    plain = small_bundle.make_bundle(tmp_path / "plain.glass")
    small_bundle.write_manifest(plain, small_bundle.read_manifest(plain) | {"contour_of": "gland"})
    with pytest.raises(BundleError, match=r"gives .*2, 4, 4"):
        open_bundle(plain).read_graph()


def test_classes_are_told_with_their_contours(bundle: Bundle) -> None:
    logits = np.array([1.0, 0.9, 0.8], np.float32).reshape(1, 3, 1, 1)
    assert bundle.segmentation.classify({"logits": logits}) == [[[1]]]  # 0.9 and 0.8 together are more than 1.0
    assert bundle.segmentation.classify({"logits": logits - np.array([0, 2, 2]).reshape(1, 3, 1, 1)}) == [[[0]]]
