"""Servers of small bundles."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import tifffile
from service_server import SIDE, Server, begin
from small_bundle import make_bundle


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that opens in milliseconds."""
    return make_bundle(tmp_path_factory.mktemp("bundle") / "small.glass")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, small: Path) -> Iterator[Server]:
    """A server of a small bundle with shared memory, which has said nothing of errors in the end."""
    running = Server(
        tmp_path_factory.mktemp("server"), "--bundle", f"small={small}", "--shared-memory", "--precision", "fp32",
        "--backend", "ort", "--body-mb", 4, "--log-level", "info",
    )  # fmt: skip
    yield running
    assert running.end() == 0
    assert "Traceback" not in running.output
    assert "unexpected" not in running.output


@pytest.fixture
def start(tmp_path: Path, small: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers with options; they are ended."""
    with ExitStack() as stack:

        def started(*options: object, folder: str = "server") -> Server:
            (tmp_path / folder).mkdir(exist_ok=True)
            running = Server(
                tmp_path / folder, "--bundle", f"small={small}", "--precision", "fp32", "--backend", "ort", *options
            )
            stack.callback(running.end)
            return running

        yield started


@pytest.fixture(scope="module")
def pixels(demo_slide: Path) -> np.ndarray:
    return np.ascontiguousarray(tifffile.imread(demo_slide)[1000 : 1000 + SIDE, 500 : 500 + SIDE])


@pytest.fixture
def where(server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """An open session."""
    answer = begin(server, f"one-{abs(hash(request.node.name))}")
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/slides/{answer.json()['id']}"
    yield answer.headers["location"]
    server.ask("DELETE", answer.headers["location"])
