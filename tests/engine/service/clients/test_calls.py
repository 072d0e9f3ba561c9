"""Every call of the client against a real server: what it returns, and that limits of time are kept."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from service_server import Server

OK, NONE, BUSY, REFUSED, ENDED, LOST, TIMEOUT, MISUSE = range(8)
BEGIN = {"bundle": "small", "levels": [[640, 640]], "mpp": 0.5, "tile": [64, 64], "name": "slide", "tissue": "all"}


def begin(**changes: object) -> str:
    return "begin " + json.dumps(BEGIN | changes)


def connect(server: Server, timeout_ms: int = 5000, token: str = "-") -> str:
    where = server.where.removeprefix("http://") if server.where.startswith("http") else f"unix:{server.where}"
    return f"connect {where} {token} {timeout_ms}"


def push(index: int, stride: int = 0, length: int = 0, wait_ms: int = 1000) -> str:
    length = length or (64 * 64 * 3 if not stride else stride * 63 + 192)
    return f"push {index % 10 * 64} {index // 10 * 64} 64 64 {stride} 0 {length} {wait_ms}"


@pytest.mark.parametrize(
    ("name", "memory"), [("body", ()), ("memory", ("memory 100000",)), ("little", ("memory 100",))]
)
def test_a_slide_from_begin_to_end(name: str, memory: tuple[str, ...], host: Callable, server: Server) -> None:
    said = host(
        connect(server), begin(name=name), *memory,
        *(push(index, stride=0 if index % 2 else 200) for index in range(100)),
        "finish 60000", *["event 5000"] * 200,
    )  # fmt: skip
    first = 102 + len(memory)
    assert [each.status for each in said[:first]] == [OK] * first, said[:first]
    result = json.loads("".join(said[first].printed)) if said[first].printed else {}
    assert said[first].status == OK
    assert result
    kinds = [each.printed[0].split()[1] for each in said[first + 1 :] if each.status == OK]
    assert kinds[-1] == "finished"
    assert "map" in kinds
    assert said[-1].status == ENDED
    assert "finished" in said[-1].text


def test_threads_push_beside_each_other(host: Callable, server: Server) -> None:
    said = host(connect(server), begin(name="threads"), "memory 20000", "threads 8 10", "end")
    assert [each.status for each in said] == [OK] * 5


def test_no_event_comes_in_time(host: Callable, server: Server) -> None:
    said = host(connect(server), begin(name="none"), "event 0", "event 300", "cancel", "event 2000", "event 2000")
    assert [each.status for each in said] == [OK, OK, NONE, NONE, OK, OK, ENDED]
    assert said[2].ms < 200
    assert 290 <= said[3].ms < 900
    assert "cancelled" in said[5].printed[0]


def test_a_bad_tile_is_refused_and_the_session_goes_on(host: Callable, server: Server) -> None:
    jpeg = "push 0 0 64 64 0 4 500 1000"
    said = host(connect(server), begin(name="bad"), jpeg, push(0), "cancel", push(1), "finish 5000")
    assert [each.status for each in said] == [OK, OK, REFUSED, OK, OK, ENDED, ENDED]
    assert "jpeg" in said[2].text
    assert "cancelled" in said[5].text


@pytest.mark.parametrize(
    ("call", "word"),
    [
        ("push 0 0 64 64 0 0 12287 0", "too few"), ("push 0 0 64 64 100 0 12288 0", "apart"),
        ("push 0 0 64 64 200 0 12791 0", "too few"), ("push 0 0 0 64 0 0 12288 0", "0 x 64"),
        ("push 0 0 64 64 0 9 12288 0", "format"), ("push 0 0 64 64 0 0 0 0", "without content"),
        ("push 0 0 64 64 0 0 12288 -1", "room"), ("push 0 0 70000 70000 0 0 10 0", "70000"), ("event -1", "event"),
        ("finish 0", "limit"), ("memory 0", "memory"), ("overview ", "picture"), ("begin [1]", "JSON"),
        ("begin {", "JSON"), ("begin ", "JSON"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_told_and_sent_to_nobody(call: str, word: str, host: Callable, server: Server) -> None:
    said = host(connect(server), begin(name="wrong"), call)
    assert [each.status for each in said] == [OK, OK, MISUSE]
    assert word in said[2].text


def test_calls_without_a_client_or_session_are_misuse(host: Callable) -> None:
    calls = [begin(), push(0), "event 10", "finish 10", "cancel", "memory 10", "overview abc", "end"]
    said = host(*calls)
    assert [each.status for each in said] == [MISUSE] * 7 + [OK]


@pytest.mark.parametrize(
    "address",
    [
        "nowhere", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "example.org:80", ":80", "[::1:80", "unix:",
        "127.0.0.1:123456", "unix:/" + "a" * 120, "a" * 200 + ":1",
    ],
)  # fmt: skip
def test_what_is_no_address_is_told_at_once(address: str, host: Callable) -> None:
    said = host(f"connect {address} - 5000", begin())
    assert [each.status for each in said] == [MISUSE, MISUSE]
    assert said[0].ms < 100
    assert said[0].text
    assert "no address" in said[1].text


def test_a_second_begin_with_the_name_is_refused(host: Callable, server: Server) -> None:
    said = host(connect(server), begin(name="twice"), begin(name="twice"), begin(bundle="none"), begin(mpp=-1))
    assert [each.status for each in said] == [OK, OK, REFUSED, REFUSED, REFUSED]
    assert "twice" in said[2].text
    assert "none" in said[3].text


def test_a_server_with_all_places_taken_is_busy_until_one_is_free(host: Callable, start: Callable[..., Server]) -> None:
    server = start("--sessions", 1)
    said = host(connect(server), begin(), begin(name="next"))
    assert [each.status for each in said] == [OK, OK, BUSY]
    said = host(connect(server), begin(name="third"), "end", begin(name="fourth"), "end")
    assert [each.status for each in said] == [OK] * 5  # the client before gave its place up when it was closed


def test_a_busy_session_takes_the_tile_later(host: Callable, start: Callable[..., Server]) -> None:
    server = start()
    tiles = [push(index, wait_ms=0) for index in range(100)]
    said = host(connect(server), begin(backlog=1, levels=[[640, 640]]), *tiles, push(99, wait_ms=20000))
    statuses = {each.status for each in said[2:-1]}
    assert statuses <= {OK, BUSY}
    assert BUSY in statuses
    assert said[-1].status == OK


def test_an_overview_comes_first(host: Callable, server: Server, picture: Path) -> None:
    said = host(connect(server), begin(name="overview", overview=True), push(0), "overview no picture", "cancel")
    assert [each.status for each in said] == [OK, OK, ENDED, REFUSED, OK]
    assert "overview" in said[2].text


def test_a_socket_of_the_file_system_serves_as_well(
    host: Callable, start: Callable[..., Server], tmp_path: Path
) -> None:
    server = start("--socket", tmp_path / "socket", "--shared-memory")
    said = host(connect(server), begin(), "memory 20000", push(0), "cancel", "event 5000")
    assert [each.status for each in said] == [OK] * 6


def test_a_session_ends_with_its_handle(host: Callable, server: Server) -> None:
    for _ in range(12):  # more than the server takes at once
        said = host(connect(server), begin(name="again"), "memory 20000", push(0), "event 0")
        assert [each.status for each in said[:4]] == [OK] * 4
