"""What a server does not take, and what it does not do for it."""

import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from service_server import TILE, Server, begin, push, says

URL = "/v2/models/small/infer"
POST = b"POST %s HTTP/1.1\r\nHost: localhost\r\n" % URL.encode()
MB = 1 << 20


def read_kb(server: Server, what: str = "VmRSS") -> int:
    """A figure of the server's process."""
    told = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in told.splitlines() if line.startswith(what)))


def talk(server: Server, content: bytes, wait_s: float = 5) -> bytes:
    """What the server answers to bytes, until it ends the connection or says no more."""
    with socket.create_connection(server.address, timeout=wait_s) as client:
        told = b""
        try:
            client.sendall(content)
            client.shutdown(socket.SHUT_WR)
            while chunk := client.recv(65536):
                told += chunk
        except (ConnectionError, TimeoutError):
            pass
        return told


def test_a_body_is_refused_before_it_is_held(server: Server) -> None:
    before = read_kb(server)
    says(server.ask("POST", URL, content=bytes(4 * MB + 1)), 413, f"more than {4 * MB} bytes")

    def endless():  # type: ignore[no-untyped-def]
        for _ in range(4096):
            yield bytes(65536)

    says(server.ask("POST", URL, content=endless()), 413)
    assert read_kb(server) - before < 40_000
    assert server.ask("GET", "/healthz").status_code == 200


def test_what_unpacks_to_too_much_is_refused(server: Server) -> None:
    import gzip

    content = gzip.compress(bytes(100 * MB))
    before = read_kb(server)
    says(server.ask("POST", URL, content=content, headers={"Content-Encoding": "gzip"}), 413)
    says(server.ask("POST", URL, content=content[:100], headers={"Content-Encoding": "gzip"}), 400, "cut off")
    says(server.ask("POST", URL, content=b"x", headers={"Content-Encoding": "deflate"}), 400, "deflate")
    says(server.ask("POST", URL, content=b"x", headers={"Content-Encoding": "br"}), 415)
    assert read_kb(server) - before < 40_000


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"no http at all\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (POST + b"Content-Length: -5\r\n\r\n", 400),
        (POST + b"Content-Length: 9e9\r\n\r\n", 400),
        (POST + b"Content-Length: %d\r\n\r\n" % 10**15, 413),
        (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 5000 + b"\r\n", 431),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET http:// HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /slides/%2e%2e/results/result.json HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 200),
    ],
)  # fmt: skip
def test_what_is_no_proper_http_is_answered_in_one_line(server: Server, content: bytes, status: int) -> None:
    told = talk(server, content)
    head, _, body = told.partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status, told[:300]
    assert status == 200 or body.startswith(b'{"error":'), told[:300]
    assert server.ask("GET", "/healthz").status_code == 200


def test_a_body_that_ends_too_early_is_no_body(server: Server) -> None:
    head = f"POST {URL} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n".encode()
    with socket.create_connection(server.address) as client:
        client.sendall(head + b"{")
    time.sleep(0.2)
    assert server.ask("GET", "/healthz").status_code == 200


def test_bodies_that_are_held_at_once_are_limited(server: Server) -> None:
    """Eight clients each send most of a large body and wait."""
    head = f"POST {URL} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {4 * MB}\r\n\r\n".encode()
    before = read_kb(server)
    clients = [socket.create_connection(server.address, timeout=5) for _ in range(8)]
    refused = 0
    for client in clients:
        try:
            client.sendall(head + bytes(3 * MB))
        except (ConnectionError, TimeoutError):
            refused += 1
    time.sleep(0.5)
    for client in clients:
        client.settimeout(0.2)
        try:
            refused += client.recv(100).startswith(b"HTTP/1.1 429")
        except (ConnectionError, TimeoutError):
            continue
    assert refused >= 2
    assert read_kb(server) - before < 60_000
    for client in clients:
        client.close()
    time.sleep(0.5)
    assert server.ask("POST", URL, content=b"{}").status_code == 400


def count_files(server: Server) -> int:
    return len([*Path(f"/proc/{server.process.pid}/fd").iterdir()])


@pytest.mark.slow
def test_sessions_leave_no_memory_and_no_files_behind(start: Callable[..., Server]) -> None:
    server = start("--shared-memory")
    tile = np.zeros((TILE, TILE, 3), np.uint8)

    def run(number: int) -> None:
        where = begin(server, f"slide-{number}", lease=True).headers["location"]
        assert server.ask("POST", f"{where}/memory", json={"bytes": MB}).status_code == 201
        with socket.create_connection(server.address) as holder:
            holder.sendall(f"GET {where}/lease HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            holder.recv(100)
            push(server, where, 0, 0, tile)
            if number % 3 == 0:
                assert server.ask("POST", f"{where}/finish").status_code == 200
            elif number % 3 == 1:
                server.ask("DELETE", where)
        until = time.monotonic() + 5
        while server.ask("GET", where).json()["state"] == "open":
            assert time.monotonic() < until
            time.sleep(0.02)

    for number in range(45):
        run(number)
    time.sleep(0.5)
    before, files = read_kb(server), count_files(server)
    for number in range(45, 75):
        run(number)
    time.sleep(1)
    assert count_files(server) <= files + 1
    assert read_kb(server) - before < 10_000  # the shared memory of thirty sessions alone has three times that
