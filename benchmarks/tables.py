"""The tables of figures in `benchmarks/README.md` and their picture, drawn from the files in `benchmarks/results/`.

`python -m glassrt.benchmarks.tables benchmarks/README.md` replaces what stands between `<!-- NAME -->` and
`<!-- end -->` for every table there is. Run it in a checkout after new results.
"""

import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from glassrt.engine.errors import UsageError
from glassrt.engine.files import replace_file

RESULTS = Path("benchmarks/results")
Report = dict[str, Any]


def draw_latency(report: Report) -> list[list[str]]:
    """Latency and throughput of each runtime, precision and batch size."""
    rows = [
        [
            "runs",
            "calls",
            "p50 ms",
            "p90",
            "p95",
            "p99",
            "max",
            "windows/s",
            "of ceiling",
            "p99 at rate",
            "start s",
            "GB",
        ]
    ]
    for row in report["rows"]:
        start = row["start"]
        seconds = start["import_s"] + start["load_s"] + start["first_call_s"]
        rows.append([
            row["name"],
            str(row["calls"]),
            *(f"{row[key]:.1f}" for key in ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms", "windows_per_s")),
            "" if row["ceiling_share"] is None else f"{row['ceiling_share']:.0%}",
            "" if "at_rate" not in row else "not kept" if row["at_rate"] is None else f"{row['at_rate']['p99_ms']:.1f}",
            f"{seconds:.2f}",
            f"{start['peak_rss_gb']:.2f}",
        ])  # fmt: skip
    return rows


def draw_peers(report: Report) -> list[list[str]]:
    """Seconds of every contender on the same pixels."""
    rows = [["", "seconds", "times GlassRT fp32", "times the fastest", "pixels of another class"]]
    for row in report["rows"]:
        figures = (f"{row[key]:.2f}" for key in ("seconds", "times_glassrt_fp32", "times_fastest"))
        rows.append([row["name"], *figures, f"{row['other_class']:.3%}"])
    return rows


def draw_reading(report: Report) -> list[list[str]]:
    """MPix/s of every reader, a column for each placing and number of threads."""
    columns = dict.fromkeys(row["name"].split(", ", 1)[1] for row in report["rows"])
    readers = dict.fromkeys(row["name"].split(", ", 1)[0] for row in report["rows"])
    rates = {row["name"]: f"{row['mpix_per_s']:.0f}" for row in report["rows"]}
    return [["MPix/s", *columns], *([each, *(rates[f"{each}, {column}"] for column in columns)] for each in readers)]


def draw_slide(report: Report) -> list[list[str]]:
    """Seconds of every part of scoring alone."""
    parts = ("open", "mask", "read and cut", "infer", "stitch", "write", "score")
    runs = {row["name"]: row["runs"] for row in report["rows"]}
    return [["", *parts], ["seconds", *(f"{statistics.median(runs[part]):.3f}" for part in parts)]]


def draw_tissue(report: Report) -> list[list[str]]:
    """Percent of tissue missed and of glass taken: a row a stain, a column a set of pictures."""
    columns = dict.fromkeys(row["pictures of"] for row in report["stains"])
    stains = dict.fromkeys(row["stain"] for row in report["stains"])
    cells = {(row["stain"], row["pictures of"]): show_errors(row) for row in report["stains"]}
    return [
        ["missed / taken, %", *columns],
        *([stain, *(cells.get((stain, c), "") for c in columns)] for stain in stains),
    ]


def draw_marks(report: Report) -> list[list[str]]:
    """The same for strokes of pens."""
    return [["", "missed / taken, %"], *([row["pictures of"], show_errors(row)] for row in report["marks"])]


def draw_da_refinenet(report: Report) -> list[list[str]]:
    """Every fusion and control: means over seeds and what each seed gave."""
    from glassrt.benchmarks.da_refinenet import draw_table  # which loads torch

    return draw_table(report)


def draw_beta_kl(report: Report) -> list[list[str]]:
    """Every divergence, drawing alike or where disease is suspected: means over seeds."""
    from glassrt.benchmarks.beta_kl import draw_table  # which loads torch

    return draw_table(report)


def draw_distill(report: Report) -> list[list[str]]:
    """Baseline, teacher and student: means over folds and seeds, or curves over the number of bags."""
    from glassrt.benchmarks.distill import draw_table  # which loads torch

    return draw_table(report)


def show_errors(row: dict[str, Any]) -> str:
    """Both kinds of error of a row, a dash where there was nothing to judge."""
    kinds = (row["tissue_missed_percent"], row["nothing_taken_percent"])
    return " / ".join("-" if percent is None else f"{percent:.1f}" for percent in kinds)


def describe_machine(report: Report) -> str:
    """The processor that a report's figures are of, and the day."""
    machine = report["machine"]
    isa = f", {machine['isa']}" if "isa" in machine else ""  # reports before 0.1.0 do not say it
    return f"{machine['processor']}{isa}, {machine['cores']} cores, {machine['date']}."


def draw_transfer(report: Report) -> list[list[str]]:
    """Accuracy of every start, by the number of patches."""
    from glassrt.benchmarks.transfer import draw_table  # which loads torch

    return draw_table(report)


def draw_quality(report: Report) -> list[list[str]]:
    """Every bundle's scores and costs."""
    from glassrt.benchmarks import quality  # which loads runtimes

    return quality.draw_table(msgspec.convert(report, quality.Report))


TABLES: dict[str, tuple[str, Callable[[Report], list[list[str]]]]] = {
    "latency": ("latency-demo.json", draw_latency),
    "peers": ("peers-demo.json", draw_peers),
    "peers at scales": ("peers-demo-multiscale.json", draw_peers),
    "reading": ("reading-demo.json", draw_reading),
    "slide": ("slide-demo.json", draw_slide),
    "tissue": ("tissue.json", draw_tissue),
    "marks": ("tissue.json", draw_marks),
    "da-refinenet": ("da-refinenet-mosaic.json", draw_da_refinenet),
    "beta-kl": ("beta-kl-mosaic.json", draw_beta_kl),
    "distill colon": ("distill-crchisto.json", draw_distill),
    "distill breast": ("distill-ucsb.json", draw_distill),
    "distill digits": ("distill-mnist.json", draw_distill),
    "transfer": ("transfer-nuclei.json", draw_transfer),
    "quality": ("quality.json", draw_quality),
}


def fill(text: str, results: Path = RESULTS) -> str:
    """A text with its tables drawn anew. Raises UsageError where a file of results is missing or a mark has no end."""
    for name, (file, draw) in TABLES.items():
        mark = re.compile(rf"(<!-- {name} -->\n)(?:(?!<!--).)*(<!-- end -->)", re.DOTALL)
        if f"<!-- {name} -->" not in text:
            continue
        if not mark.search(text):
            raise UsageError(f"<!-- {name} --> is not followed by <!-- end -->")
        try:
            report = msgspec.json.decode((results / file).read_bytes())
        except OSError as error:
            raise UsageError(f"{results / file} cannot be read ({error.strerror}): run this in a checkout") from error
        table = draw(report)
        lines = [table[0], ["---"] * len(table[0]), *table[1:]]
        drawn = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
        drawn += f"\n{describe_machine(report)}\n"
        text = mark.sub(lambda found, drawn=drawn: found[1] + "\n" + drawn + found[2], text)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    from glassrt.benchmarks.plots import plot_latency

    for readme in map(Path, sys.argv[1:]):
        filled = fill(readme.read_text("utf-8"))
        with replace_file(readme) as beside:
            beside.write_text(filled, "utf-8")
    plot_latency(RESULTS / "latency-demo.png", msgspec.json.decode((RESULTS / TABLES["latency"][0]).read_bytes()))
