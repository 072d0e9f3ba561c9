"""What the process that leads a batch and its workers say to each other, and how it is written to a pipe."""

import struct
from typing import IO, Any

import msgspec

from glassrt.engine.bundles.parts import Strict

LENGTH = struct.Struct(">I")
LARGEST = 1 << 26  # bytes of a message


class Setup(Strict, frozen=True, kw_only=True, tag=True):
    """What a worker scores every slide with.

    `cores` are those that it may use, `threads` how many it computes with, none and 0 for all. `device` is the number
    of a GPU where there are several. Slides that lie elsewhere are copied to the folder `cache`, of `cache_bytes` at
    most; with `stage` all are. Relative paths begin in the folder `cwd`, by default that of the process that leads.
    """

    scales: tuple[float, ...] | None = None
    flip: bool | None = None
    readers: int = 1
    cores: tuple[int, ...] = ()
    threads: int = 0
    device: str = ""
    cwd: str = ""
    cache: str = ""
    cache_bytes: int = 0
    stage: bool = False


class Order(Strict, frozen=True, kw_only=True, tag=True):
    """One slide to be scored into a folder of its own, with a bundle in the runtime and precision that were chosen
    where the batch is led: what a worker would choose may be another. `identity` is the bundle's sha256; a slide with
    a resolution or a bundle of its `own` may fail for it without the others.
    """

    id: str
    path: str
    folder: str
    bundle: str
    identity: str
    backend: str
    precision: str
    batch: int
    mpp: float | None = None
    map_mpp: float | None = None
    tissue: str = "auto"
    own: bool = False


class Advanced(Strict, frozen=True, tag=True):
    """So many windows of a slide are done, of so many."""

    id: str
    done: int
    total: int


class Done(Strict, frozen=True, tag=True):
    """A slide's results stand."""

    id: str


class Failed(Strict, frozen=True, tag=True):
    """A slide could not be scored, for what one line says and one word; `fatal` if no other one could either."""

    id: str
    error: str
    reason: str
    fatal: bool = False


class Lost(Strict, frozen=True, tag=True):
    """What scored a slide is gone: it crashed, hung, ran out of memory, or its machine did."""

    id: str
    error: str
    reason: str


Told = Advanced | Done | Failed
Event = Advanced | Done | Failed | Lost


def send(pipe: IO[bytes], message: msgspec.Struct) -> None:
    """Write a message. Raises OSError where nobody reads any more."""
    content = msgspec.msgpack.encode(message)
    pipe.write(LENGTH.pack(len(content)) + content)
    pipe.flush()


def receive(pipe: IO[bytes], kind: Any) -> Any:
    """The next message; None at the end, also where it ends within one or what comes is none."""
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    content = pipe.read(length) if length <= LARGEST else b""
    if len(content) < length or not content:
        return None
    try:
        return msgspec.msgpack.decode(content, type=kind)
    except msgspec.MsgspecError:
        return None
