"""The four scanner simulators, each against a real server."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from service_server import Server

CLIENTS = Path(__file__).parents[4] / "engine" / "service" / "clients"
EXAMPLES = CLIENTS / "examples"
LANGUAGES = ("c", "cs", "java", "py")
Find = Callable[[str, str], str]
Start = Callable[..., Server]
Command = Callable[[str], list[str]]


@pytest.fixture
def command(scanner: Path, library: Path, tmp_path: Path, find_program: Find) -> Command:
    """What runs the simulator in a language; skips where that is missing."""

    def make(language: str) -> list[str]:
        if language == "c":
            return [str(scanner)]
        if language == "py":
            return [find_program("python", ""), str(EXAMPLES / "scanner.py")]
        if language == "java":
            return [find_program("java", "default-jdk-headless"), str(EXAMPLES / "Scanner.java")]
        compiler, mono = find_program("mcs", "mono-mcs"), find_program("mono", "mono-runtime")
        program = library.with_name("Scanner.exe")
        subprocess.run(
            [compiler, "-warnaserror", f"-out:{program}", str(EXAMPLES / "Scanner.cs")], check=True, capture_output=True
        )
        return ["env", f"LD_LIBRARY_PATH={library.parent}", mono, str(program)]

    return make


def scan(command: list[str], picture: Path, server: Server, *options: object) -> subprocess.CompletedProcess[str]:
    address = server.where.removeprefix("http://") if server.where.startswith("http") else f"unix:{server.where}"
    told = ["--address", address]
    return subprocess.run(
        [*command, str(picture), *told, "--bundle", "small", *map(str, options)], capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_simulator_pushes_a_slide_and_prints_what_comes_back(
    language: str, command: Command, picture: Path, start: Start
) -> None:
    server = start("--shared-memory")
    done = scan(command(language), picture, server, "--tile", 256, "--rate", 0, "--name", "slide")
    assert (done.returncode, done.stderr) == (0, "")
    *events, last = done.stdout.splitlines()
    kinds = [event.split()[1] for event in events]
    numbers = [int(event.split()[0]) for event in events]
    assert "map" in kinds
    assert kinds[-1] == "finished"
    assert numbers == sorted(set(numbers))
    assert json.loads(last) == json.loads((server.out / "slide" / "result.json").read_text())
    assert server.ask("GET", "/metrics").status_code == 200


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_simulator_keeps_the_speed_of_its_stage(language: str, command: Command, picture: Path, start: Start) -> None:
    done = scan(command(language), picture, start(), "--tile", 512, "--rate", 4, "--name", "slide")
    assert (done.returncode, done.stderr) == (0, "")


def test_all_ways_of_a_tile_make_the_same_map(scanner: Path, picture: Path, start: Start, tmp_path: Path) -> None:
    server, path = start("--shared-memory"), tmp_path / "socket"
    other = start("--socket", path, "--shared-memory", folder="other")
    maps = []
    for name, where, options in [
        ("body", server, ()), ("memory", server, ("--memory", 1)), ("odd", server, ("--tile", 100)),
        ("socket", other, ("--memory", 1)),
    ]:  # fmt: skip
        done = scan([str(scanner)], picture, where, "--tile", 256, "--rate", 0, "--name", name, *options)
        assert (done.returncode, done.stderr) == (0, "")
        maps.append((where.out / name / "regions.geojson").read_bytes())
    assert len(set(maps)) == 1


def test_memory_that_is_refused_is_done_without(scanner: Path, picture: Path, start: Start) -> None:
    done = scan([str(scanner)], picture, start(), "--tile", 256, "--rate", 0, "--memory", 1)
    assert done.returncode == 0
    assert "--shared-memory" in done.stderr


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_goes_wrong_is_one_line(language: str, command: Command, picture: Path, start: Start) -> None:
    server = start()
    for options, word in [(("--name", "a/b"), "a/b"), (("--mpp", "-1"), "-1"), (("--bundle", "none"), "none")]:
        done = scan(command(language), picture, server, "--tile", 256, "--rate", 0, *options)
        assert done.returncode == 1, done
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("scanner: ")
        assert word in done.stderr


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_token_is_asked_for(language: str, command: Command, picture: Path, start: Start, tmp_path: Path) -> None:
    token = "0123456789abcdef-right"
    file = tmp_path / "token"
    file.write_text(token)
    server = start("--token-file", file)
    wrong = scan(command(language), picture, server, "--tile", 256, "--rate", 0, "--token", token[:-1])
    assert wrong.returncode == 1
    assert "token" in wrong.stderr
    right = scan(command(language), picture, server, "--tile", 256, "--rate", 0, "--token", token)
    assert (right.returncode, right.stderr) == (0, "")


@pytest.mark.parametrize("language", LANGUAGES)
def test_nobody_there_is_one_line(language: str, command: Command, picture: Path) -> None:
    done = subprocess.run(
        [*command(language), str(picture), "--address", "127.0.0.1:9"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("scanner: ")
