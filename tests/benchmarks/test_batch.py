"""The benchmark of batches, on a few slides: real processes, broken slides and kills."""

from pathlib import Path

import pytest

from glassrt.benchmarks import batch as benchmark
from glassrt.benchmarks.batch_slides import BROKEN, Pieces

OPTIONS = ("--backend", "ort", "--precision", "fp32")


@pytest.fixture(scope="module")
def pieces(demo_slide: Path) -> Pieces:
    return Pieces(demo_slide)


@pytest.mark.slow
def test_ten_broken_slides_fail_for_their_reasons(pieces: Pieces, tmp_path: Path) -> None:
    report = benchmark.measure_faults(pieces, tmp_path, OPTIONS, count=14)
    assert (report["done"], report["failed"], report["right_reason"]) == (4, 10, len(BROKEN)), report["said"]


@pytest.mark.slow
def test_a_batch_that_is_killed_leaves_what_another_one_does(pieces: Pieces, tmp_path: Path) -> None:
    report = benchmark.measure_kills(pieces, tmp_path, OPTIONS, kills=2, count=6)
    assert report["kills"] == 2
    assert report["same_outputs"]
    assert report["scored_after_done"] == 0


def test_what_was_begun_after_it_was_done_is_counted(tmp_path: Path) -> None:
    lines = [
        '{"event": "begun", "id": "a"}', '{"event": "begun", "id": "a"}', '{"event": "done", "id": "a"}',
        '{"event": "begun", "id": "b"}', '{"event": "beg', '{"event": "begun", "id": "a"}',
    ]  # fmt: skip
    (tmp_path / "log").write_text("\n".join(lines))
    assert benchmark.count_twice(tmp_path / "log") == 1


@pytest.mark.slow
def test_gaps_rates_and_growth_are_measured(pieces: Pieces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "LONG", 512)
    gaps = benchmark.measure_gaps(pieces, tmp_path / "gaps", OPTIONS, count=4)
    assert gaps["gap_share"] > 0
    assert len(gaps["seconds"]) == 4 - gaps["workers"]
    rates = benchmark.measure_rates(pieces, tmp_path / "rates", OPTIONS, ray=False, count=3, rounds=1, sides=(384,))
    assert rates["sides"]["384"]["times_one_process"]["one process"] == 1
    assert rates["sides"]["384"]["slides_per_hour"]["workers"] > 0
