"""What stands between a host and its session: shared memory, its lease, tiles that wait."""

import io
import os
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from service_server import PLACES, TILE, Server, begin, push, says, wait_for


def open_memory(server: Server, where: str, size: int) -> tuple[io.FileIO, dict[str, Any]]:
    answer = server.ask("POST", f"{where}/memory", json={"bytes": size})
    assert answer.status_code == 201, answer.text
    return io.FileIO(os.open(answer.json()["path"], os.O_RDWR), "r+"), answer.json()


def test_tiles_are_taken_from_memory_that_cannot_be_shrunk(server: Server, where: str, pixels: np.ndarray) -> None:
    tile = np.ascontiguousarray(pixels[:TILE, :TILE])
    file, told = open_memory(server, where, 50_000)
    with file:
        assert told["bytes"] >= 50_000
        file.seek(512)
        file.write(tile.tobytes())
        place = {"x": 0, "y": 0, "width": TILE, "height": TILE, "format": "rgb", "offset": 512, "length": tile.nbytes}
        assert server.ask("PUT", f"{where}/tiles", params=place).status_code == 204
        for size in (0, 1 << 20):
            with pytest.raises(PermissionError):
                os.truncate(file.fileno(), size)
        for change in ({"offset": 40_000}, {"offset": 1 << 40}, {"offset": -1}, {"length": 0}, {"length": 5}):
            says(server.ask("PUT", f"{where}/tiles", params={**place, **change}), 400)
        says(server.ask("PUT", f"{where}/tiles", params=place, content=b"x"), 400, "empty body")
    says(server.ask("POST", f"{where}/memory", json={"bytes": 10}), 409, "has its memory")
    server.ask("DELETE", where)
    held = [os.readlink(path) for path in Path(f"/proc/{server.process.pid}/fd").iterdir() if path.is_symlink()]
    assert not [name for name in held if "memfd:glassrt" in name]


@pytest.mark.parametrize("told", [{}, {"bytes": 0}, {"bytes": -5}, {"bytes": 1 << 50}, {"bytes": "x"}, {"b": 1}, []])
def test_memory_has_a_size_that_makes_sense(server: Server, where: str, told: object) -> None:
    says(server.ask("POST", f"{where}/memory", json=told), 400)


def test_a_session_ends_with_the_client_that_holds_it(server: Server) -> None:
    where = begin(server, "held", lease=True).headers["location"]
    other = begin(server, "other").headers["location"]
    holder = socket.create_connection(server.address)
    holder.sendall(f"GET {where}/lease HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert holder.recv(100).startswith(b"HTTP/1.1 200")
    says(server.ask("GET", f"{where}/lease"), 409, "another client")
    time.sleep(1.5)
    assert server.ask("GET", where).json()["state"] == "open"
    holder.close()
    assert wait_for(server, where, "cancelled", 5)["error"] == "its client has gone"
    assert server.ask("GET", other).json()["state"] == "open"
    server.ask("DELETE", other)


def test_health_is_told_while_tiles_wait(server: Server, pixels: np.ndarray) -> None:
    """Bodies that never end are waited for; nobody else is."""
    where = begin(server, "slow").headers["location"]
    place = f"x=0&y=0&width={TILE}&height={TILE}&format=rgb"
    head = f"PUT {where}/tiles?{place} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {3 * TILE * TILE}\r\n\r\n"
    waiting = [socket.create_connection(server.address) for _ in range(4)]
    for each in waiting:
        each.sendall(head.encode() + bytes(100))
    time.sleep(0.2)
    begun = time.monotonic()
    assert server.ask("GET", "/healthz").json() == {"status": "ok"}
    assert time.monotonic() - begun < 1
    answer = push(server, where, 0, 0, pixels[:TILE, :TILE], wait_ms=100)
    says(answer, 429, "push it again")
    assert answer.headers["retry-after"] == "1"
    for each in waiting:
        each.close()
    until = time.monotonic() + 5
    assert push(server, where, 0, 0, pixels[:TILE, :TILE]).status_code == 204
    assert time.monotonic() < until
    server.ask("DELETE", where)


def test_what_is_being_finished_is_finished_though_its_client_goes(server: Server, pixels: np.ndarray) -> None:
    where = begin(server, "left", lease=True).headers["location"]
    with socket.create_connection(server.address) as holder:
        holder.sendall(f"GET {where}/lease HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        holder.recv(100)
        for x, y in PLACES:
            push(server, where, x, y, pixels[y : y + TILE, x : x + TILE])
        finishing = socket.create_connection(server.address)
        finishing.sendall(f"POST {where}/finish HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        until = time.monotonic() + 5
        while server.ask("GET", where).json()["state"] == "open":
            assert time.monotonic() < until
        finishing.close()
    wait_for(server, where, "finished")
    assert (server.out / "left" / "result.json").is_file()
