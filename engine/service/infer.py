"""The Open Inference Protocol, version 2: the bundles' networks for windows, as Triton's clients ask for them."""

import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from glassrt.engine.bundles.tensors import TensorSpec
from glassrt.engine.service.bodies import Room, open_body, read_json
from glassrt.engine.service.metrics import Figures
from glassrt.engine.service.models import Model, Models
from glassrt.engine.service.refusals import Refused, busy
from glassrt.engine.service.regions import SharedRegions
from glassrt.engine.service.settings import Settings
from glassrt.engine.service.tensors import (
    LENGTH,
    TYPES,
    Regions,
    check_wanted,
    gather,
    is_size,
    read_request,
    split_body,
    write_response,
)
from glassrt.engine.service.ways import BYTES, JSON, Answer, Way, json_response

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

VERSION = "1"  # of every model
AT_ONCE = 2  # threads: one reads or writes while the other one's network runs
EXTENSIONS = ("binary_tensor_data", "system_shared_memory")
MEMORY = "/v2/systemsharedmemory"


class Registered(msgspec.Struct):
    """What is said of a region of shared memory."""

    key: str
    byte_size: int
    offset: int = 0


class Inference:
    """The endpoints."""

    def __init__(self, settings: Settings, models: Models, room: Room, figures: Figures) -> None:
        self._settings, self._models, self._room, self._figures = settings, models, room, figures
        self.regions = SharedRegions(settings.shared_memory)
        self._threads = anyio.CapacityLimiter(AT_ONCE)
        self._waiting = 0
        self._memory = Regions(self.regions.read, self.regions.write)

    def ways(self) -> list[Way]:
        """All that belongs to the protocol."""
        told = (Answer(200, "what is asked for"),)
        both = (Answer(200, "JSON, and binary tensors behind it where they were asked for", (JSON, BYTES)),)
        ways = [
            Way("GET", "/v2", self.server, "What the server is.", told),
            Way("GET", "/v2/health/live", self.live, "Whether the server runs.", told),
            Way("GET", "/v2/health/ready", self.live, "Whether all models can be used.", told),
        ]
        for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            ways += [
                Way("GET", base, self.model, "What a model takes and gives.", told),
                Way("GET", f"{base}/ready", self.ready, "Whether a model can be used.", told),
                Way("POST", f"{base}/infer", self.infer, "Run a model on windows.", both, takes=(JSON, BYTES)),
            ]
        one = f"{MEMORY}/region/{{region}}"
        ways += [
            Way("GET", f"{MEMORY}/status", self.status, "The regions of shared memory.", told),
            Way("GET", f"{one}/status", self.status, "A region of shared memory.", told),
            Way("POST", f"{one}/register", self.register, "Register shared memory.", told, takes=(JSON,)),
            Way("POST", f"{one}/unregister", self.unregister, "Forget a region.", told),
            Way("POST", f"{MEMORY}/unregister", self.unregister, "Forget all regions.", told),
        ]
        return ways

    async def server(self, request: "Request") -> "Response":
        extensions = EXTENSIONS if self._settings.shared_memory else EXTENSIONS[:1]
        return json_response({"name": "glassrt", "version": version("glassrt"), "extensions": extensions})

    async def live(self, request: "Request") -> "Response":
        return json_response({"live": True, "ready": True})

    async def model(self, request: "Request") -> "Response":
        model = self._find(request)
        return json_response({
            "name": model.name, "versions": [VERSION], "platform": f"glassrt_{model.backend}",
            "inputs": [describe(spec) for spec in model.inputs],
            "outputs": [describe(spec) for spec in model.outputs],
        })  # fmt: skip

    async def ready(self, request: "Request") -> "Response":
        return json_response({"name": self._find(request).name, "ready": True})

    async def infer(self, request: "Request") -> "Response":
        from starlette.responses import Response

        model = self._find(request)
        if self._waiting >= self._settings.queue:
            raise busy(f"{self._waiting} requests wait; send it again")
        self._waiting += 1
        try:
            async with open_body(request, self._settings.body_bytes, self._room) as content:
                length = request.headers.get(LENGTH)
                told, parts = await anyio.to_thread.run_sync(self._run, model, content, length, limiter=self._threads)
        finally:
            self._waiting -= 1
        headers = {} if told is None else {LENGTH: str(told)}
        return Response(b"".join(parts), 200, headers, JSON if told is None else BYTES)

    def _run(self, model: Model, content: bytes, length: str | None) -> tuple[int | None, list[bytes]]:
        begun = time.perf_counter()
        head, rest = split_body(content, length)
        asked = read_request(head, rest, model.inputs, raw=length is not None and not head)
        names = [spec.name for spec in model.outputs]
        wanted = check_wanted(asked, names)
        inputs = gather(asked, rest, model.inputs, self._memory)
        outputs = model.infer(inputs)
        told: dict[str, Any] = {"model_name": model.name, "model_version": VERSION}
        if asked.id:
            told["id"] = asked.id
        written = write_response(told, wanted, outputs, asked, self._memory)
        windows = next(iter(inputs.values())).shape[0]
        self._figures.inferred(model.name, windows, time.perf_counter() - begun)
        return written

    async def status(self, request: "Request") -> "Response":
        return json_response(self.regions.describe(request.path_params.get("region")))

    async def register(self, request: "Request") -> "Response":
        self.regions.check()
        told = await read_json(request, Registered, self._room)
        if not is_size(told.offset) or not is_size(told.byte_size) or not told.byte_size:
            raise Refused(400, "offset and byte_size are not as expected: numbers of bytes")
        self.regions.register(request.path_params["region"], told.key, told.offset, told.byte_size)
        return json_response({})

    async def unregister(self, request: "Request") -> "Response":
        self.regions.unregister(request.path_params.get("region"))
        return json_response({})

    def _find(self, request: "Request") -> Model:
        asked = request.path_params.get("version", VERSION)
        model = self._models.find(request.path_params["model"])
        if asked != VERSION:
            raise Refused(404, f"{model.name} has no version {asked[:20]!r}, only {VERSION}")
        return model


def describe(spec: TensorSpec) -> dict[str, Any]:
    """A tensor as the protocol tells of it; any number of windows may come at once."""
    return {"name": spec.name, "datatype": TYPES[spec.dtype], "shape": [-1, *spec.sized(-1)[1:]]}
