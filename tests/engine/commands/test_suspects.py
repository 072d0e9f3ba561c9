"""`glassrt suspects` as users run it: on slides that were scored, in real processes."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from command_line import assert_one_line, run
from made_tiffs import write_scn
from plain_batch import score_here
from plain_network import PSPNET
from shapely.geometry import shape

from glassrt.engine import open_slide

PLACE, WHOLE = (1500, 1000), (3000, 2000)


@pytest.fixture(scope="module")
def scored(demo_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `out` of three slides, one that viewers crop and one without tissue, and their labels."""
    folder = tmp_path_factory.mktemp("scored")
    with open_slide(demo_slide) as demo:
        pixels = demo.read_level(0, (300, 1200), (900, 700))
    cropped = write_scn(folder / "cropped.scn", pixels, PLACE, WHOLE)
    tifffile.imwrite(
        folder / "white.tif", np.full((400, 400, 3), 243, np.uint8), resolution=(20000, 20000), resolutionunit=3
    )
    slides = [demo_slide, cropped, folder / "white.tif"]
    outcomes = score_here(slides, folder / "out", bundle=PSPNET, backend="auto", precision="auto")
    assert [outcome.status for outcome in outcomes] == ["scored", "scored", "no tissue"]
    return folder


def label(folder: Path, **labels: str) -> Path:
    lines = ["slide,label", *(f"{name}.svs,{label}" for name, label in labels.items())]
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder / "labels.csv"


def read_rows(out: Path) -> list[dict[str, str]]:
    with open(out / "hard_benign.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_suspects_of_benign_slides_are_listed_outlined_and_pictured(
    scored: Path, demo_slide: Path, tmp_path: Path
) -> None:
    labels = label(tmp_path, **{demo_slide.stem: "malign", "cropped": "benign", "white": "benign"})
    done = run("suspects", scored / "out", "--labels", labels, "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    rows = read_rows(tmp_path / "out")
    assert f"{len(rows)} regions of 2 slides: {tmp_path / 'out' / 'hard_benign.csv'}" in done.stdout
    assert {row["slide"] for row in rows} == {"cropped"}
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, len(rows) + 1)]
    highest = [float(row["maximum_probability"]) for row in rows]
    assert highest == sorted(highest, reverse=True)
    assert all(0.5 <= float(row["mean_probability"]) <= top for row, top in zip(rows, highest, strict=True))
    features = json.loads((tmp_path / "out" / "cropped.geojson").read_text())["features"]
    known = json.loads((scored / "out" / "cropped" / "regions.geojson").read_text())["features"]
    outlines = [shape(each["geometry"]) for each in features]
    for each in known:  # whatever the network found is suspected of a benign slide
        assert max(outline.intersection(shape(each["geometry"])).area for outline in outlines) > 0
    for row, feature, outline in zip(rows, features, outlines, strict=True):
        left, top, right, bottom = outline.bounds
        box = [float(row[name]) for name in ("x", "y", "width", "height")]
        assert box == pytest.approx([left, top, right - left, bottom - top], abs=1.01)
        assert feature["properties"]["measurements"]["Rank"] == int(row["rank"])
        assert feature["properties"]["classification"]["name"] == "gland"
        assert left >= -1
        assert right <= 901  # in the frame of the part that was scanned
    names = sorted(path.name for path in (tmp_path / "out" / "thumbnails").iterdir())
    assert names == [f"{rank:04d}.png" for rank in range(1, len(rows) + 1)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "cropped.geojson",
        "hard_benign.csv",
        "thumbnails",
    ]


def test_a_thumbnail_shows_the_place_it_names(scored: Path, demo_slide: Path, tmp_path: Path) -> None:
    labels = label(tmp_path, **{demo_slide.stem: "benign"})
    done = run("suspects", scored / "out", "--labels", labels, "--out", tmp_path / "out", "--most", 3)
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "out")
    assert len(rows) == 3
    whole = tifffile.imread(demo_slide)
    for row in rows:
        x, y, width, height = (int(row[name]) for name in ("x", "y", "width", "height"))
        picture = cv2.imread(str(tmp_path / "out" / "thumbnails" / f"{int(row['rank']):04d}.png"), cv2.IMREAD_COLOR_RGB)
        side = max(1.5 * max(width, height), 250 / 0.499, 512)
        scale = 512 / side
        part = cv2.resize(whole[y : y + height, x : x + width], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        match = cv2.matchTemplate(picture, part, cv2.TM_CCOEFF_NORMED)
        assert match.max() > 0.8
        red = (picture == (200, 40, 40)).all(axis=2)
        ys, xs = np.nonzero(red)
        assert [np.ptp(xs), np.ptp(ys)] == pytest.approx([width * scale, height * scale], abs=3)
        place = np.unravel_index(match.argmax(), match.shape)
        assert [ys.min(), xs.min()] == pytest.approx(place, abs=3)


def test_slides_that_are_gone_have_rows_and_outlines_and_a_warning(scored: Path, tmp_path: Path) -> None:
    slide, away = scored / "cropped.scn", tmp_path / "away.scn"
    labels = label(tmp_path, cropped="benign", none="benign")
    slide.rename(away)
    try:
        done = run("suspects", scored / "out", "--labels", labels, "--out", tmp_path / "out")
    finally:
        away.rename(slide)
    assert done.returncode == 0
    gone, missing = done.stderr.splitlines()
    assert gone == f"glassrt: warning: no thumbnails of cropped: {slide} does not exist"
    assert missing.endswith(f"1 of the 2 slides labelled benign have no result in {scored / 'out'}")
    assert read_rows(tmp_path / "out")
    assert list((tmp_path / "out" / "thumbnails").iterdir()) == []


def test_an_older_list_is_replaced_and_what_is_none_is_left(scored: Path, tmp_path: Path) -> None:
    labels = label(tmp_path, cropped="benign")
    command = ("suspects", scored / "out", "--labels", labels, "--out", tmp_path / "out")
    for most in (3, 2):
        assert run(*command, "--most", most).returncode == 0
        assert len(read_rows(tmp_path / "out")) == len(list((tmp_path / "out" / "thumbnails").iterdir())) == most
    (tmp_path / "out" / "hard_benign.csv").unlink()
    assert_one_line(run(*command), 2, "was not written by GlassRT; choose another --out")
    assert_one_line(run(*command[:-1], scored / "out"), 2, "was not written by GlassRT; choose another --out")


@pytest.mark.parametrize(
    ("results", "labels", "says"),
    [
        ("out", "slide,label\ncropped,malign\n", "holds no result of a slide that"),
        ("none", "slide,label\ncropped,benign\n", "holds no result of a slide that"),
        ("out", "slide,label\ncropped,fine\n", "line 2: label 'fine' of 'cropped' is neither benign nor malign"),
        ("out", None, "cannot be read as labels"),
    ],
)
def test_what_cannot_work_is_one_line_and_writes_nothing(
    scored: Path, tmp_path: Path, results: str, labels: str | None, says: str
) -> None:
    if labels is not None:
        (tmp_path / "labels.csv").write_text(labels)
    out = tmp_path / "out"
    done = run("suspects", scored / results, "--labels", tmp_path / "labels.csv", "--out", out)
    assert_one_line(done, 2, says)
    assert not out.exists()
