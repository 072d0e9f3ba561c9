"""HTTP/1.1 on a connection as uvicorn speaks it, with bounds on what comes before a request is whole."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from glassrt.engine.service.refusals import encode_error

MOST_CONNECTIONS = 512
LARGEST_HEAD = 64 << 10  # bytes of a request's line and headers
HEAD_S = 30.0  # until the first one is whole


class Bounded(HttpToolsProtocol):
    """Ends connections that send too long a head or none, and says in JSON what is no HTTP."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head = 0
        self._too_slow: Any = None

    def connection_made(self, transport: Any) -> None:
        """As in uvicorn, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self._answer(503, b"Service Unavailable", f"more than {MOST_CONNECTIONS} connections are open")
        else:
            self._too_slow = self.loop.call_later(HEAD_S, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """As in uvicorn."""
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As in uvicorn."""
        if not self.transport.is_closing():
            super().data_received(data)

    def on_message_begin(self) -> None:
        """As in uvicorn."""
        self._head = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """As in uvicorn, in bounds."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """As in uvicorn, in bounds."""
        self._count(len(name) + len(value) + 32)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """As in uvicorn."""
        self._forget()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """As in uvicorn, in JSON."""
        if self._head > LARGEST_HEAD:
            self._answer(431, b"Request Header Fields Too Large", f"the head has more than {LARGEST_HEAD} bytes")
        else:
            self._answer(400, b"Bad Request", "this is no HTTP request")

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > LARGEST_HEAD:
            raise ValueError("the head is too long")

    def _answer(self, status: int, reason: bytes, line: str) -> None:
        content = encode_error(line)
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
            % (status, reason, len(content), content)
        )
        self.transport.close()

    def _forget(self) -> None:
        if self._too_slow is not None:
            self._too_slow.cancel()
            self._too_slow = None
