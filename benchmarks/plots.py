"""Pictures of what was measured."""

import statistics
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


def plot_transfer(path: Path, report: dict[str, Any]) -> None:
    """Accuracy by the number of patches as a PNG: a line for each start, its bars one standard deviation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    rows = report["rows"]
    for name in dict.fromkeys(row["start"] for row in rows):
        cells: dict[int, list[float]] = {}
        for row in rows:
            if row["start"] == name:
                cells.setdefault(row["examples"], []).append(row["accuracy"])
        means = [statistics.fmean(each) for each in cells.values()]
        axes.errorbar(
            [*cells], means, [statistics.pstdev(each) for each in cells.values()], marker="o", capsize=3, label=name
        )
    axes.set_xlabel("patches of each class")
    axes.set_ylabel("accuracy, percent")
    axes.set_xscale("log")
    axes.set_xticks(counts := sorted({row["examples"] for row in rows}), labels=[str(count) for count in counts])
    axes.minorticks_off()
    axes.set_title(f"{report['config']['dataset']}, {report['tested']} patches of the split test")
    figure.legend(loc="outside right center", fontsize="small")
    with replace_file(path) as beside:
        figure.savefig(beside, format="png")


def plot_scan(path: Path, report: dict[str, Any]) -> None:
    """How far each map tile was behind its last pixel, over the time of the scan, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    for name, scanned in report.items():
        if isinstance(scanned, dict) and "lags_ms" in scanned:
            axes.plot(scanned["times_s"], scanned["lags_ms"], ".", markersize=4, label=name)
    axes.set_yscale("log")
    axes.set_xlabel("seconds since the first tile")
    axes.set_ylabel("ms from last pixel to callback")
    axes.set_title(f"map tiles of a slide of {report['side_mm']:g} mm while it is scanned, {report['runtime']}")
    axes.legend()
    with replace_file(path) as beside:
        figure.savefig(beside, format="png")


def plot_quality(path: Path, points: dict[str, list[tuple[str, float, float]]]) -> None:
    """Score against what a square millimetre costs, as a PNG: on each kind of processor, points of (setting,
    milliseconds, mIoU). A colour a setting, a mark a kind.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    settings = list(dict.fromkeys(name for shown in points.values() for name, *_ in shown))
    for number, name in enumerate(settings):
        axes.plot([], [], "o", color=f"C{number}", label=name)
    for (kind, shown), mark in zip(points.items(), "osD^vP*X", strict=False):
        axes.plot([], [], mark, color="black", fillstyle="none", label=kind)
        for name, cost, score in shown:
            axes.plot(cost, score, mark, color=f"C{settings.index(name)}")
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds a square millimetre of tissue, the network alone")
    axes.set_ylabel("mIoU on GlaS, percent")
    axes.set_title("what bundles are worth and what they cost")
    figure.legend(loc="outside right upper", fontsize="x-small")
    with replace_file(path) as beside:
        figure.savefig(beside, format="png")


def find_spread(values: list[float]) -> float:
    """Their standard deviation, as the tables have it; none of one alone."""
    return statistics.stdev(values) if len(values) > 1 else 0.0
