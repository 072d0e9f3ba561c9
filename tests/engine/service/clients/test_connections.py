"""What the client sends, and the connections that it keeps, opens again and gives up."""

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from odd_server import BEGUN, CLOSE, HEALTHY, LEASED, TAKEN, Odd, Step, answer, serving

OK, NONE, BUSY, REFUSED, ENDED, LOST, TIMEOUT, MISUSE = range(8)
LIMIT_MS = 700
BEGIN = 'begin {"levels": [[64, 64]]}'
PUSH = "push 0 0 64 64 0 0 12288 0"


def connect(server: Odd) -> str:
    return f"connect {server.address} - {LIMIT_MS}"


def test_a_tile_is_taken_when_the_server_has_room_again(host: Callable) -> None:
    busy = answer({"error": "too many windows wait"}, "429 Too Many Requests")
    with serving(**{"POST /slides ": [[busy], [BEGUN]], "/tiles": [[busy], [busy], [TAKEN]]}) as server:
        said = host(connect(server), BEGIN, BEGIN, PUSH, PUSH, PUSH)
    assert [each.status for each in said] == [OK, BUSY, OK, BUSY, BUSY, OK]
    assert said[3].text == "too many windows wait"


def test_answers_in_chunks_and_up_to_the_end_are_read(host: Callable) -> None:
    chunks = (
        b"HTTP/1.1 201 Made\r\ntransfer-ENCODING:  Chunked \r\n\r\n"
        b'3;a=b\r\n{"i\r\n09\r\nd": "one"\r\n1\r\n}\r\n0\r\nA: b\r\n\r\n'
    )
    to_end = b'HTTP/1.0 200 OK\r\n\r\n{"tiles": 1}'
    hinted = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" + TAKEN
    pieces: list[Step] = [chunks[at : at + 1] for at in range(len(chunks))]
    with serving(**{"POST /slides ": [pieces], "/tiles": [[hinted]], "/finish": [[to_end, CLOSE]]}) as server:
        said = host(connect(server), BEGIN, PUSH, "finish 1000")
    assert [each.status for each in said] == [OK] * 4
    assert said[3].printed == ['{"tiles": 1}']


def test_a_kept_connection_that_was_closed_is_opened_once_more(host: Callable) -> None:
    with serving(**{"POST /slides ": [[BEGUN]], "/tiles": [[TAKEN], [CLOSE], [TAKEN], [CLOSE]]}) as server:
        said = host(connect(server), BEGIN, PUSH, PUSH, PUSH)
        pushed = [number for number, line in server.asked if "/tiles" in line]
    assert [each.status for each in said] == [OK, OK, OK, OK, LOST]
    assert len(pushed) == 5  # the second and the third were sent twice, no more
    assert pushed[0] == pushed[1]
    assert len(set(pushed)) == 3


def test_a_connection_that_the_server_closes_in_between_is_no_error(host: Callable) -> None:
    last = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
    with serving(**{"POST /slides ": [[BEGUN, CLOSE]], "/tiles": [[last, CLOSE]]}) as server:
        said = host(connect(server), BEGIN, PUSH, PUSH, PUSH)
        assert sum("/tiles" in line for _, line in server.asked) == 3
    assert [each.status for each in said] == [OK] * 5


def test_a_slide_is_not_begun_twice_by_one_call(host: Callable) -> None:
    with serving(**{"POST /slides ": [[CLOSE]]}) as server:
        said = host(connect(server), BEGIN)
        assert sum("POST /slides " in line for _, line in server.asked) == 1
    assert [each.status for each in said] == [OK, LOST]


def test_a_refusal_in_the_middle_of_a_body_is_heard(host: Callable) -> None:
    """The server answers and closes after the head; the body does not fit into what sockets hold."""
    listening = socket.create_server(("127.0.0.1", 0))
    refusal = answer({"error": "too large"}, "413 Too Large")

    def refuse() -> None:
        with listening:
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

    def talk(connection: socket.socket) -> None:
        with connection:
            while head := connection.recv(2000):
                if b"/tiles" in head:
                    connection.sendall(refusal)
                    time.sleep(1)
                    return
                answers = {b"GET /healthz": HEALTHY, b"POST /slides": BEGUN, b"GET /slides": LEASED}
                connection.sendall(next((each for start, each in answers.items() if head.startswith(start)), TAKEN))

    threading.Thread(target=refuse, daemon=True).start()
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    said = host(f"connect {address} - 3000", BEGIN, "push 0 0 4096 2048 0 0 25165824 0")
    assert [each.status for each in said] == [OK, OK, REFUSED]
    assert said[2].text == "too large"


MEMORY: dict[str, object] = {
    "a path that is not there": {"path": "/proc/0/fd/0", "bytes": 20000},
    "a folder": {"path": "/tmp", "bytes": 20000},
    "a device": {"path": "/dev/zero", "bytes": 20000},
    "a file that could be cut short": {"path": "FILE", "bytes": 20000},
    "no path": {"bytes": 20000},
    "too few": {"path": "/dev/zero", "bytes": 10},
    "no number": {"path": "/dev/zero", "bytes": "many"},
}


@pytest.mark.parametrize("told", MEMORY.values(), ids=MEMORY)
def test_memory_that_could_end_the_host_is_not_taken(told: dict[str, object], host: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(30000))
    told = {name: str(tmp_path / "file") if value == "FILE" else value for name, value in told.items()}
    given = answer(told, "201 Made")
    with serving(**{"POST /slides ": [[BEGUN]], "/memory": [[given]], "/tiles": [[TAKEN]]}) as server:
        said = host(connect(server), BEGIN, "memory 20000", PUSH)
        assert 64 * 64 * 3 in map(len, server.bodies)  # the tile came by the socket
    assert said[2].status in (REFUSED, LOST)
    assert said[3].status == OK


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("{}", {"lease": True}), (' {"a": [1, {"lease": 2}]} ', {"lease": True, "a": [1, {"lease": 2}]}),
        ('{"lease": true, "b": "}"}', {"lease": True, "b": "}"}), ('{"lease": false}', {"lease": False}),
    ],
)  # fmt: skip
def test_a_session_is_begun_with_a_lease(given: str, sent: dict[str, object], host: Callable) -> None:
    with serving(**{"POST /slides ": [[BEGUN]]}) as server:
        said = host(connect(server), f"begin {given}")
        bodies, asked = [body for body in server.bodies if body], [line for _, line in server.asked]
    assert [each.status for each in said] == [OK, OK]
    assert [json.loads(body) for body in bodies] == [sent]
    assert any("/lease" in line for line in asked) == sent["lease"]
    assert any(line.startswith("DELETE /slides/one ") for line in asked)


def test_rows_with_gaps_arrive_without_them(host: Callable) -> None:
    with serving(**{"POST /slides ": [[BEGUN]], "/tiles": [[TAKEN]]}) as server:
        said = host(connect(server), BEGIN, "push 64 128 64 64 200 1 12792 500")
        line = next(line for _, line in server.asked if "/tiles" in line)
        pushed = next(body for body in server.bodies if len(body) == 12288)
    given = bytes((each * 7 + each // 251) % 256 for each in range(12792))
    assert said[2].status == OK
    assert pushed == b"".join(given[row * 200 :][:192] for row in range(64))
    assert line.startswith("PUT /slides/one/tiles?level=0&x=64&y=128&width=64&height=64&format=bgr&wait_ms=")
