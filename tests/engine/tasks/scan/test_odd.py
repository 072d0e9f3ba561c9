"""Scans in which something is odd: listeners that interfere, tiles that never come, masks, parts of a tile."""

import resource
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scanned import BUNDLE, MPP, SIDE, in_rows, open_push, push_all

from glassrt.engine import ArraySlide, GlassError, PushSlide, ScanSession, score
from glassrt.engine.errors import SlideError, UsageError
from glassrt.engine.maps.mapfile import NOT_ANALYSED
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.tasks.scan import MapTile
from glassrt.engine.tasks.scan_map import Progress

ALL = in_rows((1700, 1500), SIDE)


def push_and_finish(session: ScanSession, pixels: np.ndarray) -> None:
    with session:
        push_all(session, pixels, ALL)
        session.finish()


def test_a_listener_may_cancel_while_the_session_is_finished(
    pixels: np.ndarray, picture: np.ndarray, backend: Backend, tmp_path: Path
) -> None:
    def cancel(tile: MapTile) -> None:
        while not session._finishing:
            time.sleep(0.01)
        session.cancel()

    session = ScanSession(BUNDLE, open_push(pixels), tmp_path / "out", picture, backend, on_map=cancel)
    push_all(session, pixels, ALL)
    with pytest.raises(GlassError, match="array: the session was cancelled"):
        session.finish()
    assert not list(tmp_path.iterdir())
    assert not [each for each in threading.enumerate() if each in session._runner._threads]


@pytest.mark.parametrize("call", ["push", "finish"])
def test_a_listener_cannot_push_or_finish(
    call: str, pixels: np.ndarray, picture: np.ndarray, backend: Backend, tmp_path: Path
) -> None:
    def interfere(progress: Progress) -> None:
        session.push(0, 0, 0, pixels) if call == "push" else session.finish()

    session = ScanSession(BUNDLE, open_push(pixels), tmp_path / "out", picture, backend, on_progress=interfere)
    with pytest.raises(UsageError, match="a listener may cancel the session, not push or finish"):
        push_and_finish(session, pixels)
    assert not list(tmp_path.iterdir())


def test_what_a_listener_does_to_its_tile_changes_no_file(
    pixels: np.ndarray, picture: np.ndarray, backend: Backend, tmp_path: Path
) -> None:
    session = ScanSession(
        BUNDLE, open_push(pixels), tmp_path / "out", picture, backend, on_map=lambda tile: tile.classes.fill(1)
    )
    with pytest.raises(GlassError, match="read-only"):
        push_and_finish(session, pixels)


def test_the_last_that_is_told_is_that_nothing_waits(
    pixels: np.ndarray, picture: np.ndarray, backend: Backend, tmp_path: Path
) -> None:
    told: list[Progress] = []
    with ScanSession(BUNDLE, open_push(pixels), tmp_path / "out", picture, backend, on_progress=told.append) as session:
        push_all(session, pixels, ALL)
        session.finish()
    last = told[-1]
    assert (last.backlog, last.tiles) == (0, len(ALL))
    assert last.windows == last.windows_known > 0
    assert last.map_tiles == last.map_tiles_known > 0


def test_without_an_overview_tiles_that_never_came_are_told_of(
    pixels: np.ndarray, backend: Backend, tmp_path: Path
) -> None:
    with ScanSession(BUNDLE, open_push(pixels), tmp_path / "out", None, backend, tissue="all") as session:
        push_all(session, pixels, [place for place in ALL if place != (480, 480)])
        result = session.finish()
    (warning,) = (line for line in result.warnings if "never came" in line)
    lost = int(warning.split()[0])
    assert result.windows["skipped"] == lost > 0


def test_the_picture_that_tiles_make_shows_parts_of_blocks_too(
    pixels: np.ndarray, backend: Backend, tmp_path: Path
) -> None:
    """Of a lattice of large blocks, of which one is never whole."""
    found = []
    for side in (1000, 250):
        slide = PushSlide([(1700, 1500)], MPP, side, name="array")
        with ScanSession(BUNDLE, slide, tmp_path / f"{side}", None, backend) as session:
            push_all(session, pixels, [place for place in in_rows((1700, 1500), 250) if place != (250, 250)], 250)
            found.append(session.finish())
    assert found[0].tissue_mm2 == pytest.approx(found[1].tissue_mm2, rel=0.02)
    assert found[0].windows["run"] == found[1].windows["run"]


