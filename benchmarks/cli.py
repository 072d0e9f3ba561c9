"""`glassrt bench`."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console

from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE, open_bundle
from glassrt.engine.commands.options import BACKEND, PRECISION, parse_counts, parse_scales
from glassrt.engine.commands.terminal import PlainTable
from glassrt.engine.runtimes.choose import MOST_WINDOWS, NAMES
from glassrt.engine.runtimes.isa import count_cores, cpu_isa, processor_name
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.tasks.segment import DEFAULT_READERS, MOST_READERS
from glassrt.training.cli import CONFIGS, bars, missing_packages

SLOWER = 1  # exit code of a comparison that found something slower
DIFFERENT = 1  # exit code of a comparison that left out who computes something else

bench_app = typer.Typer(help="Measure GlassRT on this machine.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add this room's commands."""
    app.add_typer(bench_app, name="bench")


@bench_app.command("slide")
def slide_command(
    slide: Annotated[Path, typer.Argument(help="Slide to score.", show_default=False)],
    bundle: Annotated[Path, typer.Argument(help="Bundle.", show_default="the one shipped")] = DEFAULT_BUNDLE,
    backend: Annotated[str, BACKEND] = "auto",
    precision: Annotated[str, PRECISION] = "auto",
    batch: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_WINDOWS, help="Windows per network call.", show_default="what suits the runtime"),
    ] = None,
    scales: Annotated[str | None, typer.Option(help="Scales, e.g. 0.75,1,1.5.", show_default="the bundle's")] = None,
    readers: Annotated[int, typer.Option(min=1, max=MOST_READERS, help="Threads that read and cut.")] = DEFAULT_READERS,
    repeats: Annotated[int, typer.Option(min=1, help="Counted runs.")] = 7,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Also with other threads and readers, and on larger slides made of it.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.", show_default=False)] = None,
) -> None:
    """Time `score` end to end, every part of it alone, and how close the whole comes to what its parts allow."""
    from glassrt.benchmarks import slides
    from glassrt.benchmarks.machine import write_report

    opened = open_bundle(bundle).replace(parse_scales(scales))
    console = Console()
    with console.status("") as status:
        with closing(open_backend(opened, backend, batch, precision=precision, throughput=True)) as runtime:
            report = slides.measure_slide(slide, opened, runtime, repeats, readers, status.update)
        if scaling:
            report["rows"] += slides.measure_scaling(slide, opened, runtime, repeats, status.update)
    print_rows(f"{report['slide']}, {report['backend']}", [*slides.each_row(report)])
    console.print(
        f"{report['windows']} windows, {report['windows_per_s']:.1f} a second, {report['mm2_per_s']:.2f} mm2/s, "
        f"{report['mpix_per_s']:.1f} MPix/s through the network\n"
        f"{report['share_of_bound']:.0%} of the bound {report['bound_s']:.3f} s from the parts; between mask and files "
        f"{report['bounded_by']} bounds; {report['times_network']:.2f} times the network alone; the parts one "
        f"after the other would take {report['overlap']:.2f} times as long"
    )
    write_report(json, report)


@bench_app.command("latency")
def latency_command(
    bundle: Annotated[Path, typer.Argument(help="Bundle.", show_default="the one shipped")] = DEFAULT_BUNDLE,
    backend: Annotated[str, typer.Option(help=f"{', '.join(NAMES)}, with commas, or auto.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16, int8, with commas, or auto.")] = "auto",
    batch: Annotated[str, typer.Option(help="Windows per network call, with commas.")] = "1",
    threads: Annotated[str, typer.Option(help="Threads, with commas; 0: all cores.")] = "0",
    duration: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds for each combination.")] = 10.0,
    rate: Annotated[
        float | None,
        typer.Option(min=0.01, max=1e6, help="Also: this many windows arrive a second.", show_default=False),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.", show_default=False)] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG to draw.", show_default=False)] = None,
) -> None:
    """Percentiles of latency, throughput, share of the machine's ceiling, start-up and memory."""
    with missing_packages("bench"):
        from glassrt.benchmarks import latency
        from glassrt.benchmarks.machine import write_report
        from glassrt.benchmarks.plots import plot_latency

        if plot is not None:
            import matplotlib  # noqa: F401  # before minutes of measuring
        import openvino  # noqa: F401  # which counts the work and finds the ceiling
    opened = open_bundle(bundle)
    batches, counts = parse_counts("--batch", batch, 1), parse_counts("--threads", threads, 0)
    backends, precisions = ([part.strip() for part in text.split(",")] for text in (backend, precision))
    settings = latency.lay_settings(
        opened,
        backends,
        precisions,
        batches,
        counts,
        lambda reason: print(f"glassrt: left out: {reason}", file=sys.stderr),
    )
    console = Console()
    with console.status("") as status:
        report = latency.measure_latency(opened, settings, duration, rate, status.update)
    title = f"{report['bundle']}: {report['gmac_per_window']:.2f} GMAC a window of {report['window']} px"
    for rows in latency.each_table(report):
        print_rows(title, rows)
        title = ""
    print_machine("p: percentiles of calls, ms; ceiling: of what this machine reaches at most")
    write_report(json, report)
    if plot is not None:
        plot_latency(plot, report)


