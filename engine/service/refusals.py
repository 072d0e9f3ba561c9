"""Errors as a client sees them: a status and one line."""

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from glassrt.engine.errors import (
    BackendUnavailable,
    FolderTaken,
    GlassError,
    OutputError,
    SlideError,
    UsageError,
    first_line,
)

LOGGER = logging.getLogger("glassrt")
AGAIN_S = "1"  # after which a client that was refused for now may ask again


class Refused(Exception):
    """A request that is answered with a status and one line."""

    def __init__(self, status: int, line: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(line)
        self.status, self.headers = status, dict(headers or {})


def busy(line: str) -> Refused:
    """A refusal for now."""
    return Refused(429, line, {"Retry-After": AGAIN_S})


def explain(error: Exception) -> Refused:
    """What an error is to a client; one that nothing is known of goes into the log."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, GlassError):
        return Refused(tell_status(error), first_line(error))
    if isinstance(error, msgspec.MsgspecError):
        return Refused(400, f"the body is not what is expected: {first_line(error)}")
    if isinstance(error, UnicodeError):
        return Refused(400, "the body is not UTF-8")
    if isinstance(error, RecursionError):
        return Refused(400, "the body is nested too deeply")
    if isinstance(error, MemoryError):
        return Refused(503, "no memory left for this request", {"Retry-After": AGAIN_S})
    LOGGER.error("unexpected error", exc_info=error)
    return Refused(500, f"unexpected error ({type(error).__name__}); the server's log says more")


def tell_status(error: GlassError) -> int:
    """The status of an error of the engine."""
    if isinstance(error, FolderTaken):
        return 409
    if isinstance(error, BackendUnavailable):
        return 503
    if isinstance(error, UsageError | SlideError):
        return 400
    return 507 if isinstance(error, OutputError) else 500


def encode_error(line: str) -> bytes:
    """The body of an error."""
    content: Any = {"error": line}
    return msgspec.json.encode(content)
