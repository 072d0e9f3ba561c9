"""Scans that are too fast, that are cancelled or fail, or that never begin."""

import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from scanned import BUNDLE, SIDE, assert_same, at_random, in_rows, open_push, push_all

from glassrt.engine.errors import FolderTaken, GlassError, SlideError, UsageError
from glassrt.engine.geometry.boxes import Box
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.slides.push import PushSlide, Tile
from glassrt.engine.slides.slide import Overview
from glassrt.engine.tasks.scan import Busy, MapTile, ScanSession


def test_a_scan_that_is_faster_than_the_machine_waits_or_is_told_and_loses_nothing(
    pixels: np.ndarray, picture: np.ndarray, whole: Path, backend: Backend, tmp_path: Path
) -> None:
    most = 12
    waiting: list[int] = []
    with ScanSession(
        BUNDLE, open_push(pixels), tmp_path / "out", picture, backend, most_backlog=most,
        on_progress=lambda progress: waiting.append(progress.backlog),
    ) as session:  # fmt: skip
        refused = 0
        for x, y in in_rows((1700, 1500), SIDE):
            tile = Tile(0, x, y, np.ascontiguousarray(pixels[y : y + SIDE, x : x + SIDE]))
            try:
                session.push(*tile, timeout_s=0)
            except Busy as error:
                assert f"over {most} windows wait" in str(error)  # noqa: PT017
                refused += 1
                session.push(*tile)
        session.finish()
    assert refused
    assert max(waiting) < most + 40  # of the cells that one tile completes
    assert_same(tmp_path / "out", whole)


def test_several_threads_push_at_once(
    pixels: np.ndarray, picture: np.ndarray, whole: Path, backend: Backend, tmp_path: Path
) -> None:
    with ScanSession(BUNDLE, open_push(pixels), tmp_path / "out", picture, backend) as session:
        places = at_random((1700, 1500), SIDE)
        threads = [threading.Thread(target=push_all, args=(session, pixels, places[n::4])) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        session.finish()
    assert_same(tmp_path / "out", whole)


def test_a_session_that_is_left_leaves_nothing(
    pixels: np.ndarray, picture: np.ndarray, backend: Backend, tmp_path: Path
) -> None:
    slide = open_push(pixels)
    with ScanSession(BUNDLE, slide, tmp_path / "out", picture, backend) as session:
        push_all(session, pixels, in_rows((1700, 1500), SIDE)[:30])
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())
    assert not slide._blocks
    assert not [each for each in threading.enumerate() if each in session._runner._threads]
    session.cancel()
    for call in (session.finish, lambda: session.push(0, 0, 0, pixels)):
        with pytest.raises(UsageError, match="array: no session any more: it was cancelled"):
            call()


def test_who_waits_to_push_is_told_that_the_session_was_cancelled(
    pixels: np.ndarray, picture: np.ndarray, backend: Backend, tmp_path: Path
) -> None:
    held = threading.Event()
    session = ScanSession(
        BUNDLE, open_push(pixels), tmp_path / "out", picture, backend, most_backlog=0,
        on_progress=lambda progress: held.wait(20) and None,
    )  # fmt: skip
    told: list[str] = []

    def push() -> None:
        try:
            push_all(session, pixels, in_rows((1700, 1500), SIDE))
        except Exception as error:
            told.append(str(error))

    thread = threading.Thread(target=push)
    thread.start()
    while not session.progress.backlog:
        time.sleep(0.01)
    threading.Timer(0.2, held.set).start()
    session.cancel()
    thread.join(20)
    assert told == ["array: the session was cancelled"] or "no session any more" in told[0]
    assert not list(tmp_path.iterdir())


def test_a_session_can_be_cancelled_while_it_is_finished(
    pixels: np.ndarray, picture: np.ndarray, backend: Backend, tmp_path: Path
) -> None:
    session = ScanSession(BUNDLE, open_push(pixels), tmp_path / "out", picture, backend, most_backlog=10**6)
    push_all(session, pixels, in_rows((1700, 1500), SIDE))
    told: list[BaseException] = []

    def finish() -> None:
        try:
            session.finish()
        except GlassError as error:
            told.append(error)

    thread = threading.Thread(target=finish)
    thread.start()
    while not session._ended:
        time.sleep(0.001)
    session.cancel()
    thread.join(20)
    assert [str(error) for error in told] == ["array: the session was cancelled"]
    assert not list(tmp_path.iterdir())
    assert session.error is told[0]


def test_what_a_listener_raises_ends_the_session(
    pixels: np.ndarray, picture: np.ndarray, backend: Backend, tmp_path: Path
) -> None:
    def fail(tile: MapTile) -> None:
        raise ValueError("the screen is gone")

    session = ScanSession(BUNDLE, open_push(pixels), tmp_path / "out", picture, backend, on_map=fail)
    with suppress(GlassError):
        push_all(session, pixels, in_rows((1700, 1500), SIDE))
    for call in (session.finish, session.finish, lambda: session.push(0, 0, 0, pixels)):
        with pytest.raises(GlassError, match=r"^array: the session has failed: the screen is gone$"):
            call()
    session.cancel()
    assert not list(tmp_path.iterdir())


def test_a_damaged_tile_is_told_and_the_session_goes_on(
    pixels: np.ndarray, picture: np.ndarray, whole: Path, backend: Backend, tmp_path: Path
) -> None:
    with ScanSession(BUNDLE, open_push(pixels), tmp_path / "out", picture, backend) as session:
        with pytest.raises(SlideError, match="is no JPEG"):
            session.push(0, 480, 480, b"noise")
        push_all(session, pixels, in_rows((1700, 1500), SIDE))
        session.finish()
    assert_same(tmp_path / "out", whole)


def test_what_cannot_be_scanned_is_refused_before_the_first_tile(
    pixels: np.ndarray, picture: np.ndarray, backend: Backend, tmp_path: Path
) -> None:
    with pytest.raises(SlideError, match="is too coarse"):
        ScanSession(BUNDLE, PushSlide([(200, 200)], 5.0, 64), tmp_path / "out", picture, backend)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(FolderTaken, match="was not written by GlassRT"):
        ScanSession(BUNDLE, open_push(pixels), tmp_path / "out", picture, backend)
    black = Overview(np.zeros((10, 10, 3), np.uint8), Box(0, 0, 1700, 1500))
    with pytest.raises(SlideError, match="--tissue all"):
        ScanSession(BUNDLE, open_push(pixels), tmp_path / "new", black, backend)
    assert not (tmp_path / "new").exists()
