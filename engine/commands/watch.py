"""`glassrt watch`."""

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE, open_bundle
from glassrt.engine.commands.batch_options import (
    ATTEMPTS,
    BATCH,
    DEVICES,
    LOG_JSON,
    MAP_MPP,
    METRICS,
    MPP,
    PER_WORKER,
    READERS,
    TIMEOUT,
    TISSUE,
    WORKERS,
    open_watchers,
)  # fmt: skip
from glassrt.engine.commands.options import BACKEND, PRECISION
from glassrt.engine.commands.shown import Printed
from glassrt.engine.commands.stop import Stop
from glassrt.engine.commands.terminal import printable
from glassrt.engine.errors import FolderTaken, UsageError
from glassrt.engine.production.arrivals import Arrivals
from glassrt.engine.production.batch import Batch, Options
from glassrt.engine.production.entries import SLIDE_SUFFIXES, list_entries
from glassrt.engine.production.journal import read_journals
from glassrt.engine.production.plan import Plan
from glassrt.engine.production.processes import Limits
from glassrt.engine.production.report import write_report
from glassrt.engine.production.wire import Order, Setup
from glassrt.engine.production.workers import Workers, parse_devices
from glassrt.engine.runtimes.choose import choose
from glassrt.engine.tasks.segment import DEFAULT_READERS

EVERY_S = 1.0
REPORTED_S = 300.0  # a report of thousands of slides takes a while


def watch_command(
    folder: Annotated[Path, typer.Argument(help="Folder that a scanner writes slides to.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for summary.csv and one folder a slide.", show_default=False)],
    bundle: Annotated[Path, typer.Option(help="Bundle to score with.", show_default="shipped")] = DEFAULT_BUNDLE,
    suffix: Annotated[
        str | None, typer.Option(help="Endings of slides, e.g. .svs,.tif.", show_default="those of slides")
    ] = None,
    settle: Annotated[float, typer.Option(min=0, help="Seconds that a slide's files must not have changed.")] = 30.0,
    backend: Annotated[str, BACKEND] = "auto",
    precision: Annotated[str, PRECISION] = "auto",
    map_mpp: Annotated[float | None, MAP_MPP] = None,
    mpp: Annotated[float | None, MPP] = None,
    batch: Annotated[int | None, BATCH] = None,
    readers: Annotated[int, READERS] = DEFAULT_READERS,
    tissue: Annotated[str, TISSUE] = "auto",
    workers: Annotated[int | None, WORKERS] = None,
    devices: Annotated[str | None, DEVICES] = None,
    attempts: Annotated[int, ATTEMPTS] = 2,
    timeout: Annotated[float, TIMEOUT] = 1800,
    slides_per_worker: Annotated[int, PER_WORKER] = 200,
    log_json: Annotated[Path | None, LOG_JSON] = None,
    metrics: Annotated[str | None, METRICS] = None,
) -> None:
    """Score what a scanner drops into a folder, once it is whole, until SIGTERM or Ctrl-C ends it.

    It has the journal of `glassrt score`: started again it goes on, and tries once more what failed.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no folder that could be watched")
    if out.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"--out {out} lies in {folder}, where results would be taken for slides: choose another")
    chosen, _ = choose(open_bundle(bundle), backend, precision)
    setup = Setup(readers=readers)
    options = Options(bundle, setup, backend, precision, batch, mpp, map_mpp, tissue, attempts=attempts)
    crew = Workers(workers, parse_devices(devices) if devices else (), None, Limits(timeout, slides_per_worker))
    wanted = frozenset(each.lower() for each in suffix.split(",")) if suffix else SLIDE_SUFFIXES
    arrivals = Arrivals(folder, wanted, settle)
    with ExitStack() as stack:
        stop = stack.enter_context(Stop())
        watchers = stack.enter_context(open_watchers(Printed(), log_json, metrics))
        look = Look(arrivals, out, watchers.expect)

        def begin(plan: Plan) -> None:
            print(f"glassrt: watching {printable(str(folder))}", file=sys.stderr, flush=True)

        Batch([], out, options).run(lambda: crew.open(setup, chosen), watchers, begin, lambda: stop.came, look.more)
        watchers.finish(whole=False)
    write_report(out, read_journals(out))


class Look:
    """Takes what has arrived into a batch, now and then, and writes the report anew."""

    def __init__(self, arrivals: Arrivals, out: Path, expect: Callable[[Plan], None]) -> None:
        self._arrivals, self._out, self._expect = arrivals, out, expect
        self._looked = self._reported = 0.0
        self._fresh = False

    def more(self, batch: Batch) -> dict[str, Order]:
        """The orders of slides that have become whole. One that cannot be taken is told of; others will come."""
        now = time.monotonic()
        if now - self._looked < EVERY_S:
            return {}
        self._looked = now
        if self._fresh and now - self._reported > REPORTED_S:
            write_report(self._out, read_journals(self._out))
            self._fresh, self._reported = False, now
        orders: dict[str, Order] = {}
        for path in self._arrivals.look():
            try:
                plan, new = batch.add(list_entries([str(path)], None, (), batch.ids))
            except (FolderTaken, UsageError) as error:
                print(f"glassrt: {printable(str(error))}", file=sys.stderr, flush=True)
                continue
            self._expect(plan)
            orders |= new
            self._fresh = True
        return orders
