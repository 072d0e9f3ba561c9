"""What a server serves, and its limits."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Settings(NamedTuple):
    """The bundles by name, where results go, and limits: of a request's body and of what all bodies hold at once in
    bytes, of open sessions, of a slide in pixels, of requests that wait.

    With a `token` every request has to bear it; without one on the `loopback`, it has to be made to the loopback's
    name.
    """

    bundles: Mapping[str, Path]
    out: Path
    token: bytes = b""
    loopback: bool = True
    shared_memory: bool = False
    sessions: int = 4
    body_bytes: int = 64 << 20
    pixels: float = 4e10
    queue: int = 64
    precision: str = "auto"
    backend: str = "auto"

    @property
    def held_bytes(self) -> int:
        """What the bodies of all requests may hold at once."""
        return 4 * self.body_bytes
