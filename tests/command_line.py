"""The command as users run it, in a process of its own."""

import ctypes
import subprocess
import sys
from pathlib import Path

GLASSRT = str(Path(sys.executable).with_name("glassrt"))


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [GLASSRT, *map(str, arguments)], capture_output=True, text=True, timeout=300, **options
    )


def assert_one_line(done: subprocess.CompletedProcess[str], code: int, *says: str) -> None:
    assert done.returncode == code, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("glassrt: ")
    for text in says:
        assert text in lines[0]


def obey_permissions() -> None:
    """For `preexec_fn`: the command may do no more than others, also where the tests are run by root."""
    drop_from_bounds, override, read_search = 24, 1, 2  # linux/prctl.h, linux/capability.h
    for capability in (override, read_search):
        ctypes.CDLL(None).prctl(drop_from_bounds, capability, 0, 0, 0)
