"""Slides and regions in the layout of BACH, and the class of every pixel they give."""

from pathlib import Path

import numpy as np
import pytest
from made_bach import REGIONS, SIZE, Drawn, annotations, make_set
from made_tiffs import stained, write_pages
from numpy.typing import NDArray

from glassrt.engine.errors import DatasetError, SlideError
from glassrt.engine.geometry.boxes import Box
from glassrt.training.datasets import aperio, bach, drawings
from glassrt.training.datasets.outlines import OutlineTruth

WHOLE = Box(0, 0, *SIZE)
SQUARE = ((10, 10), (50, 10), (50, 50), (10, 50))


def find_one(folder: Path) -> NDArray[np.uint8]:
    """The classes of the only slide of the test split at level 0."""
    (slide,) = bach.find_slides(folder, "test")
    return slide.truth.cut(WHOLE, SIZE)


def drawn_as(folder: Path, content: str | bytes) -> NDArray[np.uint8]:
    """The same of a slide beside which `content` lies."""
    path = make_set(folder) / "A05.xml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return find_one(folder)


def inside(x: float, y: float, ring: NDArray[np.float64]) -> bool:
    """Whether a point lies in a polygon: a ray to the right of it crosses the outline an odd number of times."""
    odd = False
    for (x0, y0), (x1, y1) in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            odd = not odd
    return odd


@pytest.mark.parametrize("named", ["", "ICIAR2018_BACH_Challenge", "ICIAR2018_BACH_Challenge/WSI"])
def test_the_slides_of_each_split_are_those_of_the_paper(tmp_path: Path, named: str) -> None:
    folder = make_set(tmp_path, range(1, 11))
    (folder / "A11.svs").touch()  # the challenge's further slides have no annotations
    (tmp_path / "ICIAR2018_BACH_Challenge" / "Photos").mkdir()
    for split, names in (("train", "01 02 03 04 06 07 08 09"), ("validation", "10"), ("test", "05")):
        slides = bach.find_slides(tmp_path / named, split)
        assert [slide.name for slide in slides] == [f"A{name}" for name in names.split()]
        assert [slide.path for slide in slides] == [folder / f"{slide.name}.svs" for slide in slides]


def test_pixels_have_the_class_of_the_last_region_over_them(tmp_path: Path) -> None:
    make_set(tmp_path)
    classes = find_one(tmp_path)
    # (x, y): in no region; in the first; in the second; in the second and in the third, which lies over it
    assert [classes[y, x] for x, y in ((290, 10), (5, 5), (110, 100), (200, 150))] == [0, 1, 2, 3]
    (tmp_path / "other").mkdir()
    make_set(tmp_path / "other", regions=REGIONS[::-1])
    other = find_one(tmp_path / "other")
    assert other[150, 200] == 2
    assert ((classes == 3) & (other == 2)).any()
    assert np.array_equal(classes > 0, other > 0)


@pytest.mark.parametrize(
    ("value", "text", "label"),
    [
        ("Benign", "", 1),
        ("BENIGN lesion", "", 1),
        ("In Situ", "", 2),
        ("Carcinoma in situ", "", 2),
        ("Invasive carcinoma of no special type", "", 3),
        ("invasive", "", 3),
        ("Invasive Carcinoma", "", 3),
        (None, "carcinoma IN SITU", 2),
        ("", "Benign", 1),
        (" ", "Benign", 1),
        ("Ductal carcinoma in situ, high grade", "", 2),
        ("Invasive", "Benign", 3),  # the attribute's value goes before the text
    ],
)
def test_labels_are_found_in_whatever_was_written(tmp_path: Path, value: str | None, text: str, label: int) -> None:
    classes = drawn_as(tmp_path, annotations(Drawn(SQUARE, value, text).xml()))
    assert set(np.unique(classes)) == {0, label}
    assert (classes == label).sum() == 40 * 40


