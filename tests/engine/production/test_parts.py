"""A batch in fixed parts, and how workers are shared out."""

from pathlib import Path

import pytest
from plain_batch import make_slide, run_here

from glassrt.engine.errors import UsageError
from glassrt.engine.production.journal import read_journals
from glassrt.engine.production.parts import Shard, parse_shard
from glassrt.engine.production.share import share_cores, share_devices
from glassrt.engine.production.totals import write_totals
from glassrt.engine.production.wire import Setup
from glassrt.engine.production.workers import Workers, parse_devices


def test_parts_have_every_slide_once() -> None:
    whole = list(range(17))
    parts = [parse_shard(f"{number}/5").take(whole) for number in range(1, 6)]
    assert sorted(each for part in parts for each in part) == whole
    assert {len(part) for part in parts} == {3, 4}
    assert Shard().take(whole) == whole


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "1/4/2", "-1/4", "1/1000000"])
def test_a_part_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"--shard {text}: expected a part and how many there are, as in 3/16"):
        parse_shard(text)


def test_parts_share_a_folder_and_make_one_summary(tmp_path: Path) -> None:
    slides = [make_slide(tmp_path / f"{name}.tif") for name in "abc"]
    for number in (1, 2):
        ended = run_here(slides, tmp_path / "out", shard=Shard(number, 2))
        assert list(ended.outcomes) == [["a", "c"], ["b"]][number - 1]
    assert {row.id: row.state for row in read_journals(tmp_path / "out")} == dict.fromkeys("abc", "done")
    assert (tmp_path / "out" / "summary-2-of-2.csv").exists()
    written = write_totals(tmp_path / "out", read_journals(tmp_path / "out"))
    assert written == tmp_path / "out" / "summary.csv"
    heading, *rows = written.read_text().splitlines()
    assert sorted(row.split(",")[0] for row in rows) == ["a", "b", "c"]
    assert heading == (tmp_path / "out" / "summary-1-of-2.csv").read_text().splitlines()[0]
    again = run_here(slides, tmp_path / "out", shard=Shard(1, 2))
    assert again.plan.done == 2


def test_other_parts_of_what_was_begun_are_refused(tmp_path: Path) -> None:
    slide = make_slide(tmp_path / "a.tif")
    run_here([slide], tmp_path / "out", shard=Shard(1, 2))
    for shard in (Shard(1, 3), Shard()):
        with pytest.raises(UsageError, match="what is here was cut in 2 parts; go on so, or choose another --out"):
            run_here([slide], tmp_path / "out", shard=shard)
    run_here([slide], tmp_path / "whole")
    with pytest.raises(UsageError, match="what is here was scored as a whole"):
        run_here([slide], tmp_path / "whole", shard=Shard(1, 2))


def test_workers_have_cores_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2, 3, 8})
    assert [(each.cores, each.threads) for each in share_cores(Setup(), 2)] == [((0, 1), 2), ((2, 3, 8), 3)]
    assert [(each.cores, each.threads) for each in share_cores(Setup(), 1)] == [((), 0)]
    assert [(each.cores, each.threads) for each in share_cores(Setup(), 6)] == [((), 1)] * 6
    assert [each.device for each in share_devices(Setup(), ("0", "3"), 3)] == ["0", "3", "0"]


def test_devices_are_read_and_are_of_devices_alone() -> None:
    assert parse_devices("cuda:0, 3") == ("0", "3")
    for text in ("cuda", "cuda:0,cuda:0", "cuda:-1", "", "0,"):
        with pytest.raises(UsageError, match="expected different devices with commas, as in cuda:0,cuda:1"):
            parse_devices(text)
    with pytest.raises(UsageError, match="--devices: ort runs on the CPU; name another --backend"):
        Workers(devices=("0",)).open(Setup(), "ort")
