"""The server as an ASGI application: its ways in, who may use them, and how it says what went wrong."""

import hmac
import ipaddress
import time
from typing import TYPE_CHECKING, Any

from glassrt.engine.service.bodies import Room
from glassrt.engine.service.executions import Executions
from glassrt.engine.service.infer import Inference
from glassrt.engine.service.jobs import Jobs
from glassrt.engine.service.metrics import CONTENT, Figures
from glassrt.engine.service.models import Models
from glassrt.engine.service.openapi import describe_ways
from glassrt.engine.service.refusals import Refused, encode_error, explain
from glassrt.engine.service.sessions import Sessions
from glassrt.engine.service.settings import Settings
from glassrt.engine.service.slides import Slides
from glassrt.engine.service.ways import JSON, Answer, Way, json_response

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Message, Receive, Scope, Send

BEARER = b"bearer "


class Service:
    """All that a server is made of. `close` it in the end."""

    def __init__(self, settings: Settings) -> None:
        """Raises BundleError, BackendUnavailable and OutputError."""
        self.settings = settings
        self.models = Models(settings)
        self.figures, self.room = Figures(), Room(settings.held_bytes)
        self.sessions = Sessions(settings, self.models, self.figures)
        self.jobs = Jobs(settings)
        self.inference = Inference(settings, self.models, self.room, self.figures)
        self.closing = False

    def ways(self) -> list[Way]:
        """Every way in."""
        slides = Slides(self.settings, self.sessions, self.room)
        told, text = (Answer(200, "what is asked for"),), (Answer(200, "text", ("text/plain",)),)
        return [
            Way("GET", "/healthz", self.health, "Whether the server runs.", told, public=True),
            Way("GET", "/metrics", self.metrics, "Figures for Prometheus.", text),
            Way("GET", "/openapi.json", self.describe, "This description.", told),
            *self.inference.ways(),
            *slides.ways(),
            *Executions(self.jobs, self.models, self.room).ways(),
        ]

    async def health(self, request: "Request") -> "Response":
        return json_response({"status": "ending" if self.closing else "ok"}, 503 if self.closing else 200)

    async def metrics(self, request: "Request") -> "Response":
        from starlette.responses import Response

        return Response(self.figures.write(), headers={"Content-Type": CONTENT})

    async def describe(self, request: "Request") -> "Response":
        return json_response(describe_ways(self.ways(), bool(self.settings.token)))

    def stop(self) -> None:
        """No new work; sessions are cancelled, jobs wait in their journal. It takes some seconds at most."""
        self.closing = True
        self.sessions.close()
        self.jobs.close()

    def close(self) -> None:
        """Close what it holds, when no request is left."""
        self.inference.regions.close()
        self.models.close()


class App:
    """The application."""

    def __init__(self, service: Service) -> None:
        from starlette.routing import Route, Router

        self._service, self._settings = service, service.settings
        ways = service.ways()
        self._public = {way.path for way in ways if way.public}
        paths = dict.fromkeys(way.path for way in ways)
        routes = [
            Route(path, endpoint_of({way.method: way for way in ways if way.path == path}), methods=[
                way.method for way in ways if way.path == path
            ])
            for path in paths
        ]  # fmt: skip
        self._router = Router(routes, redirect_slashes=False)

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        scope["app"] = self  # by which the router raises what it does not know
        status, begun = 0, time.perf_counter()

        async def watch(message: "Message") -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check(scope)
            await self._router(scope, receive, watch)
        except Exception as error:
            refused = explain_all(error)
            if status:  # it had begun: the connection ends without the rest
                raise
            await send_error(refused, watch)
        finally:
            self._service.figures.requested(scope["method"], status or 499, time.perf_counter() - begun)

    def _check(self, scope: "Scope") -> None:
        """Raise Refused unless whoever asks may."""
        headers = dict(scope["headers"])
        if self._settings.token:
            if scope["path"] in self._public:
                return
            told = headers.get(b"authorization", b"")
            given = told[len(BEARER) :].strip() if told[: len(BEARER)].lower() == BEARER else b""
            if not hmac.compare_digest(given, self._settings.token):
                raise Refused(401, "a token is needed: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        elif b"origin" in headers:
            raise Refused(403, "requests of web pages are refused: the server has no --token-file")
        elif self._settings.loopback and not is_loopback(headers.get(b"host", b"")):
            raise Refused(403, "without a --token-file the server is to be asked for by a loopback's name or number")
        if self._service.closing and scope["method"] in ("POST", "PUT"):
            raise Refused(503, "the server is ending")


def endpoint_of(ways: dict[str, Way]) -> Any:
    """What answers all methods of a path."""

    async def answer(request: "Request") -> "Response":
        way = ways["GET" if request.method == "HEAD" else request.method]
        if request.method == "HEAD" and not way.public:  # of answers that may never end
            raise Refused(405, "this path does not take this method", {"Allow": ", ".join(ways)})
        return await way.endpoint(request)

    return answer


def explain_all(error: Exception) -> Refused:
    """As `explain`, also for what the framework raises."""
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    if isinstance(error, HTTPException):
        lines = {404: "there is nothing at this path", 405: "this path does not take this method"}
        return Refused(error.status_code, lines.get(error.status_code, error.detail), error.headers)
    if isinstance(error, ClientDisconnect):
        return Refused(400, "the connection ended before the request did")
    return explain(error)


async def send_error(refused: Refused, send: "Send") -> None:
    """Answer with a status and one line."""
    content = encode_error(str(refused))
    headers = {"Content-Type": JSON, "Content-Length": str(len(content)), **refused.headers}
    named = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": named})
    await send({"type": "http.response.body", "body": content})


def is_loopback(host: bytes) -> bool:
    """Whether a request was made to a name or number of the loopback."""
    name = host.decode("latin-1").rsplit("]", 1)[0].lstrip("[") if host.startswith(b"[") else host.decode("latin-1")
    name = name if host.startswith(b"[") else name.rsplit(":", 1)[0]
    try:
        return name.lower() == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
