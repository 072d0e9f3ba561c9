"""What a request brings: its query, and its body, which is limited while it comes."""

import asyncio
import re
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from glassrt.engine.service.refusals import Refused, busy

if TYPE_CHECKING:
    from starlette.requests import Request

SILENCE_S = 30.0  # without a byte of a body that is not whole
LARGEST_JSON = 16 << 20
WHOLE = re.compile(r"-?[0-9]{1,15}")
Kind = TypeVar("Kind")


class Room:
    """How many bytes the bodies of all requests hold. Used by the event loop alone."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0

    def take(self, count: int) -> None:
        """Raises Refused where there is no room for as many more."""
        if self.held + count > self.most:
            raise busy("too many requests hold bodies at once; send it again")
        self.held += count

    def give(self, count: int) -> None:
        """So many are held no more."""
        self.held -= count


@asynccontextmanager
async def open_body(request: "Request", most: int, room: Room) -> AsyncIterator[bytes]:
    """The body of a request, which holds room until the context ends. Raises Refused for more than `most` bytes, for
    one that does not come, and for a coding that is not known.
    """
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told[:20]) > most:
        raise too_large(most)
    chunks: list[bytes] = []
    held, more = 0, True
    try:
        while more:
            chunk, more = await next_chunk(request)
            if held + len(chunk) > most:
                raise too_large(most)
            room.take(len(chunk))
            held += len(chunk)
            chunks.append(chunk)
        content = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        del chunks[:]
        unpacked = unpack(content, request.headers.get("content-encoding", ""), most)
        if unpacked is not content:
            room.take(len(unpacked))
            held += len(unpacked)
        yield unpacked
    finally:
        room.give(held)


async def next_chunk(request: "Request") -> tuple[bytes, bool]:
    """The next part of a body, and whether there are more. Raises Refused."""
    try:
        async with asyncio.timeout(SILENCE_S):
            message = await request.receive()
    except TimeoutError as error:
        raise Refused(408, f"nothing came for {SILENCE_S:.0f} s", {"Connection": "close"}) from error
    if message["type"] == "http.disconnect":
        raise Refused(400, "the connection ended before the body did", {"Connection": "close"})
    return message.get("body", b""), message.get("more_body", False)


def unpack(content: bytes, coding: str, most: int) -> bytes:
    """A body without its coding. Raises Refused."""
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return content
    if coding not in ("gzip", "deflate"):
        raise Refused(415, "this content coding is not known; send identity, gzip or deflate")
    try:
        unpacker = zlib.decompressobj(wbits=47 if coding == "gzip" else 15)
        unpacked = unpacker.decompress(content, most + 1)
    except zlib.error as error:
        raise Refused(400, f"the body is not {coding}") from error
    if len(unpacked) > most:
        raise too_large(most)
    if not unpacker.eof:
        raise Refused(400, f"the body is cut off {coding}")
    return unpacked


def too_large(most: int) -> Refused:
    """The refusal of a body; what is left of it is thrown away as it comes."""
    return Refused(413, f"the body has more than {most} bytes")


async def read_json(request: "Request", kind: type[Kind], room: Room, most: int = LARGEST_JSON) -> Kind:
    """The body as JSON. Raises as `open_body`, and as msgspec does."""
    async with open_body(request, most, room) as content:
        return msgspec.json.decode(content, type=kind)


def read_query(request: "Request", allowed: tuple[str, ...]) -> Mapping[str, str]:
    """A query's parameters. Raises Refused for one that is not allowed, or comes twice."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in allowed:
            raise Refused(400, f"unknown parameter {name[:40]!r}: expected {', '.join(allowed) or 'none'}")
        if name in found:
            raise Refused(400, f"parameter {name} is given twice")
        found[name] = value
    return found


def whole(query: Mapping[str, str], name: str, least: int, most: int, default: int | None = None) -> int:
    """A whole number of a query. Raises Refused."""
    told = query.get(name)
    if told is None:
        if default is None:
            raise Refused(400, f"parameter {name} is missing")
        return default
    if not WHOLE.fullmatch(told) or not least <= int(told) <= most:
        raise Refused(400, f"{name} is {told[:20]!r}, expected a whole number from {least} to {most}")
    return int(told)


def one_of(query: Mapping[str, str], name: str, offered: tuple[str, ...]) -> Any:
    """A word of a query. Raises Refused."""
    if query.get(name) not in offered:
        raise Refused(400, f"{name} is {query.get(name, '')[:20]!r}, expected one of {', '.join(offered)}")
    return query[name]