@bench_app.command("peers")
def peers_command(
    slide: Annotated[Path, typer.Argument(help="Slide to take pixels from.", show_default=False)],
    bundle: Annotated[Path, typer.Argument(help="Bundle.", show_default="the one shipped")] = DEFAULT_BUNDLE,
    scales: Annotated[str | None, typer.Option(help="Scales, e.g. 0.75,1,1.5.", show_default="the bundle's")] = None,
    flip: Annotated[bool | None, typer.Option("--flip/--no-flip", help="Mirrored windows too.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="In which all take turns.")] = 7,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.", show_default=False)] = None,
) -> None:
    """The same network, pixels and windows through GlassRT, MONAI, TIAToolbox and plain torch.

    Exit code 1: one of them computes something else and was left out.
    """
    with missing_packages("peers"):
        from glassrt.benchmarks.peers import measure_peers
    from glassrt.benchmarks.machine import write_report

    with Console().status("") as status:
        opened = open_bundle(bundle).replace(parse_scales(scales), flip)
        report = measure_peers(slide, opened, rounds, status.update)
    height, width = report["pixels"]
    rows = [
        {
            "": each["name"],
            "s": f"{each['seconds']:.2f}",
            "x fp32": f"{each['times_glassrt_fp32']:.2f}",
            "x best": f"{each['times_fastest']:.2f}",
            "flips": f"{each['other_class']:.2%}",
        }
        for each in report["rows"]
    ]
    print_rows(f"{width} x {height} px of {report['slide']}, {report['threads']} threads", rows)
    print_machine("s: seconds; x: times as long as another takes; flips: pixels of another class")
    for reason in report["left_out"]:
        print(f"glassrt: left out: {reason}", file=sys.stderr)
    write_report(json, report)
    if report["left_out"]:
        raise typer.Exit(DIFFERENT)


@bench_app.command("reading")
def reading_command(
    slide: Annotated[Path, typer.Argument(help="Slide to read.", show_default=False)],
    rounds: Annotated[int, typer.Option(min=1, help="In which all readers take turns.")] = 7,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.", show_default=False)] = None,
) -> None:
    """Windows of a slide through GlassRT, OpenSlide, tiffslide, pyvips and cuCIM, as far as they are installed."""
    from glassrt.benchmarks.machine import write_report
    from glassrt.benchmarks.reading import measure_reading

    with Console().status("") as status:
        report = measure_reading(slide, rounds, progress=status.update)
    rows = [{"": row["name"], "MPix/s": f"{row['mpix_per_s']:.0f}"} for row in report["rows"]]
    print_rows(f"{report['slide']}: {report['windows']} windows of {report['window']} px", rows)
    write_report(json, report)


@bench_app.command("compare")
def compare_command(
    before: Annotated[Path, typer.Argument(help="Report of an earlier run.", show_default=False)],
    after: Annotated[Path, typer.Argument(help="Report of a later one.", show_default=False)],
) -> None:
    """Say what became slower beyond what a benchmark's own runs differ by. Exit code 1: something did."""
    from glassrt.benchmarks.compare import compare_reports, differing_machine

    changes = compare_reports(before, after)
    rows = [
        {
            "": change.name,
            "before": f"{change.before:.4g} {change.unit}",
            "after": f"{change.after:.4g} {change.unit}",
            "change": f"{change.percent:+.1f} %",
            "verdict": change.verdict,
        }
        for change in changes
    ]
    print_rows(f"{before.name} to {after.name}", rows)
    if differing := differing_machine(before, after):
        print(f"The machines differ in {', '.join(differing)}.")
    if any(change.verdict == "slower" for change in changes):
        raise typer.Exit(SLOWER)


@bench_app.command("memory")
def memory_command(
    data: Annotated[Path, typer.Option(help="Folder of the GlaS images.", show_default=False)],
    side: Annotated[int, typer.Option(min=2048, help="Pixels along the made slide's side.")] = 30_000,
    tissue: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the slide that is tissue.")] = 0.25,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.", show_default=False)] = None,
) -> None:
    """Score a made slide of real tissue in its own process and report its peak memory."""
    from glassrt.benchmarks.machine import write_report
    from glassrt.benchmarks.memory import measure_memory

    console = Console()
    with console.status(f"a slide of {side} x {side} pixels"):
        report = measure_memory(data, side, tissue)
    console.print(
        f"{side} x {side} px: peak {report['peak_rss_gb']:.2f} GB, {report['seconds']:.0f} s, "
        f"{report['windows']['run']} windows, {report['windows']['skipped']} skipped"
    )
    write_report(json, report)


