"""A server from its first request to its last."""

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from glassrt.engine.service.app import App, Service
from glassrt.engine.service.refusals import LOGGER

KEPT_S = 300  # connections between two requests
GRACE_S = 3  # for answers that are under way
WHOLE_S = 9.0  # from the signal to the end, whatever hangs
LOOKS = 10  # of uvicorn's ticks, ten a second


class Server(uvicorn.Server):
    """uvicorn's, which ends the sessions before it waits for their clients."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._looking: asyncio.Future[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As in uvicorn; nothing may keep the process for longer."""
        self._service.closing = True
        if not self.should_exit:
            watchdog = threading.Timer(WHOLE_S, give_up)
            watchdog.daemon = True
            watchdog.start()
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """As in uvicorn; sessions are looked after."""
        if counter % LOOKS == 0 and (self._looking is None or self._looking.done()):
            self._looking = asyncio.get_running_loop().run_in_executor(None, self._look)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As in uvicorn."""
        await asyncio.get_running_loop().run_in_executor(None, self._service.stop)
        await super().shutdown(sockets)

    def _look(self) -> None:
        try:
            self._service.sessions.look()
        except Exception as error:
            LOGGER.error("unexpected error", exc_info=error)


def serve(service: Service, listening: socket.socket, told: Callable[[], None]) -> None:
    """Answer requests until a signal comes. `told` is called when it begins. The socket is closed in the end."""
    config = uvicorn.Config(
        App(service), http=find_protocol(), ws="none", loop="asyncio", lifespan="off", log_config=None,
        access_log=False, server_header=False, timeout_graceful_shutdown=GRACE_S, timeout_keep_alive=KEPT_S,
    )  # fmt: skip
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what is to be said of a request is said by the app
    older = {each: signal.signal(each, lambda number, frame: None) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        service.jobs.resume()
        told()
        Server(config, service).run([listening])
    finally:
        service.close()
        for each, handler in older.items():
            signal.signal(each, handler)


def find_protocol() -> Any:
    """What speaks HTTP: in bounds where httptools is there, else uvicorn's own."""
    try:
        from glassrt.engine.service.protocol import Bounded
    except ImportError:
        return "h11"
    return Bounded


def give_up() -> None:
    """End at once."""
    LOGGER.warning("ended without waiting any longer")
    os._exit(0)