@pytest.mark.parametrize("label", ["", "Benign", "cut out"])
def test_what_is_cut_out_of_a_region_is_normal(tmp_path: Path, label: str) -> None:
    """Wherever it lies over what was drawn before; whatever is drawn later lies over it."""
    hole = Drawn(((20, 20), (60, 20), (60, 30), (20, 30)), label, negative="1")
    last = Drawn(((20, 20), (25, 20), (25, 30), (20, 30)), "Invasive")
    classes = drawn_as(tmp_path, annotations("".join(each.xml() for each in (Drawn(SQUARE), hole, last))))
    expected = np.zeros_like(classes)
    expected[10:50, 10:50] = 1
    expected[20:30, 20:60] = 0
    expected[20:30, 20:25] = 3
    assert np.array_equal(classes, expected)


def test_elements_are_found_by_tag_wherever_they_stand(tmp_path: Path) -> None:
    vertices = "".join(f'<Vertex Y="{y}" X="{x}"/>' for x, y in SQUARE)
    odd = f'<Region><Vertices/><More>{vertices}<Attribute Value="in situ"/><Attribute Value="benign"/></More></Region>'
    classes = drawn_as(tmp_path, f"<?xml version='1.0'?><a><Annotations/><b><c>{odd}</c></b></a>")
    assert (classes == 2).sum() == 40 * 40


def test_an_outline_may_end_where_it_begins_or_not(tmp_path: Path) -> None:
    first = drawn_as(tmp_path / "open", annotations(Drawn(SQUARE).xml()))
    second = drawn_as(tmp_path / "closed", annotations(Drawn((*SQUARE, SQUARE[0])).xml()))
    assert np.array_equal(first, second)


def test_the_resolution_of_the_annotations_counts_only_where_the_slide_says_none(tmp_path: Path) -> None:
    folder = make_set(tmp_path)
    assert bach.find_slides(tmp_path, "test")[0].mpp is None
    write_pages(folder / "A05.svs", [(stained(*SIZE), {})], resolution=(1, 1), resolutionunit="NONE")
    (slide,) = bach.find_slides(tmp_path, "test")
    assert slide.mpp == 0.467
    assert (slide.truth.cut(WHOLE, SIZE) == 3).any()
    for said in ("", 'MicronsPerPixel="0"', 'MicronsPerPixel="nan"', 'MicronsPerPixel="1e9"', 'MicronsPerPixel="x"'):
        (folder / "A05.xml").write_text(annotations(REGIONS[0].xml(), said))
        with pytest.raises(DatasetError, match=r"A05\.svs does not say its resolution, nor does Micr.*A05\.xml"):
            bach.find_slides(tmp_path, "test")
    (folder / "A05.svs").write_bytes(b"no slide")
    with pytest.raises(SlideError, match=r"A05\.svs: not a slide"):
        bach.find_slides(tmp_path, "test")


RANDOM = np.random.default_rng(4)
RINGS = [
    RANDOM.uniform((-50, -50), (350, 270), (7, 2)),  # crosses itself and the border
    np.array([(-1e7, -2e6), (1.6e7, 3e5), (151.3, 9e6)]),  # far larger than the slide and every box
    np.array([(120.5, 60.25), (121.25, 60), (121, 61.5)]),  # within a pixel or two
    RANDOM.uniform((80, 40), (220, 180), (40, 2)),
    np.array([(20, 200), (90.5, 200), (90.5, 210), (20, 210), (20, 200)]),
    np.array([(30.2, 30.1), (30.2, 30.1), (30.2, 30.1)]),  # no area
    np.array([(150.3, 20), (150.4, 200), (150.35, 20)]),  # thinner than a pixel
]
LABELS = [1, 2, 3, 3, 1, 2, 1]