@bench_app.command("tissue")
def tissue_command(
    data: Annotated[Path, typer.Option(help="Folder of the unpacked data sets.", show_default=False)],
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.", show_default=False)] = None,
) -> None:
    """Share of tissue missed and of glass and ink taken, on real pictures and on made stains of them."""
    from glassrt.benchmarks.machine import write_report
    from glassrt.benchmarks.tissue import measure_tissue

    with Console().status("") as status:
        report = measure_tissue(data, status.update)
    for title in ("stains", "marks"):
        rows = [
            {
                "": f"{row['stain']} {row['pictures of']}".strip(),
                "pictures": row["pictures"],
                "missed %": shown(row["tissue_missed_percent"]),
                "taken %": shown(row["nothing_taken_percent"]),
                "unlike H&E %": shown(row["unlike_percent"]),
            }
            for row in report[title]
        ]
        print_rows(title, rows)
    write_report(json, report)


def shown(percent: float | None) -> str:
    """A figure of a table, or a dash for none."""
    return "-" if percent is None else f"{percent:.2f}"


@bench_app.command("oeem")
def oeem_command(
    data: Annotated[Path, typer.Option(help="Folder of the GlaS images.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of all runs; a stopped benchmark goes on.", show_default=False)],
    json: Annotated[Path, typer.Option(help="File to write the scores to.", show_default=False)],
    config: Annotated[Path, typer.Option(help="TOML file.", show_default="oeem_compact.toml")] = CONFIGS
    / "oeem_compact.toml",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the rows that matter most.")] = 3,
) -> None:
    """Train OEEM with every loss of its tables and score each on GlaS testA; hours on a CPU."""
    with missing_packages():
        from glassrt.benchmarks.oeem import measure_oeem
        from glassrt.training.config import load_config
        from glassrt.training.methods.oeem import OeemConfig
        from glassrt.training.world import join_world

    settings = load_config(config, OeemConfig)
    with join_world() as world, bars(world.leads) as stage:
        report = measure_oeem(settings, data, out, seeds, world, stage, json)
    if not world.leads:
        return
    table = PlainTable("GlaS testA, mIoU")
    for name in ("row", "seed", "scale 1", "multi-scale"):
        table.add_column(name)
    for row in report["rows"]:
        scores = (f"{row[test]['mIoU']:.2f}" if test in row else "" for test in ("scale 1", "multi-scale"))
        table.add_row(row["row"], str(row["seed"]), *scores)
    Console().print(table)


@bench_app.command("kernels")
def kernels_command(
    report: Annotated[bool, typer.Option("--report", help="Only what they compile to; needs no device.")] = False,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.", show_default=False)] = None,
) -> None:
    """Time the CUDA kernels against the device's copy bandwidth and against torch; or show their registers."""
    with missing_packages():
        from glassrt.benchmarks import kernels
    from glassrt.benchmarks.machine import write_report

    if report:
        figures: dict[str, Any] = {"builds": [build._asdict() for build in kernels.report_builds()]}
        figures["bytes"] = kernels.bytes_to_move()
        rows: dict[str, dict[str, Any]] = {}
        for build in figures["builds"]:
            row = rows.setdefault(build["kernel"], {"kernel": build["kernel"], "shared": 0, "spilled": 0})
            row["shared"] = max(row["shared"], build["shared_bytes"])
            row["spilled"] = max(row["spilled"], build["spilled_bytes"])
            row[f"sm_{build['architecture']}"] = build["registers"]
        print_rows("Kernels as built: bytes of shared memory and spilled, registers by architecture", [*rows.values()])
        moved = [{"call": name, "MB": count / 1e6} for name, count in figures["bytes"].items()]
        print_rows("Bytes that each measured call must move; MB are microseconds at 1 TB/s", moved)
    else:
        figures = kernels.measure_kernels()
        print_rows(f"{figures['device']}, copies {figures['copy_tb_per_s']:.2f} TB/s", figures["kernels"])
        versions = figures["oeem_forward_backward_us"]
        print_rows("OEEM forward and backward, as called", [{"version": k, "us": v} for k, v in versions.items()])
    write_report(json, figures)


def print_machine(legend: str) -> None:
    """Print what the short names of columns stand for, and the processor."""
    print(f"{legend}\n{processor_name()}, {cpu_isa()}, {count_cores()} cores")


def print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows of like keys as a table."""
    table = PlainTable(title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in rows[0]:
        table.add_column(name.replace("_", " "))
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
