"""`glassrt score`."""

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE, Bundle, open_bundle
from glassrt.engine.bundles.kinds.mil import Mil
from glassrt.engine.commands.batch_options import (
    ATTEMPTS,
    BATCH,
    CACHE,
    CACHE_SIZE,
    DEVICES,
    LOG_JSON,
    MAP_MPP,
    METRICS,
    MPP,
    PER_WORKER,
    RAY,
    READERS,
    STAGE,
    TIMEOUT,
    TISSUE,
    WORKERS,
    open_watchers,
    place_copies,
)  # fmt: skip
from glassrt.engine.commands.options import BACKEND, PRECISION, parse_scales
from glassrt.engine.commands.scored import MOST_SHOWN, SLIDES_FAILED, print_outcomes, score_stored, summary_table
from glassrt.engine.commands.shown import Shown
from glassrt.engine.commands.stop import Stop
from glassrt.engine.commands.terminal import printable
from glassrt.engine.errors import UsageError
from glassrt.engine.production.batch import Batch, Options
from glassrt.engine.production.entries import list_entries, refuse_one_name
from glassrt.engine.production.executor import Executor
from glassrt.engine.production.here import Here
from glassrt.engine.production.journal import read_ids, read_journals
from glassrt.engine.production.parts import parse_shard
from glassrt.engine.production.plan import Plan
from glassrt.engine.production.processes import Limits
from glassrt.engine.production.report import write_report
from glassrt.engine.production.wire import Setup
from glassrt.engine.production.workers import Workers, parse_devices
from glassrt.engine.runtimes.choose import explain_slower
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Backend
from glassrt.engine.tasks.segment import DEFAULT_READERS

STOPPED = 130  # exit code of a batch that a signal ended