@pytest.mark.parametrize("grid", [SIZE, (150, 110), (75, 55), (201, 147), (601, 441)])
def test_a_pixel_has_the_class_at_its_centre(grid: tuple[int, int]) -> None:
    width, height = grid
    truth = OutlineTruth(SIZE, RINGS, LABELS)
    for box in (
        Box(0, 0, width, height),
        Box(width // 3, height // 4, width // 3 + 33, height // 4 + 21),
        Box(width - 20, height - 31, width + 15, height + 9),  # crosses the slide's border
        Box(-17, -5, 8, 12),
        Box(width // 2, height // 2, width // 2 + 1, height // 2 + 1),
    ):
        classes = truth.cut(box, grid)
        assert (classes.dtype, classes.shape) == (np.uint8, box.size[::-1])
        for row, column in np.ndindex(classes.shape) if width < 200 else RANDOM.integers(0, classes.shape, (400, 2)):
            x = (box.left + column + 0.5) * SIZE[0] / width
            y = (box.top + row + 0.5) * SIZE[1] / height
            hits = [label for ring, label in zip(RINGS, LABELS, strict=True) if inside(x, y, ring)]
            assert classes[row, column] == (hits[-1] if hits else 0), (box, row, column)


def test_boxes_tile_without_seams() -> None:
    grid = (203, 149)
    truth = OutlineTruth(SIZE, [*RINGS, np.array([(0, 0), (200, 200), (0, 200)])], [*LABELS, 3])
    whole = truth.cut(Box(0, 0, *grid), grid)
    for side in (16, 37, 128):
        for top in range(0, grid[1], side):
            for left in range(0, grid[0], side):
                box = Box(left, top, min(left + side, grid[0]), min(top + side, grid[1]))
                assert np.array_equal(truth.cut(box, grid), whole[top : box.bottom, left : box.right])


def test_a_slide_of_full_size_is_cut_in_the_memory_of_a_box() -> None:
    size = (90_000, 60_000)
    truth = OutlineTruth(size, [np.array([(0, 0), (90_000, 0), (90_000, 60_000), (0, 60_000)]) / 2], [2])
    cut = truth.cut(Box(44_990, 29_995, 45_010, 30_005), size)
    assert np.array_equal(cut, np.where((np.arange(10)[:, None] < 5) & (np.arange(20) < 10), 2, 0))


def test_what_is_none_of_the_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no split 'testA'; choose one of train, validation, test"):
        bach.find_slides(tmp_path, "testA")
    with pytest.raises(DatasetError, match=r"no A01\.svs to A10\.svs here; --data must name"):
        bach.find_slides(tmp_path, "test")
    folder = make_set(tmp_path)
    with pytest.raises(DatasetError, match=r"A10\.svs is missing: BACH's split validation has it"):
        bach.find_slides(tmp_path, "validation")
    (folder / "A05.xml").unlink()
    with pytest.raises(DatasetError, match=r"A05\.xml is missing: every slide needs"):
        bach.find_slides(tmp_path, "test")
    (folder / "A05.xml").mkdir()
    with pytest.raises(DatasetError, match=r"A05\.xml is no regular file"):
        bach.find_slides(tmp_path, "test")


LAUGHS = "".join(f'<!ENTITY b{n} "{f"&b{n - 1};" * 10}">' for n in range(1, 10))
GOOD = REGIONS[0].xml()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("no XML", "is no sound XML .*line 1"),
        (b"\x00\xff\x00\xff" * 9, "is no sound XML"),
        (annotations(GOOD)[:-9], "is no sound XML"),
        ("<?xml version='1.0' encoding='klingon'?>" + annotations(GOOD), "is no sound XML .*encoding"),
        ("<?xml version='1.0' encoding='utf-7'?>" + annotations(GOOD), "is no sound XML"),
        (annotations(GOOD).replace("<Plots/>", "&unknown;"), "is no sound XML .*entity"),
        (f"<!DOCTYPE a><!-- -->{annotations(GOOD)}", "declares a document type or entities"),
        (f'<!DOCTYPE a SYSTEM "file:///etc/passwd">{annotations(GOOD)}', "declares a document type"),
        (f'<!DOCTYPE a [<!ENTITY b0 "ha">{LAUGHS}]><a>&b9;</a>', "declares a document type"),
        (f'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>{GOOD}', "declares a document type"),
        ("<a>" * 100_000, "nests elements over 32 deep"),
        ("<html/>", "has no element Annotations"),
        (annotations(""), "marks no region"),
        (annotations(GOOD + Drawn(SQUARE, "Malignant").xml()), "calls region 2 'Malignant': a label says benign, in s"),
        (annotations(GOOD + Drawn(SQUARE, None, "").xml()), "calls region 2 '': a label says"),
        (annotations(GOOD + Drawn(SQUARE, "Normal").xml()), "calls region 2 'Normal': a label says"),
        (
            annotations(Drawn(SQUARE, "in situ and invasive").xml()),
            "calls region 1 'in situ and invasive': a .* one of",
        ),
        (annotations(Drawn(SQUARE, "non-invasive").xml()), "calls region 1 'non-invasive': .* nothing that it is not"),
        (annotations(Drawn(SQUARE, "Noninvasive").xml()), "calls region 1 'Noninvasive'"),
        (annotations(Drawn(SQUARE, "Not in situ").xml()), "calls region 1 'Not in situ'"),
        (annotations(Drawn(SQUARE, "no benign lesion").xml()), "calls region 1 'no benign lesion'"),
        (annotations(GOOD + Drawn(SQUARE, kind="2").xml()), "has an ellipse as region 2, of which it tells the box"),
        (annotations(Drawn(SQUARE, "x" * 10_000).xml()), r"calls region 1 'x{60}': a label"),
        (annotations(GOOD + Drawn(SQUARE[:2]).xml()), "has 2 vertices in region 2, an area needs at least 3"),
        (annotations(GOOD + Drawn([]).xml()), "has 0 vertices in region 2"),
        (annotations(GOOD + Drawn([*SQUARE, ("a", 1)]).xml()), "has X 'a' in region 2, vertex 5: expected pixels"),
        (annotations(Drawn([(1, "nan"), *SQUARE]).xml()), "has Y 'nan' in region 1, vertex 1"),
        (annotations(Drawn([("-inf", 2), *SQUARE]).xml()), "has X '-inf' in region 1"),
        (annotations(Drawn([(1, "1e300"), *SQUARE]).xml()), "has Y '1e300' in region 1"),
        (annotations(Drawn([(-2e9, 1), *SQUARE]).xml()), "has X '-2000000000.0' in region 1"),
        (annotations(Drawn([("9" * 5000, 1), *SQUARE]).xml()), r"has X '9{60}' in region 1"),
        (annotations(GOOD.replace('X="', 'x="')), "has X '' in region 1, vertex 1"),
        (annotations(GOOD.replace("<Vertices>", f"<Vertices>{GOOD}")), "has a region within region 1"),
    ],
)
def test_annotations_that_cannot_be_true_are_refused_in_a_line(tmp_path: Path, content: str | bytes, says: str) -> None:
    with pytest.raises(DatasetError, match=rf"A05\.xml {says}") as told:
        drawn_as(tmp_path, content)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 300 + len(str(tmp_path))


def test_annotations_larger_than_any_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "A05.xml"
    with open(path, "wb") as file:
        file.truncate(drawings.MOST_BYTES + 1)
    with pytest.raises(DatasetError, match=r"A05\.xml has 67108865 bytes"):
        aperio.read_drawing(path)
    path.write_text(annotations(GOOD * 4))
    monkeypatch.setattr(drawings, "MOST_REGIONS", 4)
    monkeypatch.setattr(drawings, "MOST_VERTICES", 12)
    assert len(aperio.read_drawing(path).regions) == 4
    path.write_text(annotations(GOOD * 3 + Drawn(SQUARE).xml()))
    with pytest.raises(DatasetError, match="has over 12 vertices"):
        aperio.read_drawing(path)
    path.write_text(annotations(GOOD * 5))
    with pytest.raises(DatasetError, match="has over 4 regions"):
        aperio.read_drawing(path)
