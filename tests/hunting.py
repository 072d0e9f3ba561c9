"""Mutants, the same for a number, tried in processes of their own: who crashes, hangs or says more than a line is told.

A script of mutants prints a line of JSON before each, `{"number": N}`, and one after it, whose `fault` is empty where
all was well: `try_each` does so, `hunt` starts the script and starts it again after a mutant that ended its process.
"""

import hashlib
import json
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from glassrt.engine.errors import GlassError

MEMORY = 8 << 30  # bytes that a process may map
Told = dict[str, Any]


def hunt(script: str, first: int, last: int, patience_s: float = 120) -> Iterator[Told]:
    """What came of each mutant of a script, run in a process that is started again where one crashed or hung it."""
    while first < last:
        command = [sys.executable, script, str(first), str(last)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            begun = None
            while line := read_line(process, patience_s):
                if not line.startswith('{"number"'):
                    continue  # a runtime's own word
                told = json.loads(line)
                begun, first = told["number"], told["number"] + 1
                if "kind" in told:
                    begun = None
                    yield told
            process.kill()
        if begun is not None:
            yield {"number": begun, "kind": "", "fault": f"the process ended with {process.returncode} or hung"}
        elif first < last:
            raise RuntimeError(f"{command} ended with {process.returncode} before its work")


def read_line(process: subprocess.Popen[str], patience_s: float) -> str:
    """The next line that a process prints; nothing once it ended, or after waiting too long."""
    assert process.stdout is not None
    timer = threading.Timer(patience_s, process.kill)
    timer.start()
    try:
        return process.stdout.readline()
    finally:
        timer.cancel()


def try_each(judge: Callable[[int], Told]) -> None:
    """Judge the mutants that the command line names, FIRST to LAST, in this process."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for number in range(int(sys.argv[1]), int(sys.argv[2])):
        print(json.dumps({"number": number}), flush=True)  # so that a crash tells which it was
        print(json.dumps(judge(number)), flush=True)


def judge_twice(number: int, kind: str, attempt: Callable[[], list[str]]) -> Told:
    """Make two attempts and say what came of them: refusals of one line, or twice the same results."""
    try:
        outcomes, again = attempt(), attempt()
    except BaseException as error:
        return {"number": number, "kind": kind, "fault": f"{type(error).__name__}: {error}"[:500]}
    fault = ""
    if outcomes != again:
        fault = f"twice not alike: {outcomes} {again}"
    elif long := [outcome for outcome in outcomes if "\n" in outcome or len(outcome) > 1000]:
        fault = f"more than a line: {long[0]!r}"
    return {"number": number, "kind": kind, "fault": fault[:2000], "outcomes": outcomes}


def refusal(error: GlassError, path: Path) -> str:
    """How a refusal reads, wherever the mutant lay; OpenVINO numbers its nodes from one graph to the next."""
    return re.sub(r"_\d+\b", "_N", f"{type(error).__name__}: {error}".replace(str(path), "MUTANT"))


def digest(content: bytes) -> str:
    """What tells results apart."""
    return hashlib.sha256(content).hexdigest()[:16]
