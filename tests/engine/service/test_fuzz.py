"""Requests of all kinds with anything wrong in them: none hangs, crashes or grows the server."""

import base64
import json
import os
import random
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from service_server import TILE, Server, begin
from small_bundle import WINDOW

COUNT = int(os.environ.get("GLASSRT_FUZZ", "3000"))
ODD: list[object] = [
    None, True, -1, 0, 1, 2**31, 2**63, 10**30, -(10**30), 1.5, 1e308, "", "a", "../../x", "\0", "é" * 200, "9" * 500,
    [], {}, [[]], [None], {"a": [1]}, [-1, 0], [10**18] * 4,
]  # fmt: skip


class Fuzz:
    """Makes requests out of proper ones."""

    def __init__(self, seed: int, session: str) -> None:
        self.random = random.Random(seed)
        image = bytes(WINDOW * WINDOW * 3)
        infer = {"inputs": [{"name": "image", "shape": [1, WINDOW, WINDOW, 3], "datatype": "UINT8"}]}
        binary = json.loads(json.dumps(infer))
        binary["inputs"][0]["parameters"] = {"binary_data_size": len(image)}
        shared = json.loads(json.dumps(infer))
        shared["inputs"][0]["parameters"] = {
            "shared_memory_region": "r", "shared_memory_offset": 0, "shared_memory_byte_size": len(image),
        }  # fmt: skip
        infer["inputs"][0]["data"] = [0] * len(image)
        slide = {
            "bundle": "small", "levels": [[200, 200]], "mpp": 0.5, "tile": [TILE, TILE], "name": "fuzz", "bounds": None,
            "jpeg_tables": base64.b64encode(b"abc").decode(), "tissue": "all", "patience_ms": 5, "backlog": 10,
        }  # fmt: skip
        tile = {"level": 0, "x": 0, "y": 0, "width": TILE, "height": TILE, "format": "rgb", "wait_ms": 0}
        jpeg = b"\xff\xd8\xff\xe0" + self.random.randbytes(300)
        region = "/v2/systemsharedmemory/region/r/register"
        self.plain: list[tuple[str, str, object, dict[str, object], bytes, bool]] = [
            ("POST", "/v2/models/small/infer", infer, {}, b"", False),
            ("POST", "/v2/models/small/infer", binary, {}, image, True),
            ("POST", "/v2/models/small/infer", shared, {}, b"", True),
            ("POST", region, {"key": "glassrt_fuzz", "offset": 0, "byte_size": 100}, {}, b"", False),
            ("POST", "/slides", slide, {}, b"", False),
            ("PUT", f"{session}/tiles", None, tile, bytes(TILE * TILE * 3), False),
            ("PUT", f"{session}/tiles", None, {**tile, "format": "jpeg"}, jpeg, False),
            ("PUT", f"{session}/tiles", None, {**tile, "offset": 0, "length": TILE * TILE * 3}, b"", False),
            ("PUT", f"{session}/overview", None, {}, b"\x89PNG\r\n\x1a\n" + self.random.randbytes(200), False),
            ("GET", f"{session}/events", None, {"after": 0, "wait_ms": 0}, b"", False),
            ("POST", f"{session}/memory", {"bytes": 1000}, {}, b"", False),
            ("POST", "/processes/score/execution", {"inputs": {"slide": "/none", "mpp": 0.5}}, {}, b"", False),
            ("GET", "/jobs", None, {"limit": 5}, b"", False),
        ]

    def make(self) -> tuple[bytes, bool]:
        """The bytes of a request, and whether it waits for more of them."""
        draw = self.random
        method, path, content, query, rest, binary = draw.choice(self.plain)
        if draw.random() < 0.1:
            method = draw.choice(["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "X"])
        if draw.random() < 0.1:
            path = path.replace(draw.choice("abemst/0"), draw.choice(["", "%00", "..", "/", "%ff", "é", "a" * 300]))
        head = b"" if content is None else json.dumps(self.change(content)).encode()
        if query and draw.random() < 0.7:
            name = draw.choice([*query])
            query = {**query, name: draw.choice(ODD)}
        length = str(len(head)) if binary else ""
        if draw.random() < 0.2:
            length = draw.choice(["0", "-1", "1", "99999999", "x", "9" * 40, str(len(head) + 1), str(len(head) - 1)])
        body = self.damage(head) + self.damage(rest)
        lines = [f"{method} {path}{'?' + urlencode(query) if query else ''} HTTP/1.1", "Host: localhost"]
        if length:
            lines.append(f"Inference-Header-Content-Length: {length}")
        told = len(body) if draw.random() < 0.95 else draw.choice([0, max(0, len(body) - 1), -1, 10**12])
        lines += [f"Content-Length: {told}", "Connection: close", "", ""]
        return "\r\n".join(lines).encode("latin-1", "replace") + body, told > len(body)

    def change(self, content: object) -> object:
        """A value with something else in it, somewhere."""
        draw = self.random
        if draw.random() < 0.15 or not isinstance(content, dict | list) or not content:
            return draw.choice(ODD) if draw.random() < 0.4 else content
        if isinstance(content, dict):
            name = draw.choice([*content])
            changed = {**content, name: self.change(content[name])}
            if draw.random() < 0.1:
                del changed[name]
            return changed
        if len(content) > 100:
            return content[: draw.choice([0, 1, len(content) - 1])] if draw.random() < 0.5 else content
        at = draw.randrange(len(content))
        return [*content[:at], self.change(content[at]), *content[at + 1 :]]

    def damage(self, content: bytes) -> bytes:
        """Bytes with some changed, some missing or some more."""
        draw = self.random
        if not content or draw.random() < 0.6:
            return content
        at = draw.randrange(len(content))
        return draw.choice([content[:at], content[:at] + draw.randbytes(3) + content[at + 3 :], content + b"x" * at])


def answer_of(server: Server, content: bytes, waits: bool) -> bytes:
    with socket.create_connection(server.address, timeout=15) as client:
        try:
            client.sendall(content)
            if waits:
                client.shutdown(socket.SHUT_WR)
            told = b""
            while chunk := client.recv(65536):
                told += chunk
        except ConnectionError:
            return b""
        return told


@pytest.mark.slow
def test_fuzzed_requests_do_no_harm(start: Callable[..., Server], small: Path) -> None:
    server = start("--shared-memory", "--body-mb", "1", "--sessions", "3", "--log-level", "info")
    seed = struct.unpack("<I", os.urandom(4))[0]
    where = begin(server, "target").headers["location"]
    fuzz = Fuzz(seed, where)
    Path("/dev/shm/glassrt_fuzz").write_bytes(bytes(5000))
    others = {path: path.read_bytes() for path in small.iterdir()}
    kinds: dict[int, int] = {}
    sizes = []
    try:
        for number in range(COUNT):
            told = answer_of(server, *fuzz.make())
            if told:
                status = int(told.split(None, 2)[1])
                kinds[status] = kinds.get(status, 0) + 1
                body = told.partition(b"\r\n\r\n")[2]
                assert status != 500, (seed, number, told[-300:])
                if status >= 400 and body:
                    assert [*json.loads(body)] == ["error"], (seed, number, told[:300])
            if number % 200 == 0:
                assert server.ask("GET", "/healthz").status_code == 200, (seed, number)
                for other in server.ask("GET", "/v2/systemsharedmemory/status").json():
                    assert other["key"].strip("/") == "glassrt_fuzz", (seed, number, other)
                memory = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
                sizes.append(int(memory) * 4096 / 1e6)
    finally:
        Path("/dev/shm/glassrt_fuzz").unlink()
    assert "Traceback" not in server.output, (seed, server.output[-2000:])
    assert {200, 204, 400, 404} <= kinds.keys(), (seed, kinds, server.ask("GET", where).json())
    half = len(sizes) // 2
    assert np.median(sizes[half:]) - np.median(sizes[1 : half + 1]) < 30, sizes
    assert len([*Path(f"/proc/{server.process.pid}/fd").iterdir()]) < 80
    assert {path: path.read_bytes() for path in small.iterdir()} == others
    assert server.end() == 0
