"""One side dies: the other notices in time, and goes on living."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from service_server import Server

OK, NONE, BUSY, REFUSED, ENDED, LOST, TIMEOUT = range(7)
LIMIT_MS = 1500
BEGIN = {"bundle": "small", "levels": [[640, 640]], "mpp": 0.5, "tile": [64, 64], "tissue": "all"}
PUSH = "push 0 0 64 64 0 0 12288 1000"
Start = Callable[..., Server]


class Talk:
    """A host that is told one call after another."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self) -> tuple[int, int, str]:
        assert self.process.stdout
        while not (line := self.process.stdout.readline()).startswith("= "):
            assert line, "the host has died"
        _, status, ms, text = line.rstrip("\n").split(" ", 3)
        return int(status), int(ms), text

    def call(self, line: str) -> tuple[int, int, str]:
        self.say(line)
        return self.hear()

    def end(self) -> int:
        assert self.process.stdin
        self.process.stdin.close()
        return self.process.wait(30)


def begin(talk: Talk, server: Server, name: str = "slide") -> None:
    assert talk.call(f"connect {server.where.removeprefix('http://')} - {LIMIT_MS}")[0] == OK
    assert talk.call("begin " + json.dumps(BEGIN | {"name": name}))[0] == OK


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("call", [PUSH, "event 20000", "finish 60000", "cancel"])
def test_a_server_that_is_killed_is_an_error_in_time_and_the_host_lives(
    call: str, memory: bool, host_program: Path, start: Start
) -> None:
    server, talk = start("--shared-memory"), Talk(host_program)
    begin(talk, server)
    if memory:
        assert talk.call("memory 20000")[0] == OK
    if call.startswith("event"):  # the server dies under the call
        talk.say(call)
        time.sleep(0.5)
        server.end(signal.SIGKILL)
        status, ms, text = talk.hear()
    else:
        server.end(signal.SIGKILL)
        status, ms, text = talk.call(call)
    assert status == LOST
    assert ms <= LIMIT_MS
    assert text
    assert talk.call(PUSH)[0] == LOST
    assert talk.call("end")[0] == OK
    assert talk.end() == 0


@pytest.mark.parametrize("call", [PUSH, "event 1000", "finish 1500", "cancel"])
def test_a_server_that_stands_still_is_given_up_in_time(call: str, host_program: Path, start: Start) -> None:
    server, talk = start(), Talk(host_program)
    begin(talk, server)
    server.process.send_signal(signal.SIGSTOP)
    try:
        status, ms, _ = talk.call(call)
        assert status == TIMEOUT
        assert 1400 <= ms <= 1000 + LIMIT_MS + 300  # what the call itself asks for, and the limit
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert talk.end() == 0


def test_a_host_that_is_killed_loses_its_session_and_others_do_not_notice(host_program: Path, start: Start) -> None:
    server = start("--sessions", 2)
    dying, living = Talk(host_program), Talk(host_program)
    begin(dying, server, "dying")
    begin(living, server, "living")
    assert dying.call(PUSH)[0] == OK
    dying.process.kill()
    dying.process.wait()
    until = time.monotonic() + 5
    third = Talk(host_program)
    assert third.call(f"connect {server.where.removeprefix('http://')} - {LIMIT_MS}")[0] == OK
    while (status := third.call("begin " + json.dumps(BEGIN | {"name": "dying"}))[0]) != OK:
        assert status in (BUSY, REFUSED)  # its place, and its name, are not free yet
        assert time.monotonic() < until
        time.sleep(0.1)
    assert living.call(PUSH)[0] == OK
    assert living.end() == 0
    assert third.end() == 0


def test_a_session_is_held_while_its_host_says_nothing(host_program: Path, start: Start) -> None:
    talk = Talk(host_program)
    begin(talk, start())
    time.sleep(7)  # longer than a client may be gone, and than idle connections are commonly kept
    assert talk.call(PUSH)[0] == OK
    assert talk.call("event 100")[0] in (OK, NONE)
    assert talk.end() == 0


def test_a_cancel_ends_a_finish_that_waits_in_another_thread(host_program: Path, start: Start) -> None:
    talk = Talk(host_program)
    begin(talk, start())
    for index in range(100):
        assert talk.call(f"push {index % 10 * 64} {index // 10 * 64} 64 64 0 0 12288 10000")[0] == OK
    status, ms, _ = talk.call("cancel a finish")
    assert status in (OK, ENDED)  # where the finish was the faster
    assert ms < 10_000
    assert talk.end() == 0


def test_descriptors_and_memory_of_a_host_do_not_grow_with_its_sessions(host_program: Path, start: Start) -> None:
    server, talk = start("--shared-memory"), Talk(host_program)

    def look() -> tuple[int, int]:
        place = Path("/proc", str(talk.process.pid))
        return len(list((place / "fd").iterdir())), len((place / "maps").read_text().split("memfd:glassrt"))

    counts = []
    for index in range(20):
        begin(talk, server, f"slide{index}")
        assert talk.call("memory 20000")[0] == OK
        assert talk.call(PUSH)[0] == OK
        counts.append(look())
        assert talk.call("end")[0] == OK
    assert len(set(counts)) == 1, counts
    assert talk.end() == 0
