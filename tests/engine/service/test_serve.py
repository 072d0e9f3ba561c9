"""The command that serves: where it listens, who may ask, how it ends."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import openapi_spec_validator
import pytest
from command_line import assert_one_line, run
from service_server import PLACES, TILE, Server, begin, push, read_events, says

TOKEN = "a-token-of-some-length"


def test_without_the_packages_one_line_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "starlette.py").write_text("raise ModuleNotFoundError('none', name='starlette')")
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError('none', name='uvicorn')")
    done = run("serve", "--out", tmp_path / "out", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert_one_line(done, 2, "pip install 'glassrt[serve]'")


def test_the_engine_loads_no_server() -> None:
    heavy = "{'starlette', 'uvicorn', 'httptools', 'prometheus_client', 'anyio'}"
    code = f"import sys, glassrt.engine, glassrt.engine.commands.main; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--listen", "0.0.0.0:0"], "--token-file"),
        (["--listen", "8080"], "expected a number and a port"),
        (["--listen", "127.0.0.1:99999"], "expected a number and a port"),
        (["--listen", "example.org:80"], "expected a number and a port"),
        (["--listen", "203.0.113.1:8080", "--token-file", "TOKEN"], "cannot be listened on"),
        (["--token-file", "none"], "cannot be read"),
        (["--token-file", "SHORT"], "16 letters"),
        (["--bundle", "x"], "NAME=PATH"),
        (["--bundle", "a/b=x"], "NAME=PATH"),
        (["--bundle", "x=/none.glass"], "/none.glass is no bundle"),
        (["--bundle", "x=a", "--bundle", "x=b"], "given twice"),
        (["--backend", "abacus"], "abacus"),
        (["--log-level", "loud"], "--log-level"),
        (["--sessions", "0"], "sessions"),
        (["--socket", "FILE"], "something else stands there"),
    ],
)
def test_what_cannot_be_served_ends_in_one_line(tmp_path: Path, options: list[str], says: str) -> None:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "short").write_text("short")
    named = {"TOKEN": tmp_path / "token", "SHORT": tmp_path / "short", "FILE": tmp_path / "token"}
    port = [] if "--listen" in options or "--socket" in options else ["--listen", "127.0.0.1:0"]
    done = run("serve", "--out", tmp_path / "out", *port, *(named.get(each, each) for each in options))
    assert_one_line(done, 2, says)


def test_an_output_folder_that_cannot_be_written_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("serve", "--out", tmp_path / "file", "--listen", "127.0.0.1:0")
    assert_one_line(done, 2, "file")


def test_a_port_and_a_socket_in_use_end_in_one_line(start: Callable[..., Server], tmp_path: Path) -> None:
    first = start()
    done = run("serve", "--out", tmp_path / "out", "--listen", first.where.removeprefix("http://"))
    assert_one_line(done, 2, "is in use")
    start("--socket", tmp_path / "socket", folder="second")
    done = run("serve", "--out", tmp_path / "out", "--socket", tmp_path / "socket")
    assert_one_line(done, 2, "is in use")


def test_a_socket_is_its_users_alone_and_goes_with_the_server(start: Callable[..., Server], tmp_path: Path) -> None:
    path = tmp_path / "socket"
    running = start("--socket", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert running.ask("GET", "/healthz").json() == {"status": "ok"}
    running.end(signal.SIGKILL)
    assert path.exists()
    running = start("--socket", path, folder="again")
    assert running.ask("GET", "/v2/health/ready").status_code == 200
    assert running.end() == 0
    assert not path.exists()


def test_with_a_token_every_request_has_to_bear_it(start: Callable[..., Server], tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    running = start("--token-file", tmp_path / "token", "--listen", "0.0.0.0:0")
    running.client = httpx.Client(base_url=running.where.replace("0.0.0.0", "127.0.0.1"), timeout=20)
    for told in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"}):
        for path in ("/v2", "/metrics", "/openapi.json", "/slides", "/none"):
            answer = running.ask("GET", path, headers=told)
            says(answer, 401, "Authorization: Bearer")
            assert answer.headers["www-authenticate"] == "Bearer"
    assert running.ask("GET", "/v2", headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200
    assert running.ask("GET", "/healthz").status_code == 200
    assert TOKEN not in running.output


@pytest.mark.parametrize("head", [{"Origin": "https://example.org"}, {"Host": "example.org"}, {"Host": "10.0.0.1:80"}])
def test_web_pages_are_refused_where_there_is_no_token(server: Server, head: dict[str, str]) -> None:
    says(server.ask("GET", "/v2", headers=head), 403)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_sessions_and_streams_and_the_server(start: Callable[..., Server], number: int) -> None:
    running = start()
    where = begin(running, "running").headers["location"]
    push(running, where, 0, 0, np.zeros((TILE, TILE, 3), np.uint8))
    listening = socket.create_connection(running.address)
    listening.sendall(f"GET {where}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode())
    idle = socket.create_connection(running.address)
    time.sleep(0.3)
    begun = time.monotonic()
    assert running.end(number) == 0
    assert time.monotonic() - begun < 10
    listening.settimeout(5)
    told = b""
    while chunk := listening.recv(65536):
        told += chunk
    assert b"event: cancelled" in told
    assert [path.name for path in running.out.iterdir() if path.is_dir()] == []
    assert "Traceback" not in running.output
    idle.close()


def test_the_description_is_of_every_way_in(server: Server) -> None:
    told = server.ask("GET", "/openapi.json").json()
    openapi_spec_validator.validate(told)
    ids = {
        "{id}": "none", "{model}": "none", "{version}": "1", "{region}": "none", "{file}": "result.json"
    }  # fmt: skip
    for path, ways in told["paths"].items():
        asked = path
        for name, value in ids.items():
            asked = asked.replace(name, value)
        for method in ("get", "post", "put", "delete"):
            answer = server.ask(method.upper(), asked)
            known = method in ways
            assert (answer.status_code == 405) != known, (method, path, answer.status_code)
            if answer.status_code >= 400:
                says(answer, answer.status_code)
    for named in ("/slides", "/slides/{id}/tiles", "/v2/models/{model}/infer", "/jobs/{id}/results"):
        assert named in told["paths"]


def test_figures_are_those_of_what_was_done(start: Callable[..., Server]) -> None:
    running = start()
    where = begin(running, "counted").headers["location"]
    for x, y in PLACES[:3]:
        push(running, where, x, y, np.zeros((TILE, TILE, 3), np.uint8))
    text = running.ask("GET", "/metrics").text
    assert 'glassrt_tiles_total{outcome="taken"} 3.0' in text
    assert "glassrt_sessions 1.0" in text
    running.ask("DELETE", where)
    read_events(running, where)
    text = running.ask("GET", "/metrics").text
    assert "glassrt_sessions 0.0" in text
    assert 'glassrt_sessions_ended_total{state="cancelled"} 1.0' in text
    assert 'glassrt_requests_total{method="PUT",status="204"} 3.0' in text


def test_a_signal_ends_pushes_that_wait_within_ten_seconds(tmp_path: Path) -> None:
    """With a network that takes as long as a real one, on more windows than can be done."""
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder, "--precision", "fp32", "--backend", "ort")
    told = {"bundle": "glas-glands", "levels": [[6000, 6000]], "tile": 1000, "tissue": "all", "backlog": 1}
    where = begin(server, "busy", **told).headers["location"]
    pixels, statuses = np.random.default_rng(1).integers(0, 256, (1000, 1000, 3), np.uint8), list[int]()

    def push_all() -> None:
        client = httpx.Client(base_url=server.where, timeout=20)
        for number in range(36):
            place = {"x": number % 6 * 1000, "y": number // 6 * 1000, "width": 1000, "height": 1000, "format": "rgb"}
            try:
                answer = client.put(f"{where}/tiles", params=place, content=pixels.tobytes())
            except httpx.HTTPError:
                return
            statuses.append(answer.status_code)
            if answer.status_code != 204:
                return

    pushing = [threading.Thread(target=push_all) for _ in range(6)]
    for each in pushing:
        each.start()
    time.sleep(2)
    answer = push(server, where, 0, 0, np.ascontiguousarray(pixels[:100, :100]), wait_ms=0)
    says(answer, 429)
    begun = time.monotonic()
    assert server.end() == 0
    assert time.monotonic() - begun < 10
    for each in pushing:
        each.join(20)
    assert {*statuses} <= {204, 409, 429, 503}, statuses
    assert [path.name for path in server.out.iterdir() if path.is_dir()] == []
    assert "Traceback" not in server.output
