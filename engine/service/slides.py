"""Scan sessions over HTTP: tiles in, events and results out."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np

from glassrt.engine.geometry.boxes import Box
from glassrt.engine.service.beginning import Begin, describe_begin, make_box, read_overview
from glassrt.engine.service.bodies import Room, one_of, open_body, read_json, read_query, whole
from glassrt.engine.service.refusals import Refused, busy
from glassrt.engine.service.scanning import MOST_PUSHES, Scan
from glassrt.engine.service.sessions import Sessions
from glassrt.engine.service.settings import Settings
from glassrt.engine.service.ways import BYTES, JSON, STREAM, Answer, Way, json_response, no_content

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from glassrt.engine.slides.push import Tile

RAW = ("rgb", "bgr", "rgba", "bgra")
ENCODED = ("jpeg", "jp2")
STARTS = {"jpeg": (b"\xff\xd8\xff",), "jp2": (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")}
SIDES = ("left", "top", "right", "bottom")
PLACED = ("level", "x", "y", "width", "height", "format", "wait_ms", "offset", "length")
FILES = {
    "result.json": JSON, "map.ome.tif": "image/tiff", "regions.geojson": "application/geo+json",
    "overlay.png": "image/png",
}  # fmt: skip
WAIT_MS, MOST_WAIT_MS = 10_000, 60_000
MOST_SIDE = 1 << 16
FAR = 1 << 31
BEAT_S = 1.0
STILL_S = 15.0  # after which a stream of events says that it is there


class Slides:
    """The endpoints."""

    def __init__(self, settings: Settings, sessions: Sessions, room: Room) -> None:
        self._settings, self._sessions, self._room = settings, sessions, room
        self._pushing = anyio.CapacityLimiter(MOST_PUSHES * settings.sessions)
        self._finishing = anyio.CapacityLimiter(2 * settings.sessions + 2)
        self._beginning = anyio.CapacityLimiter(2)

    def ways(self) -> list[Way]:
        """All that belongs to slides."""
        one, nothing = "/slides/{id}", (Answer(204, "done", ()),)
        place = {
            "level": "Level of the pyramid, 0 by default.", "x": "First pixel's column in the level.",
            "y": "First pixel's row.", "width": "Pixels of a row, of raw pixels.", "height": "Rows, of raw pixels.",
            "format": f"One of {', '.join((*RAW, *ENCODED))}.",
            "wait_ms": f"How long to wait while the session is busy; {WAIT_MS} by default.",
            "offset": "First byte in the session's shared memory.", "length": "How many bytes there.",
        }  # fmt: skip
        frame = dict.fromkeys(SIDES, "Level-0 pixels of what the picture shows.")
        after = {"after": "Number of the last event that came.", "wait_ms": "How long to wait for one."}
        made = (Answer(201, "what was made"),)
        told = (Answer(200, "what is asked for"),)
        files = (Answer(200, "the file", tuple(FILES.values())),)
        events = (Answer(200, "at most 64 events, or all as they come", (JSON, STREAM)),)
        space = (Answer(200, "a space a second, as long as the session lasts", ("text/plain",)),)
        pixels, picture = (BYTES, "image/jpeg", "image/jp2"), ("image/png", "image/jpeg")
        return [
            Way("POST", "/slides", self.begin, "Begin a slide.", made, takes=(JSON,)),
            Way("GET", one, self.describe, "How far a slide is.", told),
            Way("DELETE", one, self.drop, "Cancel a slide, or forget one that is finished.", nothing),
            Way("PUT", f"{one}/overview", self.overview, "The whole slide's picture.", nothing, frame, (), picture),
            Way("PUT", f"{one}/tiles", self.push, "Hand a tile in.", nothing, place, ("x", "y", "format"), pixels),
            Way("GET", f"{one}/events", self.events, "What happened.", events, after),
            Way("POST", f"{one}/finish", self.finish, "Write the results.", told),
            Way("GET", f"{one}/results/{{file}}", self.result, f"One of {', '.join(FILES)}.", files),
            Way("POST", f"{one}/memory", self.memory, "Make shared memory for tiles.", made, takes=(JSON,)),
            Way("GET", f"{one}/lease", self.lease, "Hold the slide: it ends with its client.", space),
        ]

    async def begin(self, request: "Request") -> "Response":
        told = await read_json(request, Begin, self._room)
        scan = await anyio.to_thread.run_sync(self._sessions.begin, told, limiter=self._beginning)
        base = f"/slides/{scan.id}"
        content = {
            "id": scan.id, "state": scan.state, "events": f"{base}/events", "tiles": f"{base}/tiles",
            "lease": f"{base}/lease", **describe_begin(told),
        }  # fmt: skip
        return json_response(content, 201, {"Location": base})

    async def overview(self, request: "Request") -> "Response":
        scan = self._find(request)
        query = read_query(request, SIDES)
        width, height = scan.size
        frame = Box(0, 0, width, height)
        if query:
            frame = make_box("frame", [whole(query, name, -FAR, FAR) for name in SIDES])
        async with open_body(request, self._settings.body_bytes, self._room) as content:
            await anyio.to_thread.run_sync(open_with, scan, content, frame, limiter=self._beginning)
        return no_content()

    async def push(self, request: "Request") -> "Response":
        scan = self._find(request)
        query = read_query(request, PLACED)
        wait_s = whole(query, "wait_ms", 0, MOST_WAIT_MS, WAIT_MS) / 1000
        until = time.monotonic() + wait_s
        try:
            async with asyncio.timeout(wait_s):
                await scan.turns.acquire()
        except TimeoutError as error:
            raise busy(f"{MOST_PUSHES} tiles of this session wait; push it again") from error
        try:
            async with open_body(request, self._settings.body_bytes, self._room) as content:
                left = max(0.0, until - time.monotonic())
                await anyio.to_thread.run_sync(hand_in, scan, query, content, left, limiter=self._pushing)
        finally:
            scan.turns.release()
        return no_content()

    async def events(self, request: "Request") -> "Response":
        from starlette.responses import Response, StreamingResponse

        scan = self._find(request)
        query = read_query(request, ("after", "wait_ms"))
        after = whole(query, "after", 0, FAR, 0)
        if STREAM in request.headers.get("accept", ""):
            last = request.headers.get("last-event-id", "")
            if last:
                after = whole({"Last-Event-ID": last}, "Last-Event-ID", 0, FAR)
            return StreamingResponse(stream(scan, after), media_type=STREAM, headers={"Cache-Control": "no-store"})
        wait_s = whole(query, "wait_ms", 0, MOST_WAIT_MS, WAIT_MS) / 1000
        if not (found := scan.events.read(after)) and wait_s:
            await scan.events.wait(after, wait_s)
            found = scan.events.read(after)
        return Response(b'{"events":[' + b",".join(event.encode() for event in found) + b"]}", media_type=JSON)

    async def finish(self, request: "Request") -> "Response":
        from starlette.responses import Response

        scan = self._find(request)
        content = await anyio.to_thread.run_sync(scan.finish, limiter=self._finishing)
        return Response(content, media_type=JSON)

    async def describe(self, request: "Request") -> "Response":
        return json_response(self._find(request).describe())

    async def drop(self, request: "Request") -> "Response":
        scan = self._find(request)
        await anyio.to_thread.run_sync(self._sessions.drop, scan, limiter=self._finishing)
        return no_content()

    async def result(self, request: "Request") -> "Response":
        from starlette.responses import FileResponse

        scan, name = self._find(request), request.path_params["file"]
        if name not in FILES:
            raise Refused(404, f"no result {name[:40]!r}: there are {', '.join(FILES)}")
        if scan.state != "finished":
            raise Refused(409, f"the session is {scan.state}; results are there when it is finished")
        path = scan.folder / name
        if not path.is_file():
            raise Refused(404, f"{name} is not there any more")
        return FileResponse(path, media_type=FILES[name])

    async def memory(self, request: "Request") -> "Response":
        if not self._settings.shared_memory:
            raise Refused(403, "shared memory is off: start glassrt serve with --shared-memory")
        scan = self._find(request)
        told = await read_json(request, dict[str, int], self._room)
        most, size = self._settings.body_bytes * MOST_PUSHES, told.get("bytes", 0)
        if told.keys() != {"bytes"} or not 1 <= size <= most:
            raise Refused(400, f'expected {{"bytes": N}}, from 1 to {most}')
        made = scan.share_memory(size)
        return json_response({"path": made.path, "bytes": made.size}, 201)

    async def lease(self, request: "Request") -> "Response":
        scan = self._find(request)
        scan.hold()
        return hold_lease(scan)

    def _find(self, request: "Request") -> Scan:
        return self._sessions.find(request.path_params["id"])


def open_with(scan: Scan, content: bytes, frame: Box) -> None:
    """Open a session with its overview."""
    scan.open(read_overview(content, frame))


def hand_in(scan: Scan, query: Any, body: bytes, wait_s: float) -> None:
    """Push the tile that a request brings, or tells the place of."""
    scan.push(read_tile(query, find_pixels(scan, query, body)), wait_s)


def find_pixels(scan: Scan, query: Any, body: bytes) -> bytes:
    """The bytes of a tile. Raises Refused."""
    if "offset" not in query and "length" not in query:
        return body
    if body:
        raise Refused(400, "a tile in shared memory comes with an empty body")
    if scan.memory is None:
        raise Refused(409, "the session has no shared memory")
    return scan.memory.copy(whole(query, "offset", 0, FAR * 8), whole(query, "length", 1, FAR))


def read_tile(query: Any, content: bytes) -> "Tile":
    """A tile as a request places it. Raises Refused."""
    from glassrt.engine.slides.push import Tile

    form = one_of(query, "format", (*RAW, *ENCODED))
    level, x, y = whole(query, "level", 0, 99, 0), whole(query, "x", -FAR, FAR), whole(query, "y", -FAR, FAR)
    if form in ENCODED:
        if not content.startswith(STARTS[form]):
            raise Refused(400, f"the tile at x {x}, y {y} is no {form}")
        return Tile(level, x, y, content)
    width, height = whole(query, "width", 1, MOST_SIDE), whole(query, "height", 1, MOST_SIDE)
    if len(content) != width * height * len(form):
        told = f"{width} x {height} {form} has {width * height * len(form)}"
        raise Refused(400, f"the tile at x {x}, y {y} has {len(content)} bytes, {told}")
    return Tile(level, x, y, np.frombuffer(content, np.uint8).reshape(height, width, len(form)), form)


async def stream(scan: Scan, after: int) -> AsyncIterator[bytes]:
    """Events as they come, to the last one."""
    while True:
        found = scan.events.read(after, keep=True)
        for event in found:
            yield event.stream()
            after = event.number
        if not found:
            if scan.events.over:
                return
            await scan.events.wait(after, STILL_S)
            if scan.events.last <= after:
                yield b": still there\n\n"


def hold_lease(scan: Scan) -> "Response":
    """An answer that lasts as long as the session, or its client."""
    from starlette.responses import StreamingResponse

    async def beat() -> AsyncIterator[bytes]:
        while scan.runs:
            yield b" "
            await asyncio.sleep(BEAT_S)

    class Lease(StreamingResponse):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            try:
                await super().__call__(scope, receive, send)
            finally:
                scan.let_go()

    return Lease(beat(), media_type="text/plain")