def test_a_mask_that_was_given_says_what_is_run(pixels: np.ndarray, backend: Backend, tmp_path: Path) -> None:
    mask = np.zeros((150, 170), np.bool_)
    mask[:70, :100] = True
    pale = np.minimum(pixels.astype(int) + 200, 250).astype(np.uint8)  # in which no stain is to be seen
    pale[:, 900:] = pixels[:, 900:]
    whole = score(ArraySlide(pale, MPP), BUNDLE, tmp_path / "whole", backend, tissue=mask)
    with ScanSession(BUNDLE, open_push(pale), tmp_path / "out", None, backend, tissue=mask) as session:
        push_all(session, pale, ALL)
        result = session.finish()
    assert result.windows == whole.windows
    maps = [tifffile.imread(tmp_path / name / "map.ome.tif") for name in ("whole", "out")]
    assert np.array_equal(*maps)
    assert (maps[0][0] != NOT_ANALYSED).any()
    with pytest.raises(SlideError, match=r"none\.geojson: the mask cannot be read"):
        ScanSession(BUNDLE, open_push(pale), tmp_path / "no", None, backend, tissue=tmp_path / "none.geojson")
    assert not (tmp_path / "no").exists()


def test_lag_does_not_count_what_the_scanner_waited(pixels: np.ndarray, backend: Backend, tmp_path: Path) -> None:
    lags: list[float] = []
    glass = pixels.copy()
    glass[1000:] = 246  # the last rows, which no network sees
    with ScanSession(
        BUNDLE, open_push(glass), tmp_path / "out", None, backend, on_map=lambda tile: lags.append(tile.lag_s)
    ) as session:
        push_all(session, glass, ALL[:-8])
        session._runner.wait(0, None)
        time.sleep(1.5)
        push_all(session, glass, ALL[-8:])
        session.finish()
    assert max(lags) < 1.4


def test_a_failed_session_holds_no_more_with_every_call(
    pixels: np.ndarray, picture: np.ndarray, backend: Backend, tmp_path: Path
) -> None:
    def fail(progress: Progress) -> None:
        raise ValueError("gone")

    session = ScanSession(BUNDLE, open_push(pixels), tmp_path / "out", picture, backend, on_progress=fail)
    with suppress(GlassError):
        push_all(session, pixels, ALL)
    while session.error is None:
        time.sleep(0.01)
    tile = 0, 0, 0, np.ascontiguousarray(pixels[:SIDE, :SIDE])
    deepest = []
    for _ in range(50):
        try:
            session.push(*tile)
        except GlassError as error:
            traceback, depth = error.__traceback__, 0
            while traceback is not None:
                traceback, depth = traceback.tb_next, depth + 1
            deepest.append(depth)
    session.cancel()
    assert len(deepest) == 50
    assert max(deepest) < 10


@pytest.mark.parametrize("setting", [{"most_backlog": -1}, {"patience_s": -1.0}, {"patience_s": float("nan")}])
def test_settings_below_zero_are_refused(setting: dict, pixels: np.ndarray, backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither is below 0"):
        ScanSession(BUNDLE, open_push(pixels), tmp_path / "out", None, backend, **setting)


FULL = """
import resource, sys
import numpy as np
from glassrt.engine import PushSlide, ScanSession, open_bundle
from glassrt.engine.errors import OutputError
pixels = np.random.default_rng(1).integers(60, 250, (3000, 3000, 3), np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    session = ScanSession(open_bundle(), PushSlide([(3000, 3000)], 0.6, 1000), sys.argv[1], None, "ort", tissue="all")
    with session:
        session.push(0, 0, 0, pixels)
        session.finish()
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("room", [100_000, 700_000])
def test_a_full_disk_is_one_line_and_leaves_nothing(room: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path / "out", str(room)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == f"{tmp_path / 'out'}: no space left to write it; free some or choose another --out\n", (
        done.stderr
    )
    assert not list(tmp_path.iterdir())
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
