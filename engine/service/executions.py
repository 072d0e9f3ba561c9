"""Jobs over HTTP, in the shape of OGC API Processes."""

from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from glassrt.engine.service.bodies import Room, read_json, read_query, whole
from glassrt.engine.service.jobs import Asked, Job, Jobs
from glassrt.engine.service.models import Models
from glassrt.engine.service.refusals import Refused
from glassrt.engine.service.ways import JSON, Answer, Way, json_response
from glassrt.engine.slides.resolution import PLAUSIBLE_MPP

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

PROCESS = "score"
MOST_LISTED = 1000


class Inputs(msgspec.Struct, forbid_unknown_fields=True):
    """What a job is of."""

    slide: str
    bundle: str | None = None
    mpp: float | None = None


class Execution(msgspec.Struct):
    """The body of an execution."""

    inputs: Inputs


class Executions:
    """The endpoints."""

    def __init__(self, jobs: Jobs, models: Models, room: Room) -> None:
        self._jobs, self._models, self._room = jobs, models, room
        self._threads = anyio.CapacityLimiter(2)

    def ways(self) -> list[Way]:
        """All that belongs to jobs."""
        told, made = (Answer(200, "what is asked for"),), (Answer(201, "the job"),)
        run = f"/processes/{PROCESS}/execution"
        listed = {"limit": f"How many, {MOST_LISTED} at most."}
        return [
            Way("GET", "/processes", self.processes, "What jobs there can be.", told),
            Way("GET", f"/processes/{PROCESS}", self.process, "What a job takes.", told),
            Way("POST", run, self.execute, "Score a slide on disk.", made, takes=(JSON,)),
            Way("GET", "/jobs", self.jobs, "The newest jobs.", told, listed),
            Way("GET", "/jobs/{id}", self.job, "How far a job is.", told),
            Way("DELETE", "/jobs/{id}", self.dismiss, "Dismiss a job, or remove what it gave.", told),
            Way("GET", "/jobs/{id}/results", self.results, "What a job gave: result.json.", told),
        ]

    async def processes(self, request: "Request") -> "Response":
        return json_response({"processes": [describe()], "links": []})

    async def process(self, request: "Request") -> "Response":
        mpp = {"type": "number", "minimum": PLAUSIBLE_MPP[0], "maximum": PLAUSIBLE_MPP[1]}
        inputs = {
            "slide": tell_input("Path or address of the slide.", {"type": "string"}, 1),
            "bundle": tell_input("What to score with.", {"type": "string", "enum": self._models.names}, 0),
            "mpp": tell_input("Micrometres per pixel, if the file does not say.", mpp, 0),
        }
        outputs = {"result": {"title": "result.json", "schema": {"type": "object"}}}
        return json_response({**describe(), "inputs": inputs, "outputs": outputs})

    async def execute(self, request: "Request") -> "Response":
        inputs = (await read_json(request, Execution, self._room)).inputs
        if inputs.mpp is not None and not PLAUSIBLE_MPP[0] <= inputs.mpp <= PLAUSIBLE_MPP[1]:
            raise Refused(400, f"mpp {inputs.mpp:g}: expected {PLAUSIBLE_MPP[0]:g} to {PLAUSIBLE_MPP[1]:g}")
        name = self._models.names[0] if inputs.bundle is None else self._models.find(inputs.bundle).name
        asked = Asked(inputs.slide, name, inputs.mpp)
        job = await anyio.to_thread.run_sync(self._jobs.ask, asked, limiter=self._threads)
        return json_response(job, 201, {"Location": f"/jobs/{job.jobID}"})

    async def jobs(self, request: "Request") -> "Response":
        most = whole(read_query(request, ("limit",)), "limit", 1, MOST_LISTED, MOST_LISTED)
        return json_response({"jobs": self._jobs.list(most), "links": []})

    async def job(self, request: "Request") -> "Response":
        return json_response(self._find(request))

    async def dismiss(self, request: "Request") -> "Response":
        id = self._find(request).jobID
        return json_response(await anyio.to_thread.run_sync(self._jobs.dismiss, id, limiter=self._threads))

    async def results(self, request: "Request") -> "Response":
        from starlette.responses import Response

        id = self._find(request).jobID
        content = await anyio.to_thread.run_sync(self._jobs.read_result, id, limiter=self._threads)
        return Response(content, media_type=JSON)

    def _find(self, request: "Request") -> Job:
        return self._jobs.find(request.path_params["id"])


def describe() -> dict[str, Any]:
    """The process."""
    return {
        "id": PROCESS, "version": "1", "title": "Score a slide", "jobControlOptions": ["async-execute", "dismiss"],
        "outputTransmission": ["value"],
    }  # fmt: skip


def tell_input(title: str, schema: dict[str, Any], least: int) -> dict[str, Any]:
    """An input of the process."""
    return {"title": title, "schema": schema, "minOccurs": least, "maxOccurs": 1}
