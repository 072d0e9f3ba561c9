"""`glassrt bench kernels`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from glassrt.benchmarks.commands.rows import print_rows
from glassrt.training.commands.options import missing_packages


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
