"""What is promised of the client's sources: they compile anywhere without a word, and add nothing but their calls."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
CLIENTS = Path(__file__).parents[4] / "engine" / "service" / "clients"
Find = Callable[[str, str], str]


@pytest.mark.parametrize("optimised", ["-O0", "-O2", "-O3"])
def test_gcc_has_nothing_to_say(optimised: str, sources: list[Path], tmp_path: Path) -> None:
    for source in [*sources, CLIENTS / "examples" / "scanner.c"]:
        command = ["gcc", "-std=c99", *STRICT, optimised, "-Wconversion", "-Wno-sign-conversion", "-Wshadow"]
        done = subprocess.run(
            [*command, "-I", str(CLIENTS), "-c", str(source), "-o", str(tmp_path / "o")], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_the_header_is_cpp_too(tmp_path: Path, find_program: Find) -> None:
    source = tmp_path / "host.cpp"
    source.write_text('#include "glassrt.h"\nint main() { return glassrt_abi_version() == GLASSRT_ABI_VERSION; }\n')
    compiler = find_program("g++", "g++")
    command = [compiler, "-std=c++98", *STRICT, "-Wno-long-long", "-I", str(CLIENTS), "-fsyntax-only", str(source)]
    subprocess.run(command, check=True)


@pytest.mark.parametrize(
    ("name", "options"),
    [("glassrt.dll", ["-shared", "-DGLASSRT_SHARED"]), ("scanner.exe", [str(CLIENTS / "examples" / "scanner.c")])],
)
def test_mingw_compiles_it_for_windows(
    name: str, options: list[str], sources: list[Path], tmp_path: Path, find_program: Find
) -> None:
    compiler = find_program("x86_64-w64-mingw32-gcc", "mingw-w64")
    command = [compiler, "-std=c99", *STRICT, "-I", str(CLIENTS), *options, *map(str, sources)]
    done = subprocess.run([*command, "-o", str(tmp_path / name), "-lws2_32"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / name).is_file()


def test_the_library_shows_its_calls_alone(library: Path) -> None:
    listed = subprocess.run(["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True)
    shown = {line.split()[-1] for line in listed.stdout.splitlines()}
    promised = set(re.findall(r"^GLASSRT_API [\w ]+?\*?(glassrt_\w+)\(", (CLIENTS / "glassrt.h").read_text(), re.M))
    assert len(promised) == 13
    assert shown == promised


def test_the_client_calls_nothing_that_ends_its_host(library: Path) -> None:
    listed = subprocess.run(["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True)
    called = {line.split()[-1].split("@")[0] for line in listed.stdout.splitlines()}
    assert "connect" in called
    assert not called & {"abort", "exit", "_exit", "raise", "kill", "__assert_fail", "signal", "printf", "puts"}


def test_no_file_makes_anyone_scroll() -> None:
    files = [path for path in CLIENTS.rglob("*") if path.suffix in (".c", ".h", ".cs", ".java")]
    assert len(files) >= 4
    for path in files:
        lines = path.read_text().splitlines()
        assert len(lines) <= 300, path
        assert max(map(len, lines)) <= 120, path
