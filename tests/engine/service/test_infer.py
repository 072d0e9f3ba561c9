"""The Open Inference Protocol, asked by Triton's own client."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.utils.shared_memory as shared
from service_server import Server, says
from small_bundle import CLASSES, STRIDE, WINDOW
from tritonclient.utils import InferenceServerException

from glassrt.engine import open_bundle
from glassrt.engine.runtimes.open import open_backend

IMAGE = [1, WINDOW, WINDOW, 3]
LENGTH = "Inference-Header-Content-Length"
URL = "/v2/models/small/infer"


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.where.removeprefix("http://")) as opened:
        yield opened


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (27, WINDOW, WINDOW, 3), np.uint8)


@pytest.fixture(scope="module")
def logits(small: Path, windows: np.ndarray) -> np.ndarray:
    backend = open_backend(open_bundle(small), "ort", batch=1, precision="fp32")
    found = [next(iter(backend.infer({"image": window[None]}).values())) for window in windows]
    backend.close()
    return np.concatenate(found)


def make_input(windows: np.ndarray, binary: bool = True) -> triton.InferInput:
    given = triton.InferInput("image", list(windows.shape), "UINT8")
    given.set_data_from_numpy(windows, binary_data=binary)
    return given


def test_the_server_says_what_it_is_and_what_it_serves(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("small")
    assert client.is_model_ready("glas-glands", "1")
    assert not client.is_model_ready("other")
    assert not client.is_model_ready("small", "2")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "system_shared_memory"]
    told = client.get_model_metadata("small")
    assert told["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, WINDOW, WINDOW, 3]}]
    side = WINDOW // STRIDE
    assert told["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, CLASSES, side, side]}]
    with pytest.raises(InferenceServerException, match=r"unknown bundle 'other': served are glas-glands, small"):
        client.get_model_metadata("other")


@pytest.mark.parametrize("count", [1, 3, 4, 27])
@pytest.mark.parametrize("binary", [True, False])
def test_windows_give_what_the_backend_gives(
    client: triton.InferenceServerClient, windows: np.ndarray, logits: np.ndarray, count: int, binary: bool
) -> None:
    asked = triton.InferRequestedOutput("logits", binary_data=binary)
    answer = client.infer("small", [make_input(windows[:count], binary)], outputs=[asked], request_id="abc")
    assert answer.get_response()["id"] == "abc"
    np.testing.assert_allclose(answer.as_numpy("logits"), logits[:count], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("packed", ["gzip", "deflate"])
def test_bodies_may_be_packed(
    client: triton.InferenceServerClient, windows: np.ndarray, logits: np.ndarray, packed: str
) -> None:
    answer = client.infer("small", [make_input(windows[:2])], request_compression_algorithm=packed)
    np.testing.assert_allclose(answer.as_numpy("logits"), logits[:2], rtol=1e-5, atol=1e-5)


def test_tensors_pass_through_shared_memory(
    client: triton.InferenceServerClient, windows: np.ndarray, logits: np.ndarray
) -> None:
    given, taken = windows[:4].nbytes, logits[:4].nbytes
    region = shared.create_shared_memory_region("tiles", "/glassrt_test", 64 + given + taken)
    try:
        shared.set_shared_memory_region(region, [windows[:4]], 64)
        client.register_system_shared_memory("tiles", "/glassrt_test", given + taken, offset=64)
        told = {"name": "tiles", "key": "/glassrt_test", "offset": 64, "byte_size": given + taken}
        assert client.get_system_shared_memory_status() == [told]
        asked, out = triton.InferInput("image", [4, *IMAGE[1:]], "UINT8"), triton.InferRequestedOutput("logits")
        asked.set_shared_memory("tiles", given)
        out.set_shared_memory("tiles", taken, given)
        answer = client.infer("small", [asked], outputs=[out])
        place = {"shared_memory_region": "tiles", "shared_memory_offset": given, "shared_memory_byte_size": taken}
        assert answer.get_output("logits")["parameters"] == place
        found = shared.get_contents_as_numpy(region, np.float32, [4, *logits.shape[1:]], 64 + given)
        np.testing.assert_allclose(found, logits[:4], rtol=1e-5, atol=1e-5)
        out.set_shared_memory("tiles", taken, given + 1)
        with pytest.raises(InferenceServerException, match="region 'tiles' has"):
            client.infer("small", [asked], outputs=[out])
        Path("/dev/shm/glassrt_test").write_bytes(b"short")
        out.set_shared_memory("tiles", taken, given)
        with pytest.raises(InferenceServerException, match="reaches to byte"):
            client.infer("small", [asked], outputs=[out])
        client.unregister_system_shared_memory("tiles")
        assert client.get_system_shared_memory_status() == []
        with pytest.raises(InferenceServerException, match="no region 'tiles'"):
            client.infer("small", [asked], outputs=[out])
    finally:
        client.unregister_system_shared_memory()
        shared.destroy_shared_memory_region(region)


@pytest.mark.parametrize(
    "key", ["../etc/passwd", "/../../etc/passwd", "", "/", ".", "a/b", "sem.x", "/gone", "a\0b", "glassrt_link", "é"]
)
def test_only_regions_that_clients_made_are_opened(server: Server, key: str) -> None:
    link = Path("/dev/shm/glassrt_link")
    link.symlink_to("/etc/passwd")
    try:
        answer = server.ask("POST", "/v2/systemsharedmemory/region/r/register", json={"key": key, "byte_size": 10})
        says(answer, 400)
        assert server.ask("GET", "/v2/systemsharedmemory/status").json() == []
    finally:
        link.unlink()


def test_a_raw_body_is_the_only_tensor(server: Server, windows: np.ndarray, logits: np.ndarray) -> None:
    answer = server.ask("POST", URL, content=windows[:2].tobytes(), headers={LENGTH: "0"})
    head = int(answer.headers[LENGTH])
    assert json.loads(answer.content[:head])["outputs"][0]["shape"] == [2, *logits.shape[1:]]
    found = np.frombuffer(answer.content[head:], np.float32).reshape(2, *logits.shape[1:])
    np.testing.assert_allclose(found, logits[:2], rtol=1e-5, atol=1e-5)


def image(**changes: object) -> dict[str, object]:
    return {"name": "image", "shape": IMAGE, "datatype": "UINT8", "data": [0] * (WINDOW * WINDOW * 3), **changes}


BINARY = {"binary_data_size": WINDOW * WINDOW * 3}
WRONG: list[tuple[object, str]] = [
    ({}, "inputs"),
    ([], "expected"),
    ({"inputs": []}, "input image is missing"),
    ({"inputs": [image(), image()]}, "unexpected input"),
    ({"inputs": [image(name="picture")]}, "unexpected input 'picture'"),
    ({"inputs": [image(datatype="FP32")]}, "datatype"),
    ({"inputs": [image(shape=[])]}, "shape"),
    ({"inputs": [image(shape=[0, WINDOW, WINDOW, 3])]}, "0 windows"),
    ({"inputs": [image(shape=[-1, WINDOW, WINDOW, 3])]}, "-1 windows"),
    ({"inputs": [image(shape=[10**30, WINDOW, WINDOW, 3])]}, "windows"),
    ({"inputs": [image(shape=[1, WINDOW, WINDOW, 4])]}, "shape"),
    ({"inputs": [image(shape=[1.5, WINDOW, WINDOW, 3])]}, "shape"),
    ({"inputs": [image(data=None)]}, "expected either"),
    ({"inputs": [image(data="text")]}, "data is not a list"),
    ({"inputs": [image(data=[[1], [2, 3]])]}, "data is not a list"),
    ({"inputs": [image(data=[0] * 10)]}, "10 numbers"),
    ({"inputs": [image(data=[-1] * (WINDOW * WINDOW * 3))]}, "beyond 0 to 255"),
    ({"inputs": [image(data=[256] * (WINDOW * WINDOW * 3))]}, "beyond 0 to 255"),
    ({"inputs": [image(data=[10**30] * (WINDOW * WINDOW * 3))]}, "data is not a list"),
    ({"inputs": [image(data=[True] * (WINDOW * WINDOW * 3))]}, "data is not a list"),
    ({"inputs": [image(data=None, parameters=BINARY)]}, "of which 0 came"),
    ({"inputs": [image(parameters=BINARY)]}, "expected either"),
    ({"inputs": [image(data=None, parameters={"binary_data_size": -1})]}, "binary_data_size"),
    ({"inputs": [image(data=None, parameters={"binary_data_size": 10})]}, "10 bytes"),
    ({"inputs": [image(data=None, parameters={"shared_memory_region": 5})]}, "not as expected"),
    ({"inputs": [image()], "outputs": [{"name": "nothing"}]}, "unexpected output"),
    ({"inputs": [image()], "outputs": [{"name": "logits", "parameters": {"classification": 2}}]}, "classification"),
]


@pytest.mark.parametrize(("body", "line"), WRONG)
def test_what_is_no_request_is_refused_in_one_line(server: Server, body: object, line: str) -> None:
    says(server.ask("POST", URL, json=body), 400, line)


@pytest.mark.parametrize("length", ["-1", "1000000", "x", "", "1e3", "9" * 30])
def test_the_json_has_to_end_within_the_body(server: Server, length: str) -> None:
    says(server.ask("POST", URL, json={"inputs": [image()]}, headers={LENGTH: length}), 400, LENGTH)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"inputs":' * 50_000, b"null", b"NaN", b'{"inputs": NaN}']
)
def test_what_is_no_json_is_refused_in_one_line(server: Server, content: bytes) -> None:
    says(server.ask("POST", URL, content=content), 400)


def test_binary_bytes_that_no_input_has_are_refused(server: Server) -> None:
    head = json.dumps({"inputs": [image(data=None, parameters=BINARY)]}).encode()
    content = head + bytes(BINARY["binary_data_size"] + 1)
    says(server.ask("POST", URL, content=content, headers={LENGTH: str(len(head))}), 400, "1 binary bytes more")
    says(server.ask("POST", URL, content=struct.pack("<10f", *range(10)), headers={LENGTH: "0"}), 400, "40 raw bytes")


def test_shared_memory_is_off_unless_it_is_asked_for(start) -> None:  # type: ignore[no-untyped-def]
    running = start()
    assert running.ask("GET", "/v2").json()["extensions"] == ["binary_tensor_data"]
    register = "/v2/systemsharedmemory/region/r/register"
    says(running.ask("POST", register, json={"key": "k", "byte_size": 1}), 403, "--shared-memory")
    says(running.ask("GET", "/v2/systemsharedmemory/status"), 403, "--shared-memory")
