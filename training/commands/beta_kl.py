"""`glassrt train beta-kl`."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from glassrt.training.commands.options import CONFIGS, DATA, RUN, bars, missing_packages, tell_next

LOGGER = logging.getLogger("glassrt")

START = "from glassrt.engine.commands.main import main; main()"
LOOK_S = 0.5
RESTART_S = 60.0  # between starts of a mapping process that ends by itself
MAPPING_LOG = "mapping.log"


def beta_kl_command(
    data: Annotated[Path, DATA],
    out: Annotated[Path, RUN],
    config: Annotated[Path, typer.Option(help="TOML file.", show_default="beta_kl_compact.toml")] = CONFIGS
    / "beta_kl_compact.toml",
    maps: Annotated[
        bool,
        typer.Option(
            "--maps/--no-maps",
            help='Start the mapping process where mapping = "beside"; without it, run `glassrt map-suspects` yourself.',
        ),
    ] = True,
) -> None:
    """Train a network that maps disease from slide labels alone (beta-KL)."""
    with missing_packages():
        from glassrt.training.config import load_config
        from glassrt.training.methods import beta_kl
        from glassrt.training.run import keep_config
        from glassrt.training.world import join_world
    settings = load_config(config, beta_kl.BetaKlConfig)
    with join_world() as world, bars(world.leads) as stage:
        slides = beta_kl.find_slides(settings, data)
        beta_kl.check(settings, world)
        keep_config(settings, out, world)
        beside = maps and world.leads and settings.mapping == "beside" and settings.alpha > 0
        with keep_mapping(data, out, beside):
            beta_kl.train(settings, slides, out, world, stage)
    if world.leads:
        tell_next(out)


@contextmanager
def keep_mapping(data: Path, run: Path, wanted: bool) -> Iterator[None]:
    """Another process that makes maps for the run meanwhile, started again whenever it ends by itself."""
    if not wanted:
        yield
        return
    over = threading.Event()

    def keep() -> None:
        while not over.is_set():
            began = time.monotonic()
            try:
                with (run / MAPPING_LOG).open("ab") as log:
                    ended = run_until(over, data, run, log)
            except OSError as error:
                ended = f"could not be started ({error.strerror})"
            if ended and not over.is_set():
                LOGGER.warning("the mapping process %s; it is started again in a minute", ended)
                over.wait(max(0.0, began + RESTART_S - time.monotonic()))

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def run_until(over: threading.Event, data: Path, run: Path, log: BinaryIO) -> str:
    """Run the mapping process until all is over; how it ended where it did so by itself, else nothing."""
    command = [sys.executable, "-c", START, "map-suspects", str(run), "--data", str(data), "--parent", str(os.getpid())]
    # In a session of its own: what a terminal interrupts is the run, which ends its companion itself.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    while process.poll() is None and not over.wait(LOOK_S):
        pass
    if process.returncode is not None:
        return f"ended ({run / MAPPING_LOG} says why)"
    process.terminate()
    process.wait()
    return ""
