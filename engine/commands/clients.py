"""`glassrt clients`."""

from collections.abc import Iterator
from contextlib import ExitStack
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated

import typer

from glassrt.engine.commands.terminal import printable
from glassrt.engine.errors import FolderTaken, OutputError
from glassrt.engine.files import output_errors, replace_file

HOME = "glassrt.engine.service.clients"
SUFFIXES = (".h", ".c", ".md", ".cs", ".java", ".py")


def clients_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the sources go.", show_default=False)],
) -> None:
    """Copy out the client in C for scanner software, and example programs in C, C#, Java and Python.

    All files or none; a file that is there already has to be the same. README.md among them says how to build.
    """
    sources = {folder / name: content for name, content in read_sources()}
    missing = {path: content for path, content in sources.items() if not is_there(path, content)}
    with ExitStack() as written:
        for path, content in missing.items():
            for made in make_parents(path):
                written.callback(made.rmdir)
            with replace_file(path) as beside:
                beside.write_bytes(content)
            written.callback(path.unlink)
        written.pop_all()
    print(printable(f"{len(sources)} files in {folder}; begin with README.md"))


def read_sources() -> Iterator[tuple[str, bytes]]:
    """Path below the folder, and content, of all that is copied."""

    def walk(place: Traversable, above: str) -> Iterator[tuple[str, bytes]]:
        for each in sorted(place.iterdir(), key=lambda each: each.name):
            if each.is_dir():
                yield from walk(each, f"{above}{each.name}/")
            elif each.name.endswith(SUFFIXES) and each.name != "__init__.py":
                yield f"{above}{each.name}", each.read_bytes()

    return walk(files(HOME), "")


def is_there(path: Path, content: bytes) -> bool:
    """Whether the file stands there already. Raises FolderTaken where something else does."""
    with output_errors(path):
        if not path.exists() and not path.is_symlink():
            return False
        if path.is_file() and path.read_bytes() == content:
            return True
    raise FolderTaken(f"{path} stands there and differs from what would be copied; choose another folder")


def make_parents(path: Path) -> list[Path]:
    """Make the folders that a file needs; those that were made, outermost first. Raises OutputError."""
    made: list[Path] = []
    with output_errors(path):
        for parent in reversed(path.parents):
            if parent.is_dir():
                continue
            if parent.is_symlink() or parent.exists():
                raise OutputError(f"{parent}: a file stands where a folder is needed; choose another folder")
            parent.mkdir()
            made.append(parent)
    return made
