"""What a batch tells of itself: lines of JSON, figures for Prometheus, a report."""

import json
import re
import socket
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import pytest
from plain_batch import make_slide, run_here

from glassrt.engine.errors import OutputError
from glassrt.engine.production.journal import Row, read_journals
from glassrt.engine.production.report import write_report
from glassrt.engine.production.timeline import draw_timings
from glassrt.engine.production.watchers import JsonLog, Metrics, Several


def run_with(tmp_path: Path, *watchers: object) -> None:
    (tmp_path / "bad.tif").write_bytes(b"no slide")
    slides = [make_slide(tmp_path / "a.tif"), tmp_path / "bad.tif"]
    run_here(slides, tmp_path / "out", Several(watchers), attempts=2)  # type: ignore[arg-type]


def test_whatever_happens_is_a_line_of_json(tmp_path: Path) -> None:
    log = JsonLog(tmp_path / "logs" / "batch.jsonl")
    run_with(tmp_path, log)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "logs" / "batch.jsonl").read_text().splitlines()]
    assert [(line["event"], line["id"]) for line in lines] == [
        ("begun", "a"), ("done", "a"), ("begun", "bad"), ("again", "bad"), ("begun", "bad"), ("failed", "bad"),
    ]  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", lines[0]["time"])
    assert lines[1]["windows"] == 0
    assert lines[1]["seconds"]["total"] > 0
    assert (lines[-1]["reason"], "bad.tif: not a PNG" in lines[-1]["error"]) == ("slide", True)


def figures(text: str) -> dict[str, float]:
    told = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in told if "_created" not in name}


def test_figures_are_served_and_written(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served, written = Metrics(str(port)), Metrics(str(tmp_path / "batch.prom"))
    run_with(tmp_path, served, written)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        of_port = figures(answer.read().decode())
    for each in (served, written):
        each.close()
    of_file = figures((tmp_path / "batch.prom").read_text())
    assert of_port == of_file
    assert of_file['glassrt_slides{state="done"}'] == 1
    assert of_file['glassrt_slides{state="failed"}'] == 1
    assert of_file['glassrt_failures_total{reason="slide"}'] == 2
    assert of_file['glassrt_stage_seconds_total{stage="total"}'] > 0


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        with pytest.raises(OutputError, match="cannot listen there"):
            Metrics(str(taken.getsockname()[1]))


class Checked(HTMLParser):
    """Keeps what a page shows and what it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.shown.append(data)


def test_the_report_opens_offline_and_shows_failures_first(tmp_path: Path) -> None:
    (tmp_path / "<b>bad&.tif").write_bytes(b"no slide")
    slides = [make_slide(tmp_path / "a.tif"), tmp_path / "<b>bad&.tif", make_slide(tmp_path / "gone.tif")]
    run_here(slides, tmp_path / "out", attempts=1)
    (tmp_path / "out" / "gone" / "result.json").unlink()
    page = Checked()
    page.feed(write_report(tmp_path / "out", read_journals(tmp_path / "out")).read_text())
    text = " ".join(page.shown)
    assert text.index("<b>bad&") < text.index("Timings") < text.index("Slides")
    assert "<b>bad&.tif: not a PNG" in text
    assert "gone: its results are gone" in text
    assert page.loaded
    assert all(each.startswith("data:image/jpeg;base64,") for each in page.loaded)


def test_timings_have_a_row_for_slides_at_once() -> None:
    row = Row("a", 0, "/a", "done", begun=100.0, ended=110.0)
    drawn = draw_timings([row, row._replace(begun=105.0, ended=120.0), row._replace(begun=110.0, ended=115.0)])
    assert [float(y) for y in re.findall(r'<rect x="[^"]*" y="(\d+)"', drawn)] == [0, 17, 0]
    assert "20.0 s" in drawn
    assert draw_timings([row._replace(ended=None)]) == ""
