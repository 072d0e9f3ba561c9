"""A scanner simulator on the standard library alone: tiles of a picture (PPM, P6) in snake order, events, the result.

python scanner.py slide.ppm [--address 127.0.0.1:8080] [--token T] [--bundle glas-glands] [--name scan] [--mpp 0.5]
                            [--tile 1024] [--rate 14.3]
"""

import argparse
import http.client
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LAST = ("finished", "failed", "cancelled")
FINISH_S = 120


class Server:
    """One connection to a server; each thread has its own."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.headers = {"Authorization": f"Bearer {options.token}"} if options.token else {}
        self.connection = http.client.HTTPConnection(options.address, timeout=FINISH_S)

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
        """What the server answers, read as JSON; busy servers are asked again, refusals raise ConnectionError."""
        while True:
            self.connection.request(method, path, body, self.headers | {"Content-Type": kind})
            answer = self.connection.getresponse()
            content = answer.read()
            if answer.status == http.client.TOO_MANY_REQUESTS:
                time.sleep(float(answer.headers.get("Retry-After", 1)))
            elif answer.status >= http.client.BAD_REQUEST:
                raise ConnectionError(f"{method} {path}: {content.decode(errors='replace')}")
            else:
                return json.loads(content) if content else None


def read_picture(path: Path) -> tuple[int, int, memoryview]:
    """Width, height and the rows of a PPM file."""
    content = path.read_bytes()
    kind, width, height, depth = content[:64].split()[:4]
    if (kind, depth) != (b"P6", b"255"):
        raise ValueError(f"{path} is no picture in the format P6 with 8 bits")
    return int(width), int(height), memoryview(content)[-int(width) * int(height) * 3 :]


def snake(width: int, height: int, side: int) -> Iterator[tuple[int, int]]:
    """Where tiles begin, in the order in which a stage goes over them."""
    for row, y in enumerate(range(0, height, side)):
        columns = range(0, width, side)
        for x in reversed(columns) if row % 2 else columns:
            yield x, y


def print_events(options: argparse.Namespace, path: str) -> None:
    """Print events until one is the last."""
    server, number, kind = Server(options), 0, ""
    while kind not in LAST:
        for event in server.ask("GET", f"{path}/events?after={number}&wait_ms=10000")["events"]:
            number, kind = event["number"], event["event"]
            print(number, kind, json.dumps(event["data"])[:120], flush=True)


def scan(options: argparse.Namespace) -> None:
    """Push a picture as a scanner would and print what comes of it."""
    width, height, rows = read_picture(options.slide)
    server, side = Server(options), options.tile
    begin = {"bundle": options.bundle, "levels": [[width, height]], "mpp": options.mpp, "tile": [side, side]}
    slide = server.ask("POST", "/slides", json.dumps(begin | {"name": options.name}).encode())
    path = f"/slides/{slide['id']}"
    events = threading.Thread(target=print_events, args=(options, path), daemon=True)
    events.start()
    start = time.monotonic()
    try:
        for pushed, (x, y) in enumerate(snake(width, height, side)):
            if options.rate:
                time.sleep(max(0.0, start + pushed / options.rate - time.monotonic()))
            w, h = min(side, width - x), min(side, height - y)
            first = (y * width + x) * 3
            lines = [rows[first + line * width * 3 :][: w * 3] for line in range(h)]
            at = f"level=0&x={x}&y={y}&width={w}&height={h}&format=rgb"
            server.ask("PUT", f"{path}/tiles?{at}", b"".join(lines), "application/octet-stream")
        result = server.ask("POST", f"{path}/finish")
    except BaseException:
        Server(options).ask("DELETE", path)  # else the server waits for the rest
        raise
    events.join(FINISH_S)
    print(json.dumps(result))


def main() -> None:
    """Read the options and scan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--address", default="127.0.0.1:8080")
    parser.add_argument("--token")
    parser.add_argument("--bundle", default="glas-glands")
    parser.add_argument("--name", default="scan")
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--rate", type=float, default=14.3, help="tiles a second; 0: as fast as it goes")
    try:
        scan(parser.parse_args())
    except (OSError, ValueError, http.client.HTTPException) as error:
        sys.exit(f"scanner: {error}")


if __name__ == "__main__":
    main()
