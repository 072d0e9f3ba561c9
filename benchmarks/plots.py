"""Pictures of what was measured."""

from pathlib import Path
from typing import Any

from glassrt.engine.files import replace_file


def plot_latency(path: Path, report: dict[str, Any]) -> None:
    """Latency against throughput as a PNG: a line for each runtime and precision, a point for each batch size.

    Points are medians; the bars reach up to the 99th percentile.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in report["rows"]:
        threads = f", {row['threads']} threads" if row["threads"] else ""
        lines.setdefault(f"{row['backend']} {row['precision']}{threads}", []).append(row)
    for name, rows in lines.items():
        middle = [row["p50_ms"] for row in rows]
        tail = [row["p99_ms"] - row["p50_ms"] for row in rows]
        axes.errorbar(
            [row["windows_per_s"] for row in rows],
            middle,
            yerr=[[0] * len(rows), tail],
            marker="o",
            capsize=3,
            label=name,
        )
        for row, height in zip(rows, middle, strict=True):
            axes.annotate(str(row["batch"]), (row["windows_per_s"], height), (4, 4), textcoords="offset points")
    axes.set_xlabel("windows per second")
    axes.set_ylabel("milliseconds a call, median to 99 %")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_title(f"{report['bundle']}, {report['window']} px windows; numbers are batch sizes")
    axes.legend()
    with replace_file(path) as beside:
        figure.savefig(beside, format="png")
