"""Slides and outlines in the layout of CAMELYON16, and the truth they give."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from made_camelyon16 import HOLE, LESION, SIZE, Drawn, annotations, make_testing, make_training, rectangle, write_slide
from numpy.typing import NDArray

from glassrt.engine.errors import DatasetError
from glassrt.engine.geometry.boxes import Box
from glassrt.engine.slides.readers import open_slide
from glassrt.training.datasets import asap, camelyon16, drawings
from glassrt.training.datasets.weak import WeakSlide

WHOLE = Box(0, 0, *SIZE)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_training(folder / "CAMELYON16", 2, 1)
    make_testing(folder / "CAMELYON16", {2: "Normal", 10: "Tumor", 1: "Tumor", 114: "Tumor"})
    return folder


def whole(slide: WeakSlide) -> NDArray[np.uint8]:
    """The classes of a slide at level 0."""
    assert slide.truth is not None
    return slide.truth.cut(WHOLE, SIZE)


def drawn_as(folder: Path, content: str | bytes) -> NDArray[np.uint8]:
    """The classes of the malign training slide whose outlines are `content`."""
    place = folder / "training"
    for path in ("tumor/tumor_001.tif", "normal/normal_001.tif"):
        write_slide(place / path, np.full((SIZE[1], SIZE[0], 3), 200, np.uint8))
    (place / "lesion_annotations").mkdir()
    (place / "lesion_annotations" / "tumor_001.xml").write_bytes(
        content.encode() if isinstance(content, str) else content
    )
    return whole(camelyon16.find_slides(folder, "train")[1])


@pytest.mark.parametrize("named", ["", "CAMELYON16"])
def test_slides_have_the_labels_of_their_folder_or_the_reference(made: Path, named: str) -> None:
    train = camelyon16.find_slides(made / named, "train")
    assert [(slide.name, slide.malign) for slide in train] == [
        ("normal_001", False),
        ("normal_002", False),
        ("tumor_001", True),
    ]
    test = camelyon16.find_slides(made / named, "test")
    assert [(slide.name, slide.malign) for slide in test] == [
        ("test_001", True),
        ("test_002", False),
        ("test_010", True),
        ("test_114", True),
    ]
    for slide in (*train, *test):
        with open_slide(slide.path) as opened:
            assert opened.levels[0].size == SIZE


def test_truths_are_the_outlines_of_folder_and_archive(made: Path) -> None:
    expected = np.zeros(SIZE[::-1], np.uint8)
    expected[160:301, 200:361] = 1
    for slide in (*camelyon16.find_slides(made, "train"), *camelyon16.find_slides(made, "test")[:3]):
        assert np.array_equal(whole(slide), expected * slide.malign), slide.name


def test_the_slide_that_is_not_outlined_in_full_has_its_label_alone(made: Path) -> None:
    last = camelyon16.find_slides(made, "test")[-1]
    assert (last.name, last.malign, last.truth) == ("test_114", True, None)


def test_labels_are_enough_to_learn_from(tmp_path: Path) -> None:
    place = make_training(tmp_path, 1, 1)
    (place / "lesion_annotations" / "tumor_001.xml").unlink()
    with pytest.raises(DatasetError, match=r"tumor_001\.xml is missing"):
        camelyon16.find_slides(tmp_path, "train")
    (place / "lesion_annotations").rmdir()
    slides = camelyon16.find_slides(tmp_path, "train")
    assert [(slide.malign, slide.truth) for slide in slides] == [(False, None), (True, None)]


@pytest.mark.parametrize("group", ["Tumor", "_0", "_1"])
@pytest.mark.parametrize("cut", ["_2", "Exclusion"])
@pytest.mark.parametrize("first", [True, False])
def test_what_is_cut_out_is_benign_whatever_the_order(tmp_path: Path, group: str, cut: str, first: bool) -> None:
    drawn: Sequence[Drawn] = [LESION._replace(group=group), HOLE._replace(group=cut)]
    classes = drawn_as(tmp_path, annotations(drawn[::-1] if first else drawn))
    assert classes[170, 210] == 1
    assert not classes[200:240, 240:280].any()
    assert classes[199, 250] == classes[240, 250] == 1


def test_coordinates_have_their_order(tmp_path: Path) -> None:
    """A square whose corners are written crosswise would be an hourglass."""
    corners = rectangle(10, 10, 50, 50)
    written = "".join(f'<Coordinate Order="{n}" X="{corners[n][0]}" Y="{corners[n][1]}"/>' for n in (0, 2, 1, 3))
    annotation = f'<Annotation Type="Polygon" PartOfGroup="Tumor"><Coordinates>{written}</Coordinates></Annotation>'
    classes = drawn_as(tmp_path, f"<ASAP_Annotations>{annotation}</ASAP_Annotations>")
    assert (classes == 1).sum() == 40 * 40


def test_without_an_order_coordinates_stay_as_written(tmp_path: Path) -> None:
    classes = drawn_as(tmp_path, annotations([Drawn(rectangle(10, 10, 50, 50))]).replace("Order", "Number"))
    assert (classes == 1).sum() == 40 * 40


def test_what_has_no_area_is_left_out(tmp_path: Path) -> None:
    drawn = [
        Drawn([(5, 5)], "Tumor", "Dot"),
        Drawn(rectangle(0, 0, 9, 9), "Tumor", "PointSet"),
        Drawn([(5, 5), (500, 300)], "Tumor", "Measurement"),
        Drawn([(5, 5), (500, 300)], "Tumor", "Polygon"),
        Drawn([], "Tumor", "Polygon"),
        Drawn(rectangle(10, 10, 50, 50), "Tumor", "Rectangle"),
    ]
    assert (drawn_as(tmp_path, annotations(drawn)) == 1).sum() == 40 * 40


LAUGHS = "".join(f'<!ENTITY b{n} "{f"&b{n - 1};" * 10}">' for n in range(1, 10))
NESTED = annotations().replace("<Coordinates>", LESION.xml() + "<Coordinates>")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", " is empty"),
        ("no XML", " is no sound XML .*line 1"),
        (annotations()[:-9], " is no sound XML"),
        ("<Annotations/>", " has no element ASAP_Annotations"),
        (annotations(()), r" outlines no metastasis, but tumor_001\.tif has one"),
        (annotations([HOLE]), " outlines no metastasis"),
        (annotations([Drawn(LESION.corners, "Other", name="A 7")]), ": 'A 7' is in the group 'Other', which CAM"),
        (annotations([Drawn(LESION.corners, "")]), ": .* is in the group ''"),
        (
            annotations([Drawn([(1, 2), ("nan", 2), (3, 4)], name="B")]),
            r" has X 'nan' in annotation 1 \('B'\), vertex 2",
        ),
        (annotations([Drawn([(1, 2), (2, 1e9), (3, 4)])]), r" has Y '1000000000\.0' in annotation 1 .*, vertex 2"),
        (annotations([LESION, Drawn([(1, "1&#10;2")])]), r" has Y '1\\n2' in annotation 2"),
        (NESTED, r" has an annotation within annotation 1 \('Annotation 0'\)"),
        ("<a>" * 40, " nests elements over 32 deep"),
        (f'<!DOCTYPE a [<!ENTITY b0 "ha">{LAUGHS}]><a>&b9;</a>', " declares a document type"),
        (f'<!DOCTYPE a SYSTEM "file:///etc/passwd">{annotations()}', " declares a document type"),
    ],
)
def test_outlines_that_cannot_be_true_are_refused_in_a_line(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(DatasetError, match=rf"tumor_001\.xml{says}") as told:
        drawn_as(tmp_path, content)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 300 + len(str(tmp_path))


def test_outlines_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawings, "MOST_REGIONS", 2)
    monkeypatch.setattr(drawings, "MOST_VERTICES", 9)
    assert len(asap.parse_outlines(annotations([LESION, HOLE]).encode(), "a.xml")) == 2
    with pytest.raises(DatasetError, match=r"a\.xml has over 2 regions"):
        asap.parse_outlines(annotations([Drawn([])] * 3).encode(), "a.xml")
    with pytest.raises(DatasetError, match=r"a\.xml has over 9 vertices"):
        asap.parse_outlines(annotations([Drawn([(1, 1)] * 10)]).encode(), "a.xml")
    monkeypatch.setattr(drawings, "MOST_BYTES", 50)
    archive = tmp_path / "lesion_annotations.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.xml", b" " * 1000)
    with pytest.raises(DatasetError, match=r"zip: a\.xml has 1000 bytes, no annotations have over 50"):
        camelyon16.read_packed(archive, "a.xml")


def test_archives_that_are_broken_are_refused_in_a_line(tmp_path: Path) -> None:
    archive = tmp_path / "lesion_annotations.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.xml", annotations())
        packed.writestr("one/b.xml", annotations())
        packed.writestr("two/b.xml", annotations())
    assert len(camelyon16.read_packed(archive, "a.xml")) == 1
    for name, times in (("b.xml", 2), ("c.xml", 0)):
        with pytest.raises(DatasetError, match=rf"zip holds {name} {times} times, expected once"):
            camelyon16.read_packed(archive, name)
    content = bytearray(archive.read_bytes())
    content[60:90] = bytes(30)
    archive.write_bytes(content)
    with pytest.raises(DatasetError, match=r"zip: a\.xml cannot be read \(.*\); fetch it again"):
        camelyon16.read_packed(archive, "a.xml")
    archive.write_bytes(content[:-10])
    with pytest.raises(DatasetError, match=r"zip: a\.xml cannot be read"):
        camelyon16.read_packed(archive, "a.xml")


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("test_001,Tumor,IDC,Macro\ntest_002,Maybe\n", "row 2: 'Maybe' is neither Normal nor Tumor"),
        ("test_001\n", "row 1: '' is neither"),
        ("test_001,Tumor\ntest_001.tif,Tumor\n", "row 2: test_001 is listed twice"),
        ("test_001,Tumor\nother,Tumor\n", "row 2: 'other' is no test slide"),
        ("slide,label\n", r"reference\.csv lists no slide"),
        ("", r"reference\.csv lists no slide"),
        ("test_001,Tumor\ntest_099,Normal\n", r"test_099\.tif is missing: reference\.csv lists it"),
        (b"test_001,T\xfcmor\n", "cannot be read as a table in UTF-8"),
    ],
)
def test_a_reference_that_cannot_be_true_is_refused(tmp_path: Path, table: str | bytes, says: str) -> None:
    place = make_testing(tmp_path, {1: "Tumor"})
    (place / "reference.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(DatasetError, match=says) as told:
        camelyon16.find_slides(tmp_path, "test")
    assert "\n" not in str(told.value)


def test_a_reference_may_have_a_header_and_whole_names(tmp_path: Path) -> None:
    place = make_testing(tmp_path, {1: "Tumor", 2: "Normal"})
    (place / "reference.csv").write_text("\ufeffimage, type\ntest_002.tif,normal\ntest_001.tif, Tumor\n")
    assert [(slide.name, slide.malign) for slide in camelyon16.find_slides(tmp_path, "test")] == [
        ("test_001", True),
        ("test_002", False),
    ]


def test_what_is_none_of_the_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no split 'validation'; choose one of train, test"):
        camelyon16.find_slides(tmp_path, "validation")
    with pytest.raises(DatasetError, match="no folder training here; --data must name"):
        camelyon16.find_slides(tmp_path, "train")
    (tmp_path / "training" / "normal").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"normal: no normal_001\.tif or others here"):
        camelyon16.find_slides(tmp_path, "train")
    (tmp_path / "training" / "normal" / "normal_001.tif").touch()
    with pytest.raises(DatasetError, match=r"tumor: no tumor_001\.tif or others here"):
        camelyon16.find_slides(tmp_path, "train")
    (tmp_path / "testing").mkdir()
    with pytest.raises(DatasetError, match=r"reference\.csv cannot be read as a table in UTF-8 \(.*No such file"):
        camelyon16.find_slides(tmp_path, "test")
