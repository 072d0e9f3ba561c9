"""Slides that are scanned over HTTP."""

import base64
import json
import threading
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import imagecodecs
import numpy as np
import pytest
import tifffile
from service_server import PLACES, SIDE, TILE, Server, begin, push, read_events, says

from glassrt.engine import open_bundle
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.slides.push import PushSlide
from glassrt.engine.tasks.scan import ScanSession

FILES = ("result.json", "map.ome.tif", "regions.geojson", "overlay.png")


def score_here(small: Path, out: Path, pixels: np.ndarray) -> Path:
    """The same slide in this process."""
    slide = PushSlide([(SIDE, SIDE)], 0.5, TILE, "here")
    backend = open_backend(open_bundle(small), "ort", precision="fp32", throughput=True)
    with closing(backend), ScanSession(open_bundle(small), slide, out, backend=backend) as session:
        for x, y in PLACES:
            session.push(0, x, y, pixels[y : y + TILE, x : x + TILE])
        session.finish()
    return out


def test_a_slide_gives_the_files_and_the_map_that_it_gives_in_process(
    server: Server, small: Path, pixels: np.ndarray, tmp_path: Path
) -> None:
    where = begin(server, "whole").headers["location"]
    for x, y in PLACES:
        assert push(server, where, x, y, pixels[y : y + TILE, x : x + TILE]).status_code == 204
    result = server.ask("POST", f"{where}/finish").json()
    events = read_events(server, where)
    assert [event["number"] for event in events] == [*range(1, len(events) + 1)]
    assert (events[-1]["event"], events[-1]["data"]) == ("finished", result)
    assert server.ask("GET", where).json()["state"] == "finished"
    files = {name: server.ask("GET", f"{where}/results/{name}") for name in FILES}
    assert {name: answer.status_code for name, answer in files.items()} == dict.fromkeys(FILES, 200)
    stored = server.out / "whole"
    assert sorted(path.name for path in stored.iterdir()) == sorted(FILES)
    assert all(files[name].content == (stored / name).read_bytes() for name in FILES)
    here = score_here(small, tmp_path / "here", pixels)
    classes = tifffile.imread(stored / "map.ome.tif")
    np.testing.assert_array_equal(classes, tifffile.imread(here / "map.ome.tif"))
    assert json.loads(files["result.json"].content) == result
    maps = [event["data"] for event in events if event["event"] == "map"]
    assert maps
    for told in maps:
        shape = told["height"], told["width"]
        assert len(zlib.decompress(base64.b64decode(told["classes"]))) == shape[0] * shape[1]
        assert len(zlib.decompress(base64.b64decode(told["probabilities"]))) == shape[0] * shape[1]
        assert told["lag_ms"] >= 0
    assert all(event["data"]["type"] == "Feature" for event in events if event["event"] == "region")
    assert server.ask("DELETE", where).status_code == 204
    says(server.ask("GET", where), 404, "no session")
    assert sorted(path.name for path in stored.iterdir()) == sorted(FILES)


def test_events_come_as_a_stream_too_and_go_on_where_it_broke(server: Server, pixels: np.ndarray) -> None:
    where = begin(server, "streamed").headers["location"]
    lines: list[str] = []

    def listen() -> None:
        with httpx.stream("GET", f"{server.where}{where}/events", headers={"Accept": "text/event-stream"}) as told:
            assert told.headers["content-type"].startswith("text/event-stream")
            lines.extend(told.iter_lines())

    listener = threading.Thread(target=listen)
    listener.start()
    for x, y in PLACES:
        push(server, where, x, y, pixels[y : y + TILE, x : x + TILE])
    server.ask("POST", f"{where}/finish")
    listener.join(20)
    numbers = [int(line[4:]) for line in lines if line.startswith("id: ")]
    assert numbers == [*range(1, len(numbers) + 1)]
    assert [line for line in lines if line.startswith("event: ")][-1] == "event: finished"
    head = {"Accept": "text/event-stream", "Last-Event-ID": str(numbers[-3])}
    again = server.ask("GET", f"{where}/events", headers=head).text
    assert [line for line in again.splitlines() if line.startswith("id: ")] == [f"id: {n}" for n in numbers[-2:]]


