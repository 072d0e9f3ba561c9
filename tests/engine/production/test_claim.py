"""One batch at a time in a folder: who else waits, and when the folder is free again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from glassrt.engine.errors import UsageError
from glassrt.engine.production import claim
from glassrt.engine.production.claim import claim_folder, is_claimed

HOLDS = """
import sys, time
from pathlib import Path
from glassrt.engine.production.claim import claim_folder
with claim_folder(Path(sys.argv[1]), *sys.argv[2:]):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(out: Path, *part: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDS, out, *part], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_second_batch_is_told_who_has_the_folder_until_that_is_dead(tmp_path: Path) -> None:
    process = hold(tmp_path)
    with (
        pytest.raises(UsageError, match=rf"is being written by process {process.pid} on {os.uname().nodename} since"),
        claim_folder(tmp_path),
    ):
        pass
    with pytest.raises(UsageError, match=f"process {process.pid}"), claim_folder(tmp_path, "1-of-2"):
        pass
    end(process)
    with claim_folder(tmp_path):
        pass


def test_parts_share_a_folder_with_each_other_alone(tmp_path: Path) -> None:
    process = hold(tmp_path, "1-of-2")
    with claim_folder(tmp_path, "2-of-2"):
        pass
    for part in ("1-of-2", ""):
        with pytest.raises(UsageError, match="is being written by process"), claim_folder(tmp_path, part):
            pass
    end(process)
    with claim_folder(tmp_path, "1-of-2"):
        pass
    with claim_folder(tmp_path):
        pass


def test_the_lock_goes_where_no_journal_stands(tmp_path: Path) -> None:
    with claim_folder(tmp_path):
        assert is_claimed(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with claim_folder(tmp_path):
        (tmp_path / "journal.sqlite").touch()
    assert {path.name for path in tmp_path.iterdir()} == {".glassrt-batch", "journal.sqlite"}
    assert not is_claimed(tmp_path)


def test_a_lock_that_was_deleted_while_it_was_taken_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_late(descriptor: int, kind: int) -> bool:
        monkeypatch.setattr(claim, "take", take)
        (tmp_path / ".glassrt-batch").unlink()  # as the batch before does between
        return take(descriptor, kind)

    take = claim.take
    monkeypatch.setattr(claim, "take", take_late)
    with claim_folder(tmp_path):
        assert is_claimed(tmp_path)
        with pytest.raises(UsageError, match=f"process {os.getpid()}"), claim_folder(tmp_path):
            pass
