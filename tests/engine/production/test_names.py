"""Names of slides that make no folders of their own, and what is made of them."""

from pathlib import Path

import pytest

from glassrt.engine.errors import UsageError
from glassrt.engine.production.entries import list_entries, tell_stem
from glassrt.engine.production.names import check_names

ALIKE = [
    ("a/Case.tif", "b/case.tif"),
    ("a/CASE.tif", "a/case.TIF"),
    ("a/straße.tif", "a/STRASSE.tif"),
    ("a/caf\u00e9.tif", "a/CAFE\u0301.tif"),
]


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        *((*names, "in case only") for names in ALIKE),
        ("a/x.tif", "b/x.tiff", "would both write to the folder x"),
        ("a/x.tif", "Summary.CSV.tif", "where summary.csv belongs"),
        ("a/x.tif", "..tif", "no folder of results can have its name"),
        ("a/x.tif", "..", "no folder of results can have its name"),
        ("a/x.tif", "/", "no folder of results can have its name"),
        ("a/x.tif", ".glassrt-0123456789abcdef.tif", "no folder of results can have its name"),
        ("a/x.tif", "caf\udce9.tif", "the name is no valid UTF-8"),
    ],
)
def test_names_that_do_not_make_two_folders_everywhere_are_refused(first: str, second: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check_names([Path(first), Path(second)])


@pytest.mark.parametrize("names", [*ALIKE, ("a/x.tif", "b/x.tiff")])
def test_slides_of_a_batch_whose_names_are_one_somewhere_get_two_everywhere(names: tuple[str, str]) -> None:
    stems, digits = zip(*(entry.id.rsplit("-", 1) for entry in list_entries(names, None, (), {})), strict=True)
    assert list(stems) == [Path(name).stem for name in names]
    assert len(set(digits)) == 2
    assert [len(each) for each in digits] == [6, 6]
    assert not set("".join(digits)) - set("0123456789abcdef")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Summary.CSV.tif", "is that of a file which belongs there"),
        ("journal.sqlite.tif", "is that of a file which belongs there"),
        ("report.html.svs", "is that of a file which belongs there"),
        ("..tif", "would lead out of the output folder"),
        ("..", "would lead out of the output folder"),
        ("/", "is empty"),
        (".glassrt-0123456789abcdef.tif", "is no name for a folder"),
        (".glassrt-batch.tif", "is no name for a folder"),
        ("caf\udce9.tif", "is no valid UTF-8"),
    ],
)
def test_a_name_that_no_folder_of_results_can_have_is_refused(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        tell_stem(name)


@pytest.mark.parametrize("name", ["a\x1b[2J\nb", " case 12 ", "a\u3000b\u00a0c", "x" * 250])
def test_an_odd_name_is_its_folder_s_too(name: str) -> None:
    (entry,) = list_entries([f"/slides/{name}.tif"], None, (), {})
    assert entry.id == name
    two = list_entries([f"/slides/{name}.tif", f"/others/{name}.tif"], None, (), {})
    assert all(len(each.id.encode()) <= 255 for each in two)
    assert len({each.id for each in two}) == 2
