"""The local server, asked by real clients: tiles through the C client, windows through Triton's, dozens of sessions."""

import ctypes
import importlib
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import cv2
import numpy as np
import psutil

from glassrt.benchmarks.scan import MPP, Scanner
from glassrt.engine.bundles.bundle import open_bundle
from glassrt.engine.errors import UsageError
from glassrt.engine.runtimes.open import open_backend

COMMAND = (sys.executable, "-c", "from glassrt.engine.commands.main import main; main()")
MODEL = "glas-glands"
SIDE = 1024  # of a tile: 3 MB
BATCH = 4
WAIT_MS = 30_000


class Server(NamedTuple):
    """A running server: where it listens, and its process."""

    address: str
    process: psutil.Process

    def ask(self, method: str, path: str, content: Any = None) -> Any:
        """JSON of an answer; `content` is sent as JSON, bytes as they are."""
        body = content if isinstance(content, bytes) else None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"http://{self.address}{path}", body, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            told = answer.read()
        return json.loads(told) if told else None


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """A server of its own process, with results in `folder`. Raises UsageError where it does not start."""
    line = [*COMMAND, "serve", "--out", str(folder / "out"), "--listen", "127.0.0.1:0", "--shared-memory"]
    log = folder / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(line, stdout=output, stderr=output)
    try:
        while not (found := re.search(r" at http://(\S+)\n", log.read_text())):
            if process.poll() is not None:
                raise UsageError(f"glassrt serve ended: {log.read_text()[-300:]}")
            time.sleep(0.05)
        yield Server(found[1], psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(30)


def build_client(folder: Path) -> ctypes.CDLL:
    """The C client as a library. Raises UsageError without a compiler."""
    library = folder / "libglassrt.so"
    with as_file(files("glassrt.engine.service.clients")) as sources:
        line = [
            "gcc",
            "-std=c99",
            "-O2",
            "-shared",
            "-fPIC",
            *map(str, sources.glob("*.c")),
            "-o",
            str(library),
            "-lpthread",
        ]
        try:
            subprocess.run(line, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise UsageError(f"the C client cannot be compiled ({error}): install gcc") from error
    return ctypes.CDLL(str(library))


def glass_overview() -> bytes:
    """A picture of glass with a speck of tissue, so that tiles are taken and none is computed beside the clock."""
    picture = np.full((256, 256, 3), 245, np.uint8)
    picture[:3, :3] = (150, 60, 140)
    return cv2.imencode(".png", picture[..., ::-1])[1].tobytes()


def measure_tiles(server: Server, folder: Path, count: int = 200) -> dict[str, Any]:
    """Milliseconds of a call that hands in 3 MB, through shared memory and through the socket."""
    client_of = build_client(folder)
    client, session = ctypes.c_void_p(), ctypes.c_void_p()
    pixels = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    told: dict[str, Any] = {}
    for way in ("shared memory", "body"):
        must(client_of, client, client_of.glassrt_connect(server.address.encode(), None, 10_000, ctypes.byref(client)))
        begin = json.dumps({
            "bundle": MODEL, "levels": [[32768, 32768]], "mpp": MPP, "tile": [SIDE, SIDE], "overview": True,
            "name": f"tiles-{way.split()[0]}",
        })  # fmt: skip
        must(client_of, client, client_of.glassrt_begin(client, begin.encode(), ctypes.byref(session)))
        picture = glass_overview()
        four = [ctypes.c_int64(0)] * 4
        must(client_of, client, client_of.glassrt_overview(session, picture, ctypes.c_size_t(len(picture)), *four))
        if way == "shared memory":
            must(client_of, client, client_of.glassrt_memory(session, ctypes.c_size_t(pixels.nbytes)))
        seconds = []
        for number in range(count):
            row, column = divmod(number + 40, 32)
            start = time.perf_counter()
            status = client_of.glassrt_push(
                session, 0, ctypes.c_int64(column * SIDE), ctypes.c_int64(row * SIDE), SIDE, SIDE, ctypes.c_size_t(0),
                0, pixels.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(pixels.nbytes), 1000,
            )  # fmt: skip
            seconds.append(time.perf_counter() - start)
            must(client_of, client, status)
        client_of.glassrt_close(client)
        told[way] = percentiles(seconds)
    return told


def must(client_of: ctypes.CDLL, client: ctypes.c_void_p, status: int) -> None:
    """Raise UsageError for what the C client says went wrong."""
    if status:
        line = ctypes.create_string_buffer(500)
        client_of.glassrt_error(client, line, ctypes.c_size_t(500))
        raise UsageError(f"the C client says {status}: {line.value.decode(errors='replace')}")


def measure_infer(server: Server, count: int = 60) -> dict[str, Any]:
    """Milliseconds of a batch of windows: in this process, and through Triton's client with shared memory, by turns."""
    triton: Any = importlib.import_module("tritonclient.http")
    memory: Any = importlib.import_module("tritonclient.utils.shared_memory")
    bundle = open_bundle()
    backend = open_backend(bundle, "auto", BATCH, precision="auto")  # a call at a time, as the server does
    side = bundle.manifest.window
    windows = np.random.default_rng(2).integers(0, 256, (BATCH, side, side, 3), np.uint8)
    (spec,) = backend.inputs
    expected = next(iter(backend.infer({spec.name: windows}).values())).copy()
    name, size = f"glassrt_bench_{server.process.pid}", windows.nbytes + expected.nbytes
    client = triton.InferenceServerClient(server.address, network_timeout=60.0)
    region = memory.create_shared_memory_region(name, f"/{name}", size)
    try:
        memory.set_shared_memory_region(region, [windows])
        client.register_system_shared_memory(name, f"/{name}", size)
        taken = triton.InferInput(spec.name, list(windows.shape), "UINT8")
        taken.set_shared_memory(name, windows.nbytes)
        given = triton.InferRequestedOutput(backend.outputs[0].name)
        given.set_shared_memory(name, expected.nbytes, windows.nbytes)
        here, there = list[float](), list[float]()
        for _ in range(count):
            start = time.perf_counter()
            backend.infer({spec.name: windows})
            middle = time.perf_counter()
            memory.set_shared_memory_region(region, [windows])
            client.infer(MODEL, [taken], outputs=[given])
            found = memory.get_contents_as_numpy(region, np.float32, list(expected.shape), windows.nbytes).copy()
            there.append(time.perf_counter() - middle)
            here.append(middle - start)
        same = bool(np.allclose(found, expected, atol=1e-4))
        client.unregister_system_shared_memory(name)
    finally:
        memory.destroy_shared_memory_region(region)
        client.close()
    told = {"in process": percentiles(here[5:]), "through tritonclient": percentiles(there[5:]), "same": same}
    return {**told, "more_percent": 100 * (median(there[5:]) / median(here[5:]) - 1)}


def measure_sessions(server: Server, slide: Path, count: int = 50, at_once: int = 4) -> dict[str, Any]:
    """What the server holds after some sessions, one after another, and after more of them, several at once."""
    scanner = Scanner(slide, (1.5, 1.5))
    held = []
    for number in range(count):
        run_sessions(server, scanner, [f"one-{number}"])
        held.append(look_at(server))
    for number in range(3):
        run_sessions(server, scanner, [f"four-{number}-{each}" for each in range(at_once)])
    last = look_at(server)
    return {"sessions": count, "at_once": at_once, "after_10": held[9], "after_all": held[-1], "after_at_once": last}


def run_sessions(server: Server, scanner: Scanner, names: Sequence[str]) -> None:
    """Some slides, whose tiles come by turns."""
    where = []
    for name in names:
        told = {"bundle": MODEL, "levels": [list(scanner.size)], "mpp": MPP, "tile": [SIDE, SIDE], "name": name}
        where.append(f"/slides/{server.ask('POST', '/slides', told)['id']}")
    for x, y in scanner.places():
        tile = np.ascontiguousarray(scanner.tile((x, y)))
        query = f"x={x}&y={y}&width={tile.shape[1]}&height={tile.shape[0]}&format=rgb&wait_ms={WAIT_MS}"
        for each in where:
            server.ask("PUT", f"{each}/tiles?{query}", tile.tobytes())
    for each in where:
        server.ask("POST", f"{each}/finish")
        server.ask("DELETE", each)


def look_at(server: Server) -> dict[str, Any]:
    """The server's memory, open files and threads."""
    process = server.process
    return {"mb": process.memory_info().rss / 1e6, "files": process.num_fds(), "threads": process.num_threads()}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """In milliseconds."""
    return {f"p{percent}": float(np.percentile(seconds, percent)) * 1000 for percent in (50, 99)}


PARTS = ("tiles", "infer", "sessions")


def measure_serving(slide: Path, parts: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Figures of each part, with its name, of a server that is started for it."""
    for part in parts:
        with TemporaryDirectory() as name, serve(Path(name)) as server:
            if part == "tiles":
                yield part, measure_tiles(server, Path(name))
            elif part == "infer":
                yield part, measure_infer(server)
            else:
                yield part, measure_sessions(server, slide)
