"""What the client makes of servers that misbehave: a status and a line within the time limit, and nothing lost."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from odd_server import BEGUN, CLOSE, HANG, HEALTHY, Odd, Step, answer, serving

OK, NONE, BUSY, REFUSED, ENDED, LOST, TIMEOUT, MISUSE = range(8)
LIMIT_MS = 700
BEGIN = 'begin {"levels": [[64, 64]]}'
PUSH = "push 0 0 64 64 0 0 12288 0"


def connect(server: Odd) -> str:
    return f"connect {server.address} - {LIMIT_MS}"


LONG = b"HTTP/1.1 200 OK\r\nX: " + b"a" * 40_000
MANY = b"HTTP/1.1 200 OK\r\n" + b"X: abc\r\n" * 4000
HEAD = b"HTTP/1.1 200 OK\r\n"
GARBAGE: dict[str, tuple[list[Step], int]] = {
    "nothing, then the end": ([CLOSE], LOST),
    "no HTTP": ([b"\x00\xff\x01garbage\r\n\r\n", CLOSE], LOST),
    "no HTTP that never ends": ([b"garbage" * 5000, HANG], LOST),
    "another version": ([b"HTTP/2 200\r\n\r\n"], LOST),
    "no code": ([b"HTTP/1.1 OK\r\n\r\n"], LOST),
    "a code beyond codes": ([b"HTTP/1.1 999 OK\r\n\r\n"], LOST),
    "a header that never ends": ([LONG, HANG], LOST),
    "a header that is too long": ([LONG + b"\r\n\r\n{}"], LOST),
    "too many headers": ([MANY, HANG], LOST),
    "a header without a colon": ([HEAD + b"nothing\r\n\r\n"], LOST),
    "a NUL in a header": ([HEAD + b"X: \x00\r\n\r\n"], LOST),
    "a negative length": ([HEAD + b"Content-Length: -5\r\n\r\nabc"], LOST),
    "no number as length": ([HEAD + b"Content-Length: 5x\r\n\r\nabcde"], LOST),
    "a length beyond numbers": ([HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n"], LOST),
    "two lengths": ([HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc"], LOST),
    "less than its length": ([HEAD + b'Content-Length: 50\r\n\r\n{"id":', CLOSE], LOST),
    "less than its length, and silence": ([HEAD + b'Content-Length: 50\r\n\r\n{"id":', HANG], TIMEOUT),
    "half a head": ([HEAD + b"Content-Le", CLOSE], LOST),
    "half a head, and silence": ([HEAD + b"Content-Le", HANG], TIMEOUT),
    "silence": ([HANG], TIMEOUT),
    "another coding": ([HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n"], LOST),
    "a chunk without a length": ([HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n"], LOST),
    "a chunk of a negative length": ([HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n"], LOST),
    "a chunk beyond memory": ([HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc\r\n"], LOST),
    "a chunk longer than it says": ([HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabcdef\r\n0\r\n\r\n"], LOST),
    "a chunk that is cut off": ([HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\nabc", CLOSE], LOST),
    "trailers that never end": ([HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: a\r\n" * 20000, HANG], LOST),
    "hints that never end": ([b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100], LOST),
    "another place": ([b"HTTP/1.1 302 Found\r\nLocation: http://example.org\r\nContent-Length: 0\r\n\r\n"], LOST),
    "no JSON": ([HEAD + b"Content-Length: 5\r\n\r\nhello"], LOST),
    "JSON without a name": ([answer({"name": "one"})], LOST),
    "a name that leads elsewhere": ([answer({"id": "../../x"})], LOST),
    "a name with a line break": ([answer({"id": "a\r\nX: y"})], LOST),
    "a name without an end": ([answer({"id": "a" * 500})], LOST),
    "a number as name": ([answer({"id": 7})], LOST),
    "brackets without an end": ([HEAD + b"Content-Length: 100000\r\n\r\n" + b'{"id":' + b"[" * 99_994], LOST),
    "an error of the server": ([answer({"error": "it is broken"}, "500 Oh")], REFUSED),
    "an error without a line": ([answer([], "400 Oh")], REFUSED),
    "an error with signs": ([answer({"error": 'a\u0007 "b" \\ \u00e9'}, "400 Oh")], REFUSED),
}


@pytest.mark.parametrize(("steps", "status"), GARBAGE.values(), ids=GARBAGE)
def test_an_answer_that_is_none_is_an_error_in_time(steps: list[Step], status: int, host: Callable) -> None:
    with serving(**{"POST /slides ": [steps]}) as server:
        said = host(connect(server), BEGIN, BEGIN)
    assert [each.status for each in said] == [OK, status, status]
    for each in said[1:]:
        assert each.text
        assert each.text.isprintable()
        assert each.ms <= LIMIT_MS + 300


def test_the_time_limit_holds_for_an_answer_that_drips(host: Callable) -> None:
    listening = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = listening.accept()
        with connection, listening:
            try:
                for byte in HEALTHY * 10:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.1)
            except OSError:
                return

    threading.Thread(target=drip, daemon=True).start()
    (said,) = host(f"connect 127.0.0.1:{listening.getsockname()[1]} - {LIMIT_MS}")
    assert said.status == TIMEOUT
    assert LIMIT_MS - 50 <= said.ms <= LIMIT_MS + 300


def test_nobody_there_is_told_at_once(host: Callable, tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    said = host(f"connect 127.0.0.1:{port} - 5000", f"connect unix:{tmp_path}/none - 5000", BEGIN)
    assert [each.status for each in said] == [LOST, LOST, LOST]
    assert "refused" in said[0].text
    assert "No such file" in said[1].text
    assert all(each.ms < 500 for each in said)


def test_a_server_that_never_accepts_is_given_up_in_time(host: Callable, tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen(0)
        fillers = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(str(tmp_path / "s"))
        (said,) = host(f"connect unix:{tmp_path}/s - {LIMIT_MS}")
        for filler in fillers:
            filler.close()
    assert said.status in (LOST, TIMEOUT)
    assert said.ms <= LIMIT_MS + 300


EVENTS: dict[str, tuple[object, list[int]]] = {
    "none at all": ({}, [LOST]),
    "no list": ({"events": {}}, [LOST]),
    "no number": ({"events": [{"event": "map", "data": {}}]}, [LOST]),
    "a negative number": ({"events": [{"number": -1, "event": "map", "data": {}}]}, [LOST]),
    "a number twice": ({"events": [{"number": 1, "event": "map", "data": {}}] * 2}, [OK, LOST]),
    "a kind without an end": ({"events": [{"number": 1, "event": "m" * 99, "data": {}}]}, [LOST]),
    "no data": ({"events": [{"number": 1, "event": "map"}]}, [LOST]),
    "odd data": (
        {"events": [{"number": 3, "data": '},]"\\', "event": "map"}, {"event": "failed", "number": 9, "data": None}]},
        [OK, OK, ENDED],
    ),
    "no events that are objects": ({"events": [1, [2], None]}, [LOST]),
}


@pytest.mark.parametrize(("told", "statuses"), EVENTS.values(), ids=EVENTS)
def test_events_that_are_none_are_an_error(told: object, statuses: list[int], host: Callable) -> None:
    with serving(**{"POST /slides ": [[BEGUN]], "/events": [[answer(told)]]}) as server:
        said = host(connect(server), BEGIN, *["event 0"] * len(statuses))
    assert [each.status for each in said] == [OK, OK, *statuses]
