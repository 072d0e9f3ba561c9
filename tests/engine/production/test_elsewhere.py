"""Slides that lie on a real S3 server, behind HTTP or on slow disks: copied, bounded, scored, released."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from plain_batch import make_slide, read_all, run_here, score_here

from glassrt.engine.errors import SlideError, UsageError
from glassrt.engine.production.copies import Copies
from glassrt.engine.production.entries import list_entries
from glassrt.engine.production.places import find_parts
from glassrt.engine.production.wire import Setup

fsspec = pytest.importorskip("fsspec")
ROOM = 10_000_000


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of a bucket on a server of its own."""
    pytest.importorskip("s3fs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    told = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        until = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert server.poll() is None
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.1)
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("slides")
        yield "s3://slides"
    finally:
        server.kill()
        server.wait()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def put(bucket: str, name: str, path: Path) -> None:
    fsspec.filesystem("s3", skip_instance_cache=True).put_file(str(path), f"{bucket}/{name}")


def setup(tmp_path: Path, **more: object) -> Setup:
    return Setup(readers=1, cache=str(tmp_path / "cache"), cache_bytes=ROOM, **more)  # type: ignore[arg-type]


def without_origin(folder: Path) -> dict[str, bytes]:
    """What results hold but for where the slide lies, when it was scored and how long that took."""
    found = {Path(path).name: content for path, content in read_all(folder).items()}
    told = json.loads(found.pop("result.json"))
    for each in ("given", "path", "file"):
        del told["slide"][each]
    for each in ("seconds", "request"):
        told.pop(each, None)
    return found | {"result.json": json.dumps(told, sort_keys=True).encode()}


def test_slides_in_a_bucket_are_scored_like_files(bucket: str, tmp_path: Path) -> None:
    paths = [make_slide(tmp_path / "here" / f"{name}.tif", grey) for name, grey in (("a", 240), ("b", 230))]
    for path in paths:
        put(bucket, f"day 1/{path.name}", path)
    score_here(paths, tmp_path / "out")
    entries = list_entries([f"{bucket}/day 1/"], None, (), {})
    assert [entry.address for entry in entries] == [f"{bucket}/day 1/a.tif", f"{bucket}/day 1/b.tif"]
    assert entries == list_entries([f"{bucket}/day 1/*.tif"], None, (), {})
    ended = run_here([each.address for each in entries], tmp_path / "far", setup=setup(tmp_path))
    assert {outcome.status for outcome in ended.outcomes.values()} == {"no tissue"}
    for name in ("a", "b"):
        assert without_origin(tmp_path / "far" / name) == without_origin(tmp_path / "out" / name)
        told = json.loads((tmp_path / "far" / name / "result.json").read_text())["slide"]
        assert {told[each] for each in ("given", "path", "file")} == {f"{bucket}/day 1/{name}.tif"}
    again = run_here([each.address for each in entries], tmp_path / "far", setup=setup(tmp_path))
    assert (again.plan.done, again.plan.new) == (2, 0)
    put(bucket, "day 1/a.tif", make_slide(tmp_path / "other" / "a.tif", 220))
    third = run_here([each.address for each in entries], tmp_path / "far", setup=setup(tmp_path))
    assert (third.plan.done, third.plan.changed) == (1, 1)


def test_what_is_not_there_or_named_wrongly_is_told(bucket: str, tmp_path: Path) -> None:
    (outcome,) = run_here([f"{bucket}/none.tif"], tmp_path / "out", setup=setup(tmp_path)).outcomes.values()
    assert outcome.error == f"{bucket}/none.tif does not exist"
    with pytest.raises(UsageError, match="empty/: no slides here"):
        list_entries([f"{bucket}/empty/"], None, (), {})
    with pytest.raises(SlideError, match=r"nothing://x/a\.tif: cannot be fetched \(ValueError: Protocol not known"):
        find_parts("nothing://x/a.tif")


def test_copies_stay_below_their_size_and_the_oldest_goes(tmp_path: Path) -> None:
    paths = [make_slide(tmp_path / f"{name}.tif", grey) for name, grey in (("a", 240), ("b", 230), ("c", 220))]
    size = paths[0].stat().st_size
    copies = Copies(tmp_path / "cache", 2 * size + 10)
    for path in (*paths[:2], paths[0], paths[2]):
        with copies.hold(str(path)) as copy:
            assert copy.read_bytes() == path.read_bytes()
            assert copy.name == path.name
        time.sleep(0.01)
    assert sorted(each.name for each in (tmp_path / "cache").glob("*/*.tif")) == ["a.tif", "c.tif"]
    with pytest.raises(SlideError, match=r"a\.tif has .* GB, the copies .*: give more --cache-size"):
        Copies(tmp_path / "less", size - 1).hold(str(paths[0])).__enter__()


def test_a_copy_in_use_is_waited_for(tmp_path: Path) -> None:
    one, other = make_slide(tmp_path / "a.tif", 240), make_slide(tmp_path / "b.tif", 230)
    copies, begun = Copies(tmp_path / "cache", one.stat().st_size + 10), threading.Event()

    def use() -> None:
        with copies.hold(str(other)):
            begun.set()

    with copies.hold(str(one)) as copy:
        thread = threading.Thread(target=use)
        thread.start()
        assert not begun.wait(1.2)
        assert copy.exists()
    assert begun.wait(10)
    thread.join()
    assert not copy.exists()


def test_staged_files_give_the_results_of_files(tmp_path: Path) -> None:
    path = make_slide(tmp_path / "a.tif")
    score_here([path], tmp_path / "out")
    score_here([path], tmp_path / "staged", setup=setup(tmp_path, stage=True))
    one, other = (json.loads((tmp_path / name / "a" / "result.json").read_text()) for name in ("out", "staged"))
    assert one["slide"] == other["slide"]
    assert list((tmp_path / "cache").glob("*/a.tif"))


class CutOff(BaseHTTPRequestHandler):
    """Says that it has more bytes than it sends."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(b"x" * 10)

    def log_message(self, format: str, *arguments: object) -> None: ...


def test_a_file_that_was_cut_off_is_never_taken_for_a_whole_one(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    server = ThreadingHTTPServer(("127.0.0.1", 0), CutOff)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/a.tif?key=secret"
    copies = Copies(tmp_path / "cache", ROOM)
    with pytest.raises(SlideError, match=r"a\.tif.*: (cannot be fetched|10 bytes of 1000 came)"), copies.hold(address):
        pass
    server.shutdown()
    server.server_close()
    assert not [each for each in (tmp_path / "cache").iterdir() if each.is_dir()]


def test_what_belongs_to_a_slide_comes_with_it(tmp_path: Path) -> None:
    for name in ("m.mrxs", "m/Slidedat.ini", "m/deep/Data0000.dat", "d/1.dcm", "d/2.dcm", "d/note.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [part.name for part in find_parts(str(tmp_path / "m.mrxs"))] == [
        "m.mrxs", "m/Slidedat.ini", "m/deep/Data0000.dat",
    ]  # fmt: skip
    assert sorted(part.name for part in find_parts(str(tmp_path / "d" / "2.dcm"))) == ["1.dcm", "2.dcm"]
    with Copies(tmp_path / "cache", ROOM).hold(str(tmp_path / "m.mrxs")) as copy:
        assert (copy.parent / "m" / "deep" / "Data0000.dat").read_text() == "m/deep/Data0000.dat"
