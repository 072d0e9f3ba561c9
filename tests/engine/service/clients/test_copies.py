"""`glassrt clients`: the sources come whole, or not at all."""

import os
import subprocess
from pathlib import Path

from command_line import assert_one_line, obey_permissions, run

CLIENTS = Path(__file__).parents[4] / "engine" / "service" / "clients"


def listed(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "__init__.py" and "__pycache__" not in path.parts
    }


def test_what_is_copied_is_all_there_is_and_compiles(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "clients"
    done = run("clients", folder)
    assert done.returncode == 0, done.stderr
    assert listed(folder) == listed(CLIENTS)
    assert {"glassrt.h", "glassrt.c", "README.md", "examples/scanner.c", "examples/Scanner.cs"} <= listed(folder).keys()
    sources = sorted(map(str, folder.glob("*.c")))
    command = ["gcc", "-std=c99", f"-I{folder}", str(folder / "examples" / "scanner.c"), *sources, "-lpthread"]
    subprocess.run([*command, "-o", str(tmp_path / "scanner")], check=True)


def test_files_that_are_there_already_stay(tmp_path: Path) -> None:
    assert run("clients", tmp_path).returncode == 0
    (tmp_path / "mine.c").write_text("int mine;\n")
    (tmp_path / "glassrt.h").unlink()
    before = (tmp_path / "glassrt.c").stat()
    done = run("clients", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "glassrt.h").is_file()
    assert (tmp_path / "mine.c").read_text() == "int mine;\n"
    assert (tmp_path / "glassrt.c").stat().st_mtime_ns == before.st_mtime_ns


def test_a_file_that_differs_is_not_replaced_and_nothing_is_copied(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "scanner.py").write_text("mine = 1\n")
    assert_one_line(run("clients", tmp_path), 2, "scanner.py", "differs")
    assert listed(tmp_path) == {"examples/scanner.py": b"mine = 1\n"}


def test_a_link_or_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "glassrt.c").symlink_to(tmp_path / "nowhere")
    assert_one_line(run("clients", tmp_path / "file"), 2, "file")
    assert_one_line(run("clients", tmp_path / "links"), 2, "glassrt.c")
    assert os.listdir(tmp_path / "links") == ["glassrt.c"]


def test_a_folder_without_permission_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir(mode=0o500)
    assert_one_line(run("clients", tmp_path, preexec_fn=obey_permissions), 2, "no permission")
    assert listed(tmp_path) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["examples"]
