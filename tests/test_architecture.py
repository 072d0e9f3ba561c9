"""What the installed package promises: a complete wheel, one namespace, light imports."""

import ast
import importlib.util
import re
import shutil
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("cuda_kernels", "engine", "training", "export", "benchmarks")
HEAVY = {"torch", "cupy", "onnx", "onnxruntime", "openvino"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in a wheel built from the working tree."""
    # A copy, because setuptools packs what an earlier build left in build/, deleted modules included.
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(source / "dist")]
    built = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        return set(archive.namelist())


def files_of(pattern: str) -> set[str]:
    """The wheel's name of every file in the rooms that matches, leftovers of the interpreter aside."""
    found = (path for room in ROOMS for path in (ROOT / room).glob(pattern))
    return {
        f"glassrt/{path.relative_to(ROOT).as_posix()}"
        for path in found
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize(
    "pattern",
    [
        "**/*.py",
        "configs/*.toml",
        "importing/*.toml",
        "bundles/shipped/**/*",
        "*.cu",
        "*.cuh",
        "service/clients/*.[ch]",
        "service/clients/examples/*",
    ],
)
def test_the_wheel_holds_every_module_configuration_bundle_and_kernel(wheel: set[str], pattern: str) -> None:
    expected = files_of(pattern)
    assert expected, f"no {pattern} in the rooms: the pattern or the layout is wrong"
    assert expected <= wheel


def test_the_shipped_bundle_is_whole(wheel: set[str]) -> None:
    for suffix in ("manifest.json", ".onnx"):
        assert any(".glass/" in name and name.endswith(suffix) for name in wheel), suffix


def test_the_wheel_puts_nothing_beside_the_namespace(wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"glassrt"}
    assert {name.split("/")[1] for name in wheel if name.startswith("glassrt/")} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_importable_below_glassrt_only(room: str, tmp_path: Path) -> None:
    look = f"import importlib.util as i; print(i.find_spec('glassrt.{room}') is not None, i.find_spec('{room}'))"
    # -I and an empty folder: neither the working directory nor PYTHONPATH may supply the rooms.
    seen = subprocess.run([sys.executable, "-I", "-c", look], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert seen.stdout.split() == ["True", "None"]


@pytest.mark.parametrize(
    "module",
    ["glassrt.engine", "glassrt.engine.commands.main", "glassrt.training.metrics", "glassrt.cuda_kernels.oeem"],
)
def test_importing_loads_no_framework_and_no_runtime(module: str, tmp_path: Path) -> None:
    for name in HEAVY:
        assert importlib.util.find_spec(name), f"{name} is not installed, so this test would prove nothing"
    look = f"import sys, {module}; print(*({HEAVY} & sys.modules.keys()))"
    seen = subprocess.run([sys.executable, "-c", look], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert seen.stdout.split() == []


def test_the_readme_is_short_and_what_it_links_to_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    assert links
    assert not [link for link in links if not (ROOT / link).is_file()]


def packages() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("__init__.py"))


@pytest.mark.parametrize("package", packages(), ids=lambda path: path.parent.relative_to(ROOT).as_posix())
def test_a_folder_says_in_a_sentence_what_lives_there(package: Path) -> None:
    """The engine's own page aside, which is what users import."""
    tree = ast.parse(package.read_text())
    told = ast.get_docstring(tree)
    assert told
    if package != ROOT / "engine" / "__init__.py":
        assert len(tree.body) == 1
        assert told.count(". ") == 0
        assert told.endswith(".")


def test_no_file_makes_anyone_scroll() -> None:
    lines = {
        path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines())
        for room in (*ROOMS, "tests")
        for path in (ROOT / room).rglob("*.py")
    }
    assert {name: count for name, count in lines.items() if count > 300} == {}
    assert statistics.median(count for name, count in lines.items() if not name.startswith("tests/")) <= 150
