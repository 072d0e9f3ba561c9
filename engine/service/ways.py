"""What a server answers to: each way in with what it takes and gives, which the OpenAPI description is made of."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

JSON = "application/json"
BYTES = "application/octet-stream"
STREAM = "text/event-stream"


class Answer(NamedTuple):
    """A status and what is sent with it: kinds of content, none for no body."""

    status: int
    tells: str
    gives: tuple[str, ...] = (JSON,)


class Way(NamedTuple):
    """One method of one path: its endpoint; parameters of its query and what they mean, those that are `needed`; kinds
    of content that it takes; what it answers when all is well.
    """

    method: str
    path: str
    endpoint: "Callable[[Request], Awaitable[Response]]"
    tells: str
    answers: tuple[Answer, ...]
    query: Mapping[str, str] = {}
    needed: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    public: bool = False


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> "Response":
    """An answer in JSON."""
    from starlette.responses import Response

    return Response(msgspec.json.encode(content), status, headers, JSON)


def no_content() -> "Response":
    """An answer without a body."""
    from starlette.responses import Response

    return Response(status_code=204)
