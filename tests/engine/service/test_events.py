"""Events that wait for a client."""

import asyncio
import json
import threading
import time

from glassrt.engine.service.events import Event, EventLog


def tell(events: list[Event]) -> list[tuple[int, str]]:
    return [(event.number, event.kind) for event in events]


def test_events_are_numbered_and_kept_until_a_client_has_had_them() -> None:
    log = EventLog()
    for number in range(100):
        log.add("map", b"%d" % number)
    assert tell(log.read(0)) == [(number, "map") for number in range(1, 65)]
    assert tell(log.read(0)) == [(number, "map") for number in range(1, 65)]
    assert tell(log.read(64)) == [(number, "map") for number in range(65, 101)]
    assert log.read(100) == []
    assert log.read(0) == []
    assert json.loads(Event(3, "map", b"[1]").encode()) == {"number": 3, "event": "map", "data": [1]}


def test_the_oldest_progress_goes_first() -> None:
    log = EventLog(most=4)
    for kind in ("map", "progress", "region", "progress", "map", "progress"):
        log.add(kind, b"1")  # type: ignore[arg-type]
    assert tell(log.read(0)) == [(1, "map"), (3, "region"), (5, "map"), (6, "progress")]


def test_a_warning_says_which_events_were_lost() -> None:
    log = EventLog(most=4)
    for _ in range(10):
        log.add("map", b"1")
    found = log.read(0)
    assert tell(found) == [(6, "warning"), (7, "map"), (8, "map"), (9, "map"), (10, "map")]
    told = json.loads(found[0].data)
    assert (told["first"], told["last"]) == (1, 6)
    assert "events 1 to 6 were lost" in told["warning"]
    assert tell(log.read(6)) == [(7, "map"), (8, "map"), (9, "map"), (10, "map")]
    for _ in range(3):
        log.add("region", b"1")
    assert json.loads(log.read(0)[0].data)["first"] == 7


def test_events_are_bounded_in_bytes_and_the_last_one_stays() -> None:
    log = EventLog(most_bytes=1000)
    for _ in range(100):
        log.add("map", bytes(300))
    log.add("finished", bytes(5000))
    log.add("map", b"1")
    found = log.read(0)
    assert tell(found) == [(100, "warning"), (101, "finished")]
    assert log.over


def test_a_reader_waits_for_what_another_thread_tells() -> None:
    log = EventLog()

    async def wait(after: int, wait_s: float) -> float:
        begun = time.monotonic()
        await log.wait(after, wait_s)
        return time.monotonic() - begun

    async def both() -> tuple[float, float]:
        teller = threading.Timer(0.2, log.add, ("map", b"1"))
        teller.start()
        return (await wait(0, 10), await wait(1, 0.1))

    woken, late = asyncio.run(both())
    assert 0.1 < woken < 2
    assert 0.1 <= late < 2
    log.add("cancelled", b"1")
    assert asyncio.run(wait(2, 10)) < 1
