"""Replaces a folder in children that are killed before each step in turn, and prints what the disk holds then.

python killed_steps.py FOLDER    # one line of JSON a step: what stood at FOLDER/result, then after `clear_left`
"""

import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from glassrt.engine.files import replace_folder
from glassrt.engine.staging import clear_left

FILES = 3
OF_DISK = ("os.", "open", "shutil.", "fcntl.", "ctypes.")  # audit events of what can change a disk
MOST_STEPS = 500


def is_killed_at(step: int, work: Callable[[], None]) -> bool:
    """Whether a child that does `work` is killed by its `step`-th event before it comes to its end."""
    child = os.fork()
    if child == 0:
        numbers = itertools.count()

        def hook(event: str, arguments: object) -> None:
            if event.startswith(OF_DISK) and next(numbers) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        work()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def fill(folder: Path, content: str) -> None:
    """Write all files of a result."""
    for number in range(FILES):
        (folder / f"file{number}").write_text(content)


def replace(path: Path) -> None:
    """Put the newer result in the place of what stands there."""
    with replace_folder(path, "file0") as beside:
        fill(beside, "newer")


def describe(path: Path) -> list[str]:
    """The contents of a result's files; nothing where there is none."""
    return [file.read_text() for file in sorted(path.iterdir())] if path.exists() else []


def main(folder: Path) -> None:
    """Kill at the first step, the second, and so on until a child comes to its end."""
    path = folder / "result"
    for step in range(MOST_STEPS):
        shutil.rmtree(folder)
        folder.mkdir()
        path.mkdir()
        fill(path, "older")
        killed = is_killed_at(step, lambda: replace(path))
        then = describe(path)
        clear_left(folder)
        print(json.dumps([killed, then, describe(path), sorted(os.listdir(folder))]))
        if not killed:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
