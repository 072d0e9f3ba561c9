"""Batches as they run for nights: what broken slides and kills do, what is lost between slides, and what grows."""

import ctypes
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from glassrt.benchmarks.batch_slides import BROKEN, Pieces
from glassrt.engine.errors import SlideError
from glassrt.engine.production.journal import Row, read_journals
from glassrt.engine.results.origin import RESULT

COMMAND = (sys.executable, "-c", "from glassrt.engine.commands.main import main; main()")
FAILED = 3  # exit code of a batch in which slides failed
WORKER = "glassrt.engine.production.worker"
SIDES = (512, 768)  # pixels of small slides: a tenth and a fifth of a second
LONG = 19456  # pixels of the side of a slide that takes a minute on one core
Part = Callable[[Pieces, Path, Sequence[str]], dict[str, Any]]


def score(out: Path, *options: object, **more: Any) -> "subprocess.Popen[str]":
    """Begin a batch."""
    line = [*COMMAND, "score", "--out", str(out), *map(str, options)]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **more)


def finish(process: "subprocess.Popen[str]", expected: int = 0) -> float:
    """Wait for a batch; the seconds that took. Raises SlideError for another exit code than the expected one."""
    start = time.perf_counter()
    said = process.communicate()[1]
    if process.returncode != expected:
        raise SlideError(f"glassrt score ended with exit code {process.returncode}, not {expected}: {said[-500:]}")
    return time.perf_counter() - start


def obey_permissions() -> None:
    """For `preexec_fn`: it may do no more than others, also where root measures."""
    drop_from_bounds, override, read_search = 24, 1, 2  # linux/prctl.h, linux/capability.h
    for capability in (override, read_search):
        ctypes.CDLL(None).prctl(drop_from_bounds, capability, 0, 0, 0)


def measure_faults(pieces: Pieces, folder: Path, options: Sequence[str], count: int = 200) -> dict[str, Any]:
    """So many slides, ten of them broken in ten ways: how many are done, and what is said of the others."""
    slides = pieces.write_many(folder / "slides", count)
    broken: dict[str, tuple[Path, str]] = {}
    for number, (name, spoil, told) in enumerate(BROKEN):
        path = slides[(number + 1) * count // (len(BROKEN) + 1)].rename(folder / "slides" / f"{name}.tif")
        spoil(path)
        broken[name] = path, told
    manifest = folder / "slides.csv"
    paths = sorted(path for path in (folder / "slides").iterdir() if path.stem != "deleted")
    last = folder / "slides" / "deleted.tif"
    manifest.write_text("".join(f"{line}\n" for line in ("path", *paths, last)))
    out = folder / "out"
    process = score(out, "--manifest", manifest, *options, preexec_fn=obey_permissions)
    while not (out / "journal.sqlite").exists() or not any(row.state == "done" for row in read_journals(out)):
        time.sleep(0.05)
    last.unlink()
    seconds = finish(process, FAILED)
    rows = {row.id: row for row in read_journals(out)}
    failed = {id: row for id, row in rows.items() if row.state == "failed"}
    right = [name for name, (_, told) in broken.items() if name in failed and re.search(told, failed[name].error)]
    return {
        "slides": count,
        "done": sum(row.state == "done" for row in rows.values()),
        "failed": len(failed),
        "right_reason": len(right),
        "said": {id: row.error.replace(f"{folder}/", "") for id, row in sorted(failed.items())},
        "seconds": seconds,
    }


def measure_kills(
    pieces: Pieces, folder: Path, options: Sequence[str], kills: int = 50, count: int = 40, seed: int = 1
) -> dict[str, Any]:
    """A batch that is killed at random moments, itself or its workers by turns, until it was killed so often; and
    whether it leaves what an undisturbed one does.
    """
    chance = random.Random(seed)
    pieces.write_many(folder / "slides", count)
    finish(score(folder / "whole", folder / "slides", *options))
    undisturbed = read_outputs(folder / "whole")
    log = folder / "log.jsonl"
    done = batches = of_workers = 0
    same, twice = True, 0
    while done < kills:
        out = folder / f"out-{batches}"
        log.unlink(missing_ok=True)
        batches += 1
        while True:
            process = score(out, folder / "slides", "--log-json", log, "--attempts", 1000, *options)
            time.sleep(chance.uniform(0.2, 6.0))
            workers = find_workers(process.pid)
            if process.poll() is not None:
                finish(process)
                break
            if done < kills and workers and done % 2:
                chance.choice(workers).kill()
                done, of_workers = done + 1, of_workers + 1
                finish(process)
                break
            if done < kills:
                process.kill()
                done += 1
            process.communicate()
            if process.returncode == 0:
                break
        same &= read_outputs(out) == undisturbed
        twice += count_twice(log)
        shutil.rmtree(out)
    return {
        "kills": done, "of_workers": of_workers, "batches": batches, "slides": count, "same_outputs": same,
        "scored_after_done": twice,
    }  # fmt: skip


def read_outputs(out: Path) -> dict[str, bytes]:
    """All that a batch wrote of its slides, without timings."""
    found: dict[str, bytes] = {}
    for path in sorted(out.glob("*/*")):
        content = path.read_bytes()
        if path.name == RESULT:
            told = json.loads(content)
            del told["seconds"]
            content = json.dumps(told).encode()
        found[str(path.relative_to(out))] = content
    rows = [line.split(",") for line in (out / "summary.csv").read_text().splitlines()]
    dropped = rows[0].index("seconds")
    found["summary.csv"] = "\n".join(",".join(row[:dropped] + row[dropped + 1 :]) for row in rows).encode()
    return found


def count_twice(log: Path) -> int:
    """How often a slide was begun that had been done before."""
    done, twice = set(), 0
    for line in log.read_text().splitlines():
        try:
            told = json.loads(line)
        except json.JSONDecodeError:  # of a process that was killed while it wrote
            continue
        twice += told["event"] == "begun" and told["id"] in done
        if told["event"] == "done":
            done.add(told["id"])
    return twice


def find_workers(pid: int) -> list[psutil.Process]:
    """The worker processes of a batch."""
    try:
        children = psutil.Process(pid).children(recursive=True)
        return [each for each in children if WORKER in " ".join(each.cmdline())]
    except psutil.Error:
        return []


def measure_rates(
    pieces: Pieces, folder: Path, options: Sequence[str], ray: bool, count: int = 200, rounds: int = 2,
    sides: Sequence[int] = SIDES,
) -> dict[str, Any]:  # fmt: skip
    """Small slides an hour, of each side: of one process that scores one by one, of workers, and of those on Ray."""
    ways: dict[str, tuple[str, ...]] = {"one process": ("--workers", "0"), "workers": ()}
    if ray:
        ways["workers on Ray"] = ("--ray", "auto")
    report: dict[str, Any] = {"slides": count, "sides": {}}
    for side in sides:
        slides = folder / f"slides-{side}"
        pieces.write_many(slides, count, side)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, more in ways.items():
                seconds[way].append(finish(score(folder / "out", slides, *more, *options)))
                shutil.rmtree(folder / "out")
        rates = {way: count / median(found) * 3600 for way, found in seconds.items()}
        times = {way: rate / rates["one process"] for way, rate in rates.items()}
        report["sides"][str(side)] = {"seconds": seconds, "slides_per_hour": rates, "times_one_process": times}
    return report


def measure_gaps(pieces: Pieces, folder: Path, options: Sequence[str], count: int = 6) -> dict[str, Any]:
    """What part of its time a worker is between slides of a minute, but for the first one's start."""
    pieces.write_many(folder / "slides", count, LONG)
    finish(score(folder / "out", folder / "slides", *options))
    rows = read_journals(folder / "out")
    lanes: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: row.begun or 0.0):
        free = [lane for lane in lanes if (lane[-1].ended or 0.0) <= (row.begun or 0.0) + 1e-3]
        if free:
            free[0].append(row)
        else:
            lanes.append([row])
    scoring = [row.seconds["total"] for lane in lanes for row in lane[1:]]
    spans = [(lane[-1].ended or 0.0) - (lane[0].ended or 0.0) for lane in lanes]
    return {"slides": count, "seconds": scoring, "workers": len(lanes), "gap_share": sum(spans) / sum(scoring) - 1}


