"""The timings of a batch as a picture: a bar for each slide, from when it was begun to when it was done."""

from collections.abc import Sequence

from glassrt.engine.production.journal import Row

WIDTH, BAR, LEFT = 1100, 14, 40
MOST_BARS = 4000


def draw_timings(rows: Sequence[Row]) -> str:
    """An SVG with a row for each worker, as many as slides ran at once; shades tell slides apart."""
    timed = sorted((row for row in rows if row.begun and row.ended), key=lambda row: row.begun or 0)[-MOST_BARS:]
    if not timed:
        return ""
    first = min(row.begun or 0.0 for row in timed)
    whole = max(max(row.ended or 0.0 for row in timed) - first, 1e-9)
    lanes: list[float] = []
    bars = []
    for number, row in enumerate(timed):
        begun, ended = (row.begun or 0.0) - first, (row.ended or 0.0) - first
        free = [at for at, until in enumerate(lanes) if until <= begun + 1e-6]
        lane = free[0] if free else len(lanes)
        lanes[lane : lane + 1] = [ended]
        x, width = LEFT + begun / whole * (WIDTH - LEFT), max(0.5, (ended - begun) / whole * (WIDTH - LEFT))
        colour = ("#3d7ea6", "#79b4d6")[number % 2]
        bars.append(
            f'<rect x="{x:.1f}" y="{lane * (BAR + 3)}" width="{width:.1f}" height="{BAR}" fill="{colour}">'
            f"<title>{ended - begun:.1f} s</title></rect>"
        )
    height = len(lanes) * (BAR + 3) + 20
    labels = "".join(f'<text x="4" y="{at * (BAR + 3) + 11}">{at + 1}</text>' for at in range(len(lanes)))
    unit, length = ("s", 1.0) if whole < 120 else ("min", 60.0) if whole < 7200 else ("h", 3600.0)
    anchors = ("start", "middle", "middle", "middle", "end")
    marks = "".join(
        f'<text x="{LEFT + part * (WIDTH - LEFT) / 4:.0f}" y="{height - 4}" '
        f'text-anchor="{anchors[part]}">{whole * part / 4 / length:.1f} {unit}</text>'
        for part in range(5)
    )
    return f'<svg viewBox="0 0 {WIDTH} {height}" width="100%" role="img">{labels}{"".join(bars)}{marks}</svg>'
