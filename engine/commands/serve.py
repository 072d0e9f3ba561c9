"""`glassrt serve`."""

import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE
from glassrt.engine.commands.options import BACKEND, PRECISION
from glassrt.engine.commands.terminal import printable
from glassrt.engine.errors import UsageError
from glassrt.engine.files import prepare_folder

LEVELS = ("debug", "info", "warning", "error")
LEAST_TOKEN = 16  # bytes
DEFAULT_LISTEN = "127.0.0.1:8080"


def serve_command(
    out: Annotated[Path, typer.Option(help="Folder for results, one folder a slide.", show_default=False)],
    bundle: Annotated[
        list[str] | None,
        typer.Option(help="NAME=PATH of a bundle to serve; several may be named.", show_default="the shipped one"),
    ] = None,
    listen: Annotated[str, typer.Option(help="Number and port; beyond 127.0.0.1 with --token-file.")] = DEFAULT_LISTEN,
    socket: Annotated[
        Path | None, typer.Option(help="Socket to listen at, and at no port.", show_default=False)
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with a token that every request has to bear.", show_default=False)
    ] = None,
    shared_memory: Annotated[
        bool, typer.Option("--shared-memory", help="Let clients of this machine hand pixels over in memory.")
    ] = False,
    sessions: Annotated[int, typer.Option(min=1, max=64, help="Slides scanned at once.")] = 4,
    body_mb: Annotated[float, typer.Option(min=0.001, max=2000, help="MB of a request's body at most.")] = 64,
    pixels: Annotated[float, typer.Option(min=1, help="Pixels of a slide at most.")] = 4e10,
    queue: Annotated[int, typer.Option(min=1, help="Requests for inference that may wait.")] = 64,
    precision: Annotated[str, PRECISION] = "auto",
    backend: Annotated[str, BACKEND] = "auto",
    log_level: Annotated[str, typer.Option(help=f"{', '.join(LEVELS)}.")] = "warning",
) -> None:
    """Serve scanner software and other clients of this machine, until SIGTERM or Ctrl-C ends it.

    Windows by the Open Inference Protocol, slides while they are scanned, jobs for slides on disk: /openapi.json
    describes it all.
    """
    if log_level not in LEVELS:
        raise UsageError(f"--log-level {log_level}: choose {', '.join(LEVELS)}")
    try:
        import_module("starlette")
        from glassrt.engine.service.app import Service
        from glassrt.engine.service.listening import listen as listen_on
        from glassrt.engine.service.listening import listen_at, parse_listen
        from glassrt.engine.service.serving import serve
        from glassrt.engine.service.settings import Settings
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("glassrt"):
            raise
        raise UsageError(f"glassrt serve needs {error.name}: pip install 'glassrt[serve]'") from error
    address = parse_listen(listen)
    token = read_token(token_file) if token_file else b""
    if socket is None and not token and not address.loopback:
        raise UsageError(f"--listen {listen}: others can reach it: give a --token-file, or listen at 127.0.0.1")
    bundles = parse_bundles(bundle or [])
    prepare_folder(out)
    logging.basicConfig(level=log_level.upper(), format="glassrt: %(message)s", stream=sys.stderr)
    held = listen_at(socket) if socket else listen_on(address)
    try:
        settings = Settings(
            bundles, out.resolve(), token, socket is None, shared_memory, sessions, int(body_mb * (1 << 20)), pixels,
            queue, precision, backend,
        )  # fmt: skip
        service = Service(settings)
        where = str(socket) if socket else f"http://{address._replace(port=held.getsockname()[1])}"

        def tell() -> None:
            print(f"glassrt: serving {', '.join(bundles)} at {printable(where)}", file=sys.stderr, flush=True)

        serve(service, held, tell)
    finally:
        held.close()
        if socket:
            socket.unlink(missing_ok=True)


def parse_bundles(named: list[str]) -> dict[str, Path]:
    """Bundles by name from `NAME=PATH`, with the shipped one unless its name is taken. Raises UsageError."""
    found: dict[str, Path] = {}
    for text in named:
        name, mark, path = text.partition("=")
        if not mark or not path or not name.isprintable() or not name.isascii() or "/" in name or not name.strip():
            raise UsageError(f"--bundle {text}: expected NAME=PATH")
        if name in found:
            raise UsageError(f"--bundle {text}: the name is given twice")
        found[name] = Path(path)
    return {DEFAULT_BUNDLE.stem: DEFAULT_BUNDLE, **found}


def read_token(path: Path) -> bytes:
    """The token in a file. Raises UsageError for one that could be guessed, or cannot be sent."""
    try:
        with path.open("rb") as file:
            token = file.read(4097).strip()
    except OSError as error:
        raise UsageError(f"--token-file {path}: cannot be read ({error.strerror})") from error
    if not LEAST_TOKEN <= len(token) <= 4096 or not all(33 <= byte < 127 for byte in token):
        raise UsageError(f"--token-file {path}: expected one line of {LEAST_TOKEN} letters, digits or signs, or more")
    return token
