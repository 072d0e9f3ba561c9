"""`glassrt embed` as users run it."""

import resource
from pathlib import Path

import h5py
from command_line import assert_one_line, run
from small_mil import FEATURES, make_bundle


def test_every_slide_that_can_be_is_embedded(demo_slide: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "small.glass", kind="encoder")
    (tmp_path / "broken.svs").write_bytes(b"no slide")
    out = tmp_path / "out"
    done = run("embed", demo_slide, tmp_path / "broken.svs", "--bundle", bundle, "--out", out, "--layout", "clam")
    assert done.returncode == 3
    warned, failed = done.stderr.splitlines()
    assert warned.startswith(f"glassrt: warning: {demo_slide}: stained")
    assert failed.startswith(f"glassrt: {tmp_path / 'broken.svs'}: not a slide")
    with h5py.File(out / "h5_files" / f"{demo_slide.stem}.h5") as file:
        count = len(file["coords"])
        assert file["features"].shape == (count, FEATURES)
    assert any(demo_slide.name in line and str(count) in line.split() for line in done.stdout.splitlines())
    assert [path.name for path in (out / "h5_files").iterdir()] == [f"{demo_slide.stem}.h5"]


def test_a_full_disk_is_told_in_a_line(demo_slide: Path, tmp_path: Path) -> None:
    bundle, out = make_bundle(tmp_path / "small.glass", kind="encoder"), tmp_path / "out"

    def leave_little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = run("embed", demo_slide, "--bundle", bundle, "--out", out, "--layout", "stamp", preexec_fn=leave_little_room)
    assert_one_line(done, 2, f"{out / demo_slide.stem}.h5: no space left to write it")
    assert not list(out.iterdir())


def test_a_bundle_without_an_encoder_is_told_before_any_work(demo_slide: Path, tmp_path: Path) -> None:
    head = make_bundle(tmp_path / "head.glass", takes="features")
    for bundle in ("glas-glands", head):
        done = run("embed", demo_slide, "--bundle", bundle, "--out", tmp_path / "out")
        assert_one_line(done, 2, "has no encoder of tiles")
    assert not (tmp_path / "out").exists()


def test_info_tells_what_a_bundle_makes_of_tiles(tmp_path: Path) -> None:
    told = run("info", make_bundle(tmp_path / "encoder.glass", kind="encoder")).stdout
    assert "small (encoder)" in told
    assert f"{FEATURES} of each tile" in told
    assert "classes" not in told
    told = run("info", make_bundle(tmp_path / "small.glass")).stdout
    assert "tiles, attention pooling" in told
