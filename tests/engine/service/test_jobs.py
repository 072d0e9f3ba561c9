"""Jobs for slides on disk."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plain_batch import make_slide
from service_server import Server, says

RUN = "/processes/score/execution"


def ask(server: Server, slide: Path | str, **more: Any) -> Any:
    return server.ask("POST", RUN, json={"inputs": {"slide": str(slide), "bundle": "small", **more}})


def wait_for(server: Server, id: str, *states: str, limit_s: float = 60) -> dict[str, Any]:
    until = time.monotonic() + limit_s
    while (told := server.ask("GET", f"/jobs/{id}").json())["status"] not in states:
        assert time.monotonic() < until, told
        time.sleep(0.1)
    return dict(told)


def test_a_job_scores_a_slide_and_outlives_the_server(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    slide = make_slide(tmp_path / "slide.tif")
    (tmp_path / "broken.tif").write_bytes(b"no slide")
    answer = ask(server, slide)
    assert answer.status_code == 201
    id = answer.json()["jobID"]
    assert answer.headers["location"] == f"/jobs/{id}"
    assert answer.json()["status"] == "accepted"
    broken = ask(server, tmp_path / "broken.tif").json()["jobID"]
    assert wait_for(server, id, "successful", "failed") == {
        "jobID": id, "slide": str(slide), "status": "successful", "progress": 100, "message": "", "type": "process",
        "processID": "score",
    }  # fmt: skip
    failed = wait_for(server, broken, "failed")
    assert "broken.tif" in failed["message"]
    says(server.ask("GET", f"/jobs/{broken}/results"), 404, "broken.tif")
    result = server.ask("GET", f"/jobs/{id}/results").json()
    assert result["slide"]["path"] == str(slide)
    assert result["bundle"]["name"] == "small"
    assert result == json.loads((server.out / "jobs" / id / "result.json").read_text())
    jobs = server.ask("GET", "/jobs").json()["jobs"]
    assert [job["jobID"] for job in jobs] == [broken, id]
    assert [job["jobID"] for job in server.ask("GET", "/jobs?limit=1").json()["jobs"]] == [broken]
    assert server.end() == 0

    server = start()
    assert server.ask("GET", "/jobs").json()["jobs"] == jobs
    assert server.ask("GET", f"/jobs/{id}/results").json() == result
    assert server.ask("DELETE", f"/jobs/{id}").json()["status"] == "dismissed"
    assert not (server.out / "jobs" / id).exists()
    says(server.ask("GET", f"/jobs/{id}/results"), 404, "dismissed")
    server.end()
    assert start().ask("GET", f"/jobs/{id}").json()["status"] == "dismissed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_jobs_that_wait_are_done_by_the_next_server(start: Callable[..., Server], tmp_path: Path, number: int) -> None:
    server = start()
    slides = [make_slide(tmp_path / f"{each}.tif") for each in range(6)]
    ids = [ask(server, slide).json()["jobID"] for slide in slides]
    dismissed = server.ask("DELETE", f"/jobs/{ids[-1]}").json()
    assert dismissed["status"] == "dismissed"
    time.sleep(1.0)  # so that the journal has them
    begun = time.monotonic()
    assert server.end(number) == (0 if number == signal.SIGTERM else -number)
    assert time.monotonic() - begun < 10
    server = start()
    for id in ids[:-1]:
        assert wait_for(server, id, "successful", "failed")["status"] == "successful"
    time.sleep(1.0)
    assert not (server.out / "jobs" / ids[-1]).exists()


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        ({}, 400, "inputs"),
        ({"inputs": {}}, 400, "slide"),
        ({"inputs": {"slide": "slide.tif"}}, 400, "whole path"),
        ({"inputs": {"slide": "/none/slide.tif"}}, 400, "does not exist"),
        ({"inputs": {"slide": "/a\0b"}}, 400, "no path"),
        ({"inputs": {"slide": "/", "bundle": "other"}}, 404, "unknown bundle"),
        ({"inputs": {"slide": "/", "mpp": -1}}, 400, "mpp"),
        ({"inputs": {"slide": "/", "mpp": 1e300}}, 400, "mpp"),
        ({"inputs": {"slide": "/", "colour": 1}}, 400, "colour"),
    ],
)
def test_a_job_that_cannot_be_is_refused_in_one_line(server: Server, body: object, status: int, line: str) -> None:
    says(server.ask("POST", RUN, json=body), status, line)
    assert server.ask("GET", "/jobs").json()["jobs"] == []


def test_the_process_says_what_it_takes(server: Server) -> None:
    (process,) = server.ask("GET", "/processes").json()["processes"]
    assert process["id"] == "score"
    told = server.ask("GET", "/processes/score").json()
    assert [*told["inputs"]] == ["slide", "bundle", "mpp"]
    assert told["inputs"]["bundle"]["schema"]["enum"] == ["glas-glands", "small"]
    says(server.ask("GET", "/jobs/none"), 404, "no job")
    says(server.ask("GET", "/processes/other"), 404)
