"""Folders that appear whole or not at all."""

from pathlib import Path

import pytest

from glassrt.engine.files import replace_folder


def test_an_older_folder_survives_a_failing_replacement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new folder is complete, the older one is already out of the way, and then the last rename fails."""
    target = tmp_path / "result"
    target.mkdir()
    (target / "marker").write_text("older")
    rename = Path.rename

    def fail_for_the_new_one(self: Path, goal: Path) -> Path:
        if goal == target and (self / "marker").read_text() == "newer":
            raise OSError(5, "Input/output error")
        return rename(self, goal)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(OSError, match="Input/output error"), replace_folder(target, "marker") as beside:
        (beside / "marker").write_text("newer")
    assert (target / "marker").read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
