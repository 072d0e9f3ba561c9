"""Sets of patches with a class each, from small files of the published layouts."""

import gzip
import os
import shutil
from collections import Counter
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from made_crchisto import make_image

from glassrt.engine.errors import DatasetError
from glassrt.training.datasets import crchisto, kather, labelled_patches, nuclei, pcam

SIDE = pcam.SIDE


def paint(path: Path, value: int, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((side, side, 3), value, np.uint8))


def test_a_folder_is_a_class(tmp_path: Path) -> None:
    for split, values in (("train", (1, 2)), ("test", (3,))):
        for value in values:
            paint(tmp_path / split / "b" / f"{value}.png", 10 * value)
            paint(tmp_path / split / "a" / f"{value}.tif", 100 + value)
    (tmp_path / "train" / "a" / "notes.txt").write_text("no image")
    found = labelled_patches.find_patches(tmp_path, "train")
    assert found.classes == ("a", "b")
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert [int(found.load(at)[0, 0, 0]) for at in range(4)] == [101, 102, 10, 20]
    assert labelled_patches.find_patches(tmp_path / "test", "all").labels.tolist() == [0, 1]


def test_folders_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    paint(tmp_path / "train" / "a" / "1.png", 1)
    with pytest.raises(
        DatasetError, match="train: a set of patches has a folder for each of two classes or more, found 1"
    ):
        labelled_patches.find_patches(tmp_path, "train")
    (tmp_path / "train" / "b").mkdir()
    with pytest.raises(DatasetError, match="b holds no image of the class 'b'"):
        labelled_patches.find_patches(tmp_path, "train")
    with pytest.raises(DatasetError, match=r"test does not exist: name a split .* or `--split all`"):
        labelled_patches.find_patches(tmp_path, "test")


def make_kather(folder: Path) -> Path:
    for number, name in enumerate(kather.CLASSES, start=1):
        for slide in ("01", "05", "10"):
            paint(folder / f"{number:02}_{name}" / f"1A_CRC-Prim-HE-{slide}_{number}_Row_1_Col_1.tif", number, 150)
    return folder


@pytest.mark.parametrize("place", [".", "Kather_texture_2016_image_tiles_5000", "kather"])
def test_slides_of_kather_are_in_one_split(tmp_path: Path, place: str) -> None:
    make_kather(tmp_path / place)
    train, test = (kather.find_patches(tmp_path, split) for split in ("train", "test"))
    assert Counter(train.labels.tolist()) == dict.fromkeys(range(8), 2)
    assert test.labels.tolist() == [*range(8)]
    assert [int(test.load(at).mean()) for at in range(8)] == [*range(1, 9)]
    assert test.load(0).shape == (150, 150, 3)
    assert test.mpp == 0.495
    assert len(kather.find_patches(tmp_path, "all").labels) == 24
    assert ({*train.sources}, {*test.sources}) == ({"HE-01", "HE-05"}, {"HE-10"})


def test_what_is_not_kathers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no 01_TUMOR and others here"):
        kather.find_patches(tmp_path, "test")
    make_kather(tmp_path)
    with pytest.raises(DatasetError, match="no split 'valid'; choose one of train, test, all"):
        kather.find_patches(tmp_path, "valid")
    paint(tmp_path / "02_STROMA" / "other.tif", 1)
    with pytest.raises(DatasetError, match=r"other\.tif: the name does not say the slide"):
        kather.find_patches(tmp_path, "test")


