"""A server that answers what it was told to, however odd."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

HEALTHY = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status":"ok"}'
TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"
LEASED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n \r\n"
HANG, CLOSE = "hang", "close"
Step = bytes | str  # what is sent; HANG: nothing more for as long as the client waits; CLOSE


def answer(content: object, code: str = "200 OK") -> bytes:
    body = json.dumps(content).encode()
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (code.encode(), len(body)) + body


BEGUN = answer({"id": "one"}, "201 Created")


class Odd:
    """A server that answers the requests for each path with what it was told to, one after another; the last again."""

    def __init__(self, **steps: list[list[Step]]) -> None:
        self.steps = {"healthz": [[HEALTHY]], "lease": [[LEASED, HANG]], "DELETE": [[TAKEN]]} | steps
        self.asked: list[tuple[int, str]] = []  # connection and request line
        self.bodies: list[bytes] = []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listening.getsockname()[1]}"
        self.ended = threading.Event()

    def run(self) -> None:
        connections = 0
        while not self.ended.is_set():
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            connections += 1
            threading.Thread(target=self.talk, args=(connection, connections), daemon=True).start()

    def talk(self, connection: socket.socket, number: int) -> None:
        with closing(connection), connection.makefile("rb") as received:
            try:
                while line := received.readline().decode("latin-1"):
                    length = 0
                    while (header := received.readline()) not in (b"\r\n", b""):
                        name, _, value = header.partition(b":")
                        length = int(value) if name.lower() == b"content-length" else length
                    self.bodies.append(received.read(length))
                    self.asked.append((number, line.strip()))
                    steps = next((each for name, each in self.steps.items() if name in line), [[CLOSE]])
                    for step in steps.pop(0) if len(steps) > 1 else steps[0]:
                        if step is CLOSE:
                            return
                        if step is HANG:
                            self.ended.wait(30)
                            return
                        connection.sendall(step)  # type: ignore[arg-type]
            except OSError:
                return


@contextmanager
def serving(**steps: list[list[Step]]) -> Iterator[Odd]:
    server = Odd(**steps)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.listening.shutdown(socket.SHUT_RDWR)
        server.listening.close()
        thread.join(5)