def test_a_session_that_is_cancelled_leaves_nothing(server: Server, pixels: np.ndarray) -> None:
    where = begin(server, "cancelled").headers["location"]
    push(server, where, 0, 0, pixels[:TILE, :TILE])
    assert server.ask("DELETE", where).status_code == 204
    assert read_events(server, where)[-1]["event"] == "cancelled"
    assert server.ask("GET", where).json()["state"] == "cancelled"
    says(push(server, where, 0, 0, pixels[:TILE, :TILE]), 409, "cancelled")
    says(server.ask("POST", f"{where}/finish"), 409, "cancelled")
    says(server.ask("GET", f"{where}/results/result.json"), 409, "cancelled")
    assert not (server.out / "cancelled").exists()
    assert not [path for path in server.out.iterdir() if path.name.startswith(".glassrt-") and path.is_dir()]


@pytest.mark.parametrize(
    ("change", "status", "line"),
    [
        ({"bundle": "other"}, 404, "unknown bundle 'other'"),
        ({"levels": []}, 400, "levels"),
        ({"levels": [[0, 10]]}, 400, "levels"),
        ({"levels": [[-5, -5]]}, 400, "levels"),
        ({"levels": [[10, 10, 10]]}, 400, "levels"),
        ({"levels": [[100, 100], [200, 200]]}, 400, "the largest first"),
        ({"levels": [[10**6, 10**6]]}, 413, "pixels"),
        ({"levels": [[10**30, 10**30]]}, 413, "pixels"),
        ({"levels": [["a", "b"]]}, 400, "levels"),
        ({"mpp": None}, 400, "mpp"),
        ({"mpp": 0}, 400, "micrometres"),
        ({"mpp": -1}, 400, "micrometres"),
        ({"mpp": 1e300}, 400, "micrometres"),
        ({"tile": 0}, 400, "tiles of 0 x 0"),
        ({"tile": [1000000, 1]}, 400, "tiles of"),
        ({"tile": [100]}, 400, "tile"),
        ({"name": ""}, 400, "is empty"),
        ({"name": "../up"}, 400, "lead out"),
        ({"name": "jobs"}, 400, "belongs there"),
        ({"name": "a\0b"}, 400, "lead out"),
        ({"name": "n" * 300}, 400, "longer"),
        ({"bounds": [0, 0, 0, 0]}, 400, "bounds"),
        ({"bounds": [0, 0, 500, 500]}, 400, "bounds"),
        ({"jpeg_tables": "?"}, 400, "base64"),
        ({"tissue": "mask.png"}, 400, "tissue"),
        ({"precision": "fp1"}, 400, "precision"),
        ({"backend": "abacus"}, 400, "backend"),
        ({"map_mpp": -1}, 400, ""),
        ({"patience_ms": -1}, 400, "patience_ms"),
        ({"backlog": 0}, 400, "backlog"),
        ({"colour": 1}, 400, "colour"),
    ],
)
def test_a_session_that_cannot_be_is_refused_in_one_line(
    server: Server, change: dict[str, Any], status: int, line: str
) -> None:
    says(begin(server, **{"name": "never", **change}), status, line)
    assert not (server.out / "never").exists()


def test_names_are_used_once_at_a_time_and_other_results_are_kept(server: Server, where: str) -> None:
    name = server.ask("GET", where).json()
    assert name["state"] == "open"
    first = begin(server, "twice")
    says(begin(server, "TWICE"), 409, "is open")
    server.ask("DELETE", first.headers["location"])
    (server.out / "others").mkdir()
    (server.out / "others" / "note.txt").write_text("mine")
    says(begin(server, "others"), 409, "others")
    (server.out / "file").mkdir()
    (server.out / "file" / "result.json").write_text('{"slide": {"file": "/a/file.svs"}}')
    says(begin(server, "file"), 409, "/a/file.svs")


def test_sessions_are_limited(start: Callable[..., Server]) -> None:
    server = start("--sessions", 1)
    first = begin(server, "a")
    answer = begin(server, "b")
    says(answer, 429, "1 sessions are open")
    assert answer.headers["retry-after"] == "1"
    server.ask("DELETE", first.headers["location"])
    assert begin(server, "b").status_code == 201