def make_pcam(folder: Path, labels: tuple[int, ...] = (0, 1, 1)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    name = "camelyonpatch_level_2_split_valid"
    with h5py.File(folder / f"{name}_x.h5", "w") as file:
        file["x"] = np.stack([np.full((SIDE, SIDE, 3), at, np.uint8) for at in range(3)])
    with h5py.File(folder / f"{name}_y.h5", "w") as file:
        file["y"] = np.array(labels, np.uint8).reshape(-1, 1, 1, 1)
    return folder


def test_pcam_is_read_patch_by_patch(tmp_path: Path) -> None:
    found = pcam.find_patches(make_pcam(tmp_path / "pcam").parent, "validation")
    assert found.labels.tolist() == [0, 1, 1]
    assert found.load(2).shape == (SIDE, SIDE, 3)
    assert found.load(2).mean() == 2
    assert not found.sources
    table = tmp_path / "pcam" / "camelyonpatch_level_2_split_valid_meta.csv"
    table.write_text("coord_y,coord_x,wsi\n1,2,a\n1,3,a\n5,5,b\n")
    assert pcam.find_patches(tmp_path, "validation").sources == ["a", "a", "b"]
    table.write_text("coord_y,coord_x,wsi\n1,2,a\n1,3,a\n")
    with pytest.raises(DatasetError, match=r"meta\.csv does not name a slide \(column wsi\) for each of 3 patches"):
        pcam.find_patches(tmp_path, "validation")


def test_what_is_not_pcam_is_refused(tmp_path: Path) -> None:
    folder, name = make_pcam(tmp_path), "camelyonpatch_level_2_split_valid"
    with pytest.raises(DatasetError, match="no split 'valid'; choose one of train, validation, test"):
        pcam.find_patches(folder, "valid")
    with pytest.raises(DatasetError, match=r"test_x\.h5 is missing: --data must name the folder"):
        pcam.find_patches(folder, "test")
    for broken, said in (
        ({"labels": (0, 1)}, "3 patches of validation but 2 labels"),
        ({"labels": (0, 1, 7)}, "labels of validation go up to 7"),
    ):
        with pytest.raises(DatasetError, match=said):
            pcam.find_patches(make_pcam(folder, **broken), "validation")
    folder = make_pcam(tmp_path / "others")
    packed = folder / f"{name}_x.h5"
    with h5py.File(packed, "w") as file:
        file.create_dataset(
            "x",
            data=np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8),
            chunks=(1, SIDE, SIDE, 3),
            compression="gzip",
        )
        place = file["x"].id.get_chunk_info(1)
    damaged = bytearray(packed.read_bytes())
    damaged[place.byte_offset : place.byte_offset + place.size] = bytes(place.size)
    packed.write_bytes(damaged)
    found = pcam.find_patches(folder, "validation")
    with pytest.raises(DatasetError, match=r"_x\.h5 is damaged .*: download it again"):
        found.load(1)
    folder = make_pcam(tmp_path / "third")
    with h5py.File(folder / f"{name}_x.h5", "w") as file:
        file["pixels"] = np.zeros((3, SIDE, SIDE, 3), np.uint8)
    with pytest.raises(DatasetError, match=r"no table under 'x', expected uint8 \[N, 96, 96, 3\]"):
        pcam.find_patches(folder, "validation")
    (folder / f"{name}_x.h5").write_bytes(b"no HDF5")
    with pytest.raises(DatasetError, match="is no HDF5 file"):
        pcam.find_patches(folder, "validation")
    (folder / f"{name}_x.h5").unlink()
    (folder / f"{name}_x.h5.gz").write_bytes(gzip.compress(b"packed"))
    with pytest.raises(DatasetError, match=rf"is missing: unpack {name}_x\.h5\.gz \(gunzip\)"):
        pcam.find_patches(folder, "validation")


def test_nuclei_have_their_type_and_image(tmp_path: Path) -> None:
    for number in range(1, 6):
        make_image(tmp_path, number, fibroblast=[[10.0, 20.0]], others=[[30.0, 40.0], [5.0, 5.0]])
    train, test = (nuclei.find_patches(tmp_path, split) for split in ("train", "test"))
    assert test.labels.tolist() == [1, 3, 3]
    assert train.labels.tolist() == [1, 3, 3] * 4
    assert test.sources == ["img5"] * 3
    # MATLAB's pixels begin at 1: the nucleus at (10, 20) lies in column 9 and row 19
    assert test.load(0)[13, 13].tolist() == [109, 119, 128]
    shutil.rmtree(tmp_path / "img5")
    with pytest.raises(DatasetError, match="too few images for a split test"):
        nuclei.find_patches(tmp_path, "test")
    with pytest.raises(DatasetError, match="no split 'half'"):
        nuclei.find_patches(tmp_path, "half")


@pytest.mark.skipif("GLASSRT_DATA" not in os.environ, reason="GLASSRT_DATA names no folder of the sets")
def test_the_sets_nuclei_are_all_there() -> None:
    found = nuclei.find_patches(Path(os.environ["GLASSRT_DATA"]), "all")
    assert Counter(found.labels.tolist()) == {0: 7722, 1: 5712, 2: 6971, 3: 2039}
    assert found.classes == crchisto.KINDS
