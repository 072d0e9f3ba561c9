"""`report.html`: what became of a batch, in one file that opens offline."""

import base64
import html
import os
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2

from glassrt.engine.files import output_errors, replace_file
from glassrt.engine.production.journal import Row
from glassrt.engine.production.timeline import draw_timings
from glassrt.engine.results.figures import Result
from glassrt.engine.results.origin import read_stored

REPORT = "report.html"
MOST_PICTURES = 400  # of some 10 kB each
SIDE = 220  # pixels of a picture's longer side
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1c2330; }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; width: 100% } td, th { padding: .3rem .6rem; text-align: left; vertical-align: top }
tr { border-bottom: 1px solid #dfe3ea } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
.totals span { display: inline-block; margin-right: 2.5rem } .totals b { display: block; font-size: 1.6rem }
.failed { color: #a4262c } .slides { display: flex; flex-wrap: wrap; gap: 1rem }
figure { margin: 0; width: 220px; font-size: 13px; overflow-wrap: anywhere }
img { max-width: 100%; border: 1px solid #dfe3ea }
svg text { font: 12px system-ui, sans-serif; fill: currentColor }
@media (prefers-color-scheme: dark) {
  body { background: #14181f; color: #e4e8ef } tr { border-color: #333b48 } img { border-color: #333b48 }
  .failed { color: #ff8d8d }
}
"""


def write_report(out: Path, rows: Sequence[Row]) -> Path:
    """Write the report on the slides of the journals in `out` and return its path. Raises OutputError."""
    path = out / REPORT
    failed = [row for row in rows if row.state == "failed"]
    left = [row for row in rows if row.state in ("waiting", "running")]
    done = [row for row in rows if row.state == "done"]
    parts = [
        f"<h1>GlassRT: {html.escape(str(out.resolve()))}</h1>",
        draw_totals(rows),
        list_failures("Failed", failed) if failed else "",
        list_failures("Not scored yet", left) if left else "",
        f"<h2>Timings</h2>{draw_timings(done)}" if done else "",
        show_slides(out, done),
    ]
    content = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>GlassRT report</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    with output_errors(path), replace_file(path) as beside:
        beside.write_text(content, encoding="utf-8")
    return path


def draw_totals(rows: Sequence[Row]) -> str:
    """How many slides are in each state, and what they took."""
    counts = Counter(row.state for row in rows)
    ends = [row.ended for row in rows if row.ended]
    begins = [row.begun for row in rows if row.begun]
    figures = [("slides", str(len(rows))), *((state, str(counts[state])) for state in ("done", "failed"))]
    if left := counts["waiting"] + counts["running"]:
        figures.append(("not scored yet", str(left)))
    figures.append(("windows", f"{sum(row.windows for row in rows):,}"))
    figures.append(("of scoring", show_time(sum(row.seconds.get("total", 0.0) for row in rows))))
    if ends and begins:
        figures.append(("last one ended", time.strftime("%d %b %Y, %H:%M", time.localtime(max(ends)))))
    cells = "".join(f"<span><b>{html.escape(value)}</b>{name}</span>" for name, value in figures)
    return f'<p class="totals">{cells}</p>'


def list_failures(title: str, rows: Sequence[Row]) -> str:
    """What has no result, and why."""
    lines = "".join(
        f"<tr><td>{html.escape(row.id)}</td><td>{html.escape(row.reason)}</td>"
        f'<td class="failed">{html.escape(row.error)}</td><td class="number">{row.attempts}</td></tr>'
        for row in rows
    )
    heads = '<tr><th>slide</th><th>reason</th><th></th><th class="number">attempts</th></tr>'
    return f"<h2>{title}</h2><table>{heads}{lines}</table>"


def show_slides(out: Path, rows: Sequence[Row]) -> str:
    """The pictures and figures of scored slides, of many the first ones."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # which decoding pictures keeps busy
        shown = "".join(pool.map(lambda row: show_slide(out / row.id, row), rows[:MOST_PICTURES]))
    more = f"<p>and {len(rows) - MOST_PICTURES} more: summary.csv has all</p>" if len(rows) > MOST_PICTURES else ""
    return f'<h2>Slides</h2><div class="slides">{shown}</div>{more}' if rows else ""


def show_slide(folder: Path, row: Row) -> str:
    """One slide's picture and figures; warnings as what is to be seen first."""
    result = read_stored(folder, Result)
    if result is None:
        return f'<figure><figcaption class="failed">{html.escape(row.id)}: its results are gone</figcaption></figure>'
    found = [f"{html.escape(name)} {figures.area_mm2:.2f} mm²" for name, figures in list(result.classes.items())[1:]]
    doubts = "".join(f'<div class="failed">{html.escape(each)}</div>' for each in result.warnings)
    lines = "<br>".join([f"<b>{html.escape(row.id)}</b>", *found, f"{row.seconds.get('total', 0):.1f} s"])
    return f"<figure>{embed_picture(folder / 'overlay.png')}<figcaption>{lines}{doubts}</figcaption></figure>"


def embed_picture(path: Path) -> str:
    """A small copy of a picture, within the page; nothing where it cannot be read."""
    try:
        pixels = cv2.imread(str(path))
    except cv2.error:
        pixels = None
    if pixels is None:
        return ""
    scale = min(1.0, SIDE / max(pixels.shape[:2]))
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}">'


def show_time(seconds: float) -> str:
    """Seconds in a unit that fits."""
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"