BAD: list[tuple[dict[str, Any], bytes, str]] = [
    ({}, bytes(10), "10 bytes"),
    ({"x": None}, b"", "x is missing"),
    ({"x": "1e3"}, b"", "x is '1e3'"),
    ({"x": "9" * 40}, b"", "x is"),
    ({"x": -5000}, bytes(TILE * TILE * 3), "beside"),
    ({"x": 5000}, bytes(TILE * TILE * 3), "beside"),
    ({"level": 1}, bytes(TILE * TILE * 3), "no level 1"),
    ({"level": -1}, b"", "level"),
    ({"width": 0}, b"", "width"),
    ({"format": "bmp"}, b"", "format"),
    ({"format": "jpeg"}, b"\xff\xd8\xff\xe0 cut off", "slide"),
    ({"format": "jpeg"}, b"no jpeg", "no jpeg"),
    ({"format": "jp2"}, b"\xff\x4f\xff\x51 cut off", ""),
    ({"wait_ms": -1}, b"", "wait_ms"),
    ({"colour": 1}, b"", "unknown parameter 'colour'"),
    ({"offset": 0, "length": 10}, b"", "no shared memory"),
]


@pytest.mark.parametrize(("change", "content", "line"), BAD)
def test_a_bad_tile_is_refused_and_the_session_goes_on(
    server: Server, where: str, pixels: np.ndarray, change: dict[str, Any], content: bytes, line: str
) -> None:
    told = {"level": 0, "x": 0, "y": 0, "width": TILE, "height": TILE, "format": "rgb", **change}
    told = {key: value for key, value in told.items() if value is not None}
    answer = server.ask("PUT", f"{where}/tiles", params=told, content=content)
    said = says(answer, 409 if "offset" in change else 400)
    assert line in said or line == "slide"
    assert push(server, where, 0, 0, pixels[:TILE, :TILE]).status_code == 204


def test_tiles_are_taken_encoded_and_in_other_orders(server: Server, where: str, pixels: np.ndarray) -> None:
    tile = pixels[:TILE, :TILE]
    assert push(server, where, 0, 0, np.ascontiguousarray(tile[..., ::-1]), format="bgr").status_code == 204
    rgba = np.dstack([tile, np.full((TILE, TILE, 1), 255, np.uint8)])
    assert push(server, where, TILE, 0, rgba, format="rgba").status_code == 204
    place = {"x": 2 * TILE, "y": 0, "format": "jpeg"}
    jpeg = imagecodecs.jpeg8_encode(tile)
    assert server.ask("PUT", f"{where}/tiles", params=place, content=jpeg).status_code == 204
    jp2 = imagecodecs.jpeg2k_encode(tile)
    answer = server.ask("PUT", f"{where}/tiles", params={**place, "y": TILE, "format": "jp2"}, content=jp2)
    assert answer.status_code == 204


def test_an_overview_that_was_announced_comes_before_tiles(server: Server, pixels: np.ndarray) -> None:
    where = begin(server, "seen", overview=True).headers["location"]
    says(push(server, where, 0, 0, pixels[:TILE, :TILE]), 409, "overview")
    says(server.ask("POST", f"{where}/finish"), 409, "overview")
    put = f"{where}/overview"
    says(server.ask("PUT", put, content=b"no picture"), 400, "neither PNG nor JPEG")
    says(server.ask("PUT", put, content=imagecodecs.png_encode(pixels)[:2000]), 400, "the overview")
    says(server.ask("PUT", put, content=b"", params={"left": 0}), 400, "top is missing")
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\0\0\0\1\0\0" + bytes(20)
    says(server.ask("PUT", put, content=bomb), 413, "65536 x 65536")
    small = np.ascontiguousarray(pixels[::4, ::4])
    assert server.ask("PUT", put, content=imagecodecs.png_encode(small)).status_code == 204
    says(server.ask("PUT", put, content=imagecodecs.png_encode(small)), 409, "overview")
    for x, y in PLACES:
        assert push(server, where, x, y, pixels[y : y + TILE, x : x + TILE]).status_code == 204
    assert server.ask("POST", f"{where}/finish").status_code == 200