def measure_growth(pieces: Pieces, folder: Path, options: Sequence[str], count: int = 500) -> dict[str, Any]:
    """Memory and open files of the process that leads and of its workers, from slide 20 to the last one."""
    pieces.write_many(folder / "slides", count)
    process = score(folder / "out", folder / "slides", "--slides-per-worker", 10 * count, *options)
    samples: list[tuple[int, dict[str, tuple[float, int]]]] = []
    while process.poll() is None:
        time.sleep(0.5)
        with_files = {"leads": psutil.Process(process.pid)} if process.poll() is None else {}
        with_files |= {f"worker {each.pid}": each for each in find_workers(process.pid)}
        try:
            found = {name: (each.memory_info().rss / 1e6, each.num_fds()) for name, each in with_files.items()}
            done = sum((folder / "out" / f"slide-{number:04}" / RESULT).exists() for number in range(count))
        except psutil.Error:
            continue
        samples.append((done, found))
    finish(process)
    kept = [found for done, found in samples if 20 <= done < count]
    fifth = max(1, len(kept) // 5)
    report: dict[str, Any] = {"slides": count, "samples": len(kept), "processes": {}}
    for name in kept[0]:
        series = [found[name] for found in kept if name in found]
        first, last = series[:fifth], series[-fifth:]
        report["processes"][name] = {
            "mb_first": median(each[0] for each in first), "mb_last": median(each[0] for each in last),
            "growth": median(each[0] for each in last) / median(each[0] for each in first) - 1,
            "files_first": median(each[1] for each in first), "files_last": median(each[1] for each in last),
        }  # fmt: skip
    return report


PARTS = ("faults", "kills", "rates", "gaps", "growth")


def measure_part(part: str, slide: Path, options: Sequence[str], ray: bool) -> dict[str, Any]:
    """One of `PARTS`, in a folder that is gone afterwards. Raises SlideError where a batch ends as it must not."""
    pieces = Pieces(slide)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if part == "rates":
            return measure_rates(pieces, folder, options, ray)
        ways: dict[str, Part] = {
            "faults": measure_faults, "kills": measure_kills, "gaps": measure_gaps, "growth": measure_growth,
        }  # fmt: skip
        return ways[part](pieces, folder, options)