def score_command(
    out: Annotated[Path, typer.Option(help="Folder for summary.csv and one folder a slide.", show_default=False)],
    slides: Annotated[
        list[str] | None,
        typer.Argument(help="Slides, images, folders, patterns or addresses such as s3://.", show_default=False),
    ] = None,
    bundle: Annotated[Path, typer.Option(help="Bundle to score with.", show_default="shipped")] = DEFAULT_BUNDLE,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="CSV with a column path, and if wanted id, mpp and bundle; others go into the summary.",
            show_default=False,
        ),
    ] = None,
    suffix: Annotated[
        str | None, typer.Option(help="Endings of slides in folders, e.g. .svs,.tif.", show_default="those of slides")
    ] = None,
    backend: Annotated[str, BACKEND] = "auto",
    precision: Annotated[str, PRECISION] = "auto",
    scales: Annotated[str | None, typer.Option(help="Scales, e.g. 0.75,1,1.5.", show_default="the bundle's")] = None,
    flip: Annotated[
        bool | None,
        typer.Option("--flip/--no-flip", help="Average with mirrored windows.", show_default="the bundle's"),
    ] = None,
    map_mpp: Annotated[float | None, MAP_MPP] = None,
    mpp: Annotated[float | None, MPP] = None,
    batch: Annotated[int | None, BATCH] = None,
    readers: Annotated[int, READERS] = DEFAULT_READERS,
    tissue: Annotated[str, TISSUE] = "auto",
    workers: Annotated[int | None, WORKERS] = None,
    devices: Annotated[str | None, DEVICES] = None,
    ray: Annotated[str | None, RAY] = None,
    shard: Annotated[str, typer.Option(help="Score this part of the slides, e.g. 3/16.")] = "1/1",
    attempts: Annotated[int, ATTEMPTS] = 2,
    timeout: Annotated[float, TIMEOUT] = 1800,
    slides_per_worker: Annotated[int, PER_WORKER] = 200,
    force: Annotated[bool, typer.Option("--force", help="Score all anew, also what is done.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Score only what failed before.")] = False,
    stage: Annotated[bool, STAGE] = False,
    cache: Annotated[Path | None, CACHE] = None,
    cache_size: Annotated[float, CACHE_SIZE] = 50.0,
    log_json: Annotated[Path | None, LOG_JSON] = None,
    metrics: Annotated[str | None, METRICS] = None,
) -> None:
    """Score slides: a map, regions, a picture and figures for each; or files of features, with a bundle of those.

    What is done with the same file, bundle and options is skipped: a batch that was stopped goes on. Exit code 3: some
    slides could not be scored (summary.csv says why); 2: nothing could be done; 130: stopped.
    """
    opened = open_bundle(bundle).replace(parse_scales(scales), flip)
    console, named = Console(), slides or []
    if isinstance(opened.manifest, Mil) and opened.manifest.takes == "features":
        if (mpp, map_mpp, tissue, manifest) != (None, None, "auto", None):
            raise UsageError(
                "--mpp, --map-mpp, --tissue and --manifest are of slides: files of features have none of them"
            )
        with contextlib.closing(open_backend(opened, backend, batch, precision=precision, throughput=True)) as runtime:
            score_stored([Path(each) for each in named], opened, runtime, out, console)
        return
    copies, room = place_copies(cache, cache_size)
    setup = Setup(scales=parse_scales(scales), flip=flip, readers=readers, cache=copies, cache_bytes=room, stage=stage)
    known = read_ids(out)
    entries = list_entries(named, manifest, suffix.split(",") if suffix else (), known)
    refuse_one_name(entries, known)
    options = Options(
        bundle, setup, backend, precision, batch, mpp, map_mpp, tissue, force, retry_failed, attempts,
        parse_shard(shard),
    )  # fmt: skip
    scored = Batch(entries, out, options)
    crew = Workers(workers, parse_devices(devices) if devices else (), ray, Limits(timeout, slides_per_worker))
    alone = workers == 0 or (workers is None and ray is None and len(scored.entries) == 1)
    with contextlib.ExitStack() as stack:
        runtime = open_backend(opened, backend, batch, precision=precision, throughput=True)
        held = stack.enter_context(contextlib.ExitStack())
        held.callback(runtime.close)
        show_runtime(console, opened, runtime, backend if precision == "auto" else None)
        chosen = runtime.name
        if not alone:
            held.close()  # workers have their own
        shown = stack.enter_context(Shown(len(scored.entries), alone))
        stop = stack.enter_context(Stop())
        watchers = stack.enter_context(open_watchers(shown, log_json, metrics))

        def open_executor() -> Executor:
            if alone:
                held.pop_all()  # it is closed there
                return Here(setup, stop.guard(shown.advanced), {f"{bundle} {opened.sha256}": (opened, runtime)})
            return crew.open(setup, chosen)

        def tell(plan: Plan) -> None:
            shown.expect(plan)
            watchers.expect(plan)
            if plan.done or plan.failed or plan.changed or plan.otherwise:
                console.print(describe(plan))

        ended = scored.run(open_executor, watchers, tell, lambda: stop.came)
        watchers.finish(ended.finished)
    if len(ended.rows) > 1:
        write_report(out, read_journals(out))
    shown_outcomes = {row.id: scored.outcome(row) for row in ended.rows[:MOST_SHOWN] if row.state in ("done", "failed")}
    console.print(summary_table(list(shown_outcomes.values()), opened))
    print_outcomes(shown_outcomes, ended.rows, out)
    if not ended.finished:
        print("glassrt: stopped: the same command goes on", file=sys.stderr)
        raise typer.Exit(STOPPED)
    if any(row.state == "failed" for row in ended.rows):
        raise typer.Exit(SLIDES_FAILED)


def show_runtime(console: Console, bundle: Bundle, runtime: Backend, asked: str | None) -> None:
    """Print what slides are scored with, and why not with something faster through the runtime that was `asked` for."""
    at, mirrored = bundle.segmentation.views
    console.print(
        Text.assemble(
            (bundle.manifest.name, "bold"),
            f" in {runtime.precision} with {runtime.name} {runtime.version} on {runtime.device} ({runtime.isa}), "
            f"scales {', '.join(f'{scale:g}' for scale in at)}{', mirrored too' if mirrored else ''}",
        )
    )
    if asked is not None and (line := explain_slower(bundle, asked, (runtime.name, runtime.precision))):
        console.print(Text(printable(line)))


def describe(plan: Plan) -> str:
    """What there is to do beside new slides."""
    told = {
        "done before": plan.done,
        "that failed": plan.failed,
        "whose file has changed": plan.changed,
        "done with another bundle or options, scored anew": plan.otherwise,
        "new": plan.new,
    }
    return "Slides: " + ", ".join(f"{count} {what}" for what, count in told.items() if count)
