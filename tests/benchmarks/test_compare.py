"""What became slower, and what only wobbles."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from glassrt.benchmarks.compare import compare_reports, differing_machine
from glassrt.benchmarks.tables import TABLES, fill
from glassrt.engine.commands.terminal import PlainTable
from glassrt.engine.errors import UsageError

GLASSRT = Path(sys.executable).parent / "glassrt"


def write(path: Path, **rows: list[float]) -> Path:
    path.write_text(json.dumps({"rows": [{"name": name, "unit": "s", "runs": runs} for name, runs in rows.items()]}))
    return path


def test_only_what_lies_beyond_all_runs_counts(tmp_path: Path) -> None:
    old = [1.0, 1.1, 1.2]
    now = {"steady": [1.15, 1.3, 1.4], "slower": [1.3, 1.35, 1.4], "faster": [0.5, 0.7, 0.9]}
    before = write(tmp_path / "a.json", **dict.fromkeys(now, old), gone=[1.0], few=[1.0])
    after = write(tmp_path / "b.json", **now, new=[1.0], few=[9.0])
    verdicts = {change.name: change.verdict for change in compare_reports(before, after)}
    assert verdicts == {"steady": "as before", "slower": "slower", "faster": "faster", "few": "too few runs"}
    slower = next(change for change in compare_reports(before, after) if change.name == "slower")
    assert slower.percent == pytest.approx(100 * (1.35 / 1.1 - 1))


def test_the_command_ends_with_1_if_something_became_slower(tmp_path: Path) -> None:
    before, after = write(tmp_path / "a.json", work=[1.0, 1.0, 1.1]), write(tmp_path / "b.json", work=[1.2, 1.2, 1.3])
    codes = [
        subprocess.run([GLASSRT, "bench", "compare", *pair], capture_output=True).returncode
        for pair in ((before, after), (after, before), (before, before))
    ]
    assert codes == [1, 0, 0]


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    """`[/red]` would close a style that nothing opened, in a cell or in a title."""
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text('{"rows": [{"name": "[/red]", "unit": "s", "runs": [1.0, 1.0, 1.1]}]}')
    command = [GLASSRT, "bench", "compare", tmp_path / "a.json", tmp_path / "b.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[/red]" in done.stdout
    table, shown = PlainTable("of [/red]"), io.StringIO()
    table.add_row("a cell as wide as that")
    Console(width=80, file=shown).print(table)
    assert "of [/red]" in shown.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{}", "is no report"),
        ("no json", "is no report"),
        ('{"rows": [{"name": "a"}]}', "is no report"),
        ('{"rows": [{"name": "a", "unit": "s", "runs": [0]}]}', "is no report"),
        ('{"rows": []}', "share no row"),
    ],
)
def test_files_that_cannot_be_compared_are_told(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "b.json").write_text(content)
    with pytest.raises(UsageError, match=says):
        compare_reports(write(tmp_path / "a.json", work=[1.0]), tmp_path / "b.json")
    with pytest.raises(UsageError, match="cannot be read"):
        compare_reports(tmp_path / "none.json", tmp_path / "b.json")


def test_reports_of_different_things_are_not_compared(tmp_path: Path) -> None:
    for name, backend in (("a", "int8"), ("b", "fp32")):
        report = {
            "rows": [{"name": "score", "unit": "s", "runs": [1.0]}],
            "backend": backend,
            "machine": {"cores": name},
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    with pytest.raises(UsageError, match="measured different things: backend int8 and fp32"):
        compare_reports(tmp_path / "a.json", tmp_path / "b.json")
    assert differing_machine(tmp_path / "a.json", tmp_path / "b.json") == ["cores"]


def test_a_mark_without_its_end_is_told() -> None:
    with pytest.raises(UsageError, match="is not followed by"):
        fill("<!-- peers -->\nprose\n<!-- slide -->\n<!-- end -->\n")


def test_the_tables_of_the_readme_are_those_of_the_results() -> None:
    root = Path(__file__).parents[2]
    text = (root / "benchmarks" / "README.md").read_text()
    assert fill(text, root / "benchmarks" / "results") == text
    assert all(f"<!-- {name} -->\n\n| " in text for name in TABLES)
    emptied = re.sub(r"(<!-- peers -->\n).*?(<!-- end -->)", r"\1\2", text, flags=re.DOTALL)
    assert emptied != text
    assert fill(emptied, root / "benchmarks" / "results") == text
