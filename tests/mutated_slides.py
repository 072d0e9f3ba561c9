"""Mutated slides and images, the same for a seed: `python mutated_slides.py FIRST LAST` scores each in this process.

Of each it prints a line of JSON: its number, which file was changed, and what came of it: the refusal's line or digests
of its pixels, and of its figures, map and pictures. Anything but a GlassError of one line or results that come out
twice alike is a `fault`.
"""

import os
import shutil
import struct
import tempfile
import zlib
from pathlib import Path

import msgspec
import numpy as np
import tifffile
from hunting import Told, digest, judge_twice, refusal, try_each
from made_images import FORMS
from made_tiffs import APERIO, COMPRESSION, cut_tiles, encode, stained, write_pages, write_scn, write_tiles
from small_bundle import make_bundle

from glassrt.engine.bundles.bundle import Bundle, open_bundle
from glassrt.engine.errors import GlassError
from glassrt.engine.slides.readers import open_slide
from glassrt.engine.slides.slide import Slide
from glassrt.engine.tasks.scoring import score

DEMO_SLIDE = Path(__file__).with_name("slides") / "CMU-1-Small-Region.svs"
WIDTH, HEIGHT = 700, 600
FULL = stained(WIDTH, HEIGHT)
HALF = np.ascontiguousarray(FULL[::2, ::2])
SVS = {"description": APERIO.format(WIDTH, HEIGHT)}
REDUCED = {"subfiletype": 1}
MOST_READ = 4000  # pixels of a side


def make_sound(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Name and content of sound files, by what they are."""
    made = {
        **FORMS,
        "the demo slide": ("a.svs", Path(__file__).with_name("slides").joinpath("CMU-1-Small-Region.svs").read_bytes()),
    }
    for codec in COMPRESSION:
        named = SVS if codec == "jpeg2000" else {}
        path = folder / ("a.svs" if named else "a.tiff")
        write_tiles(path, (WIDTH, HEIGHT), (encode(tile, codec) for tile in cut_tiles(FULL)), codec, **named)
        made[f"tiles, {codec}"] = (path.name, path.read_bytes())
    pages = {"pyramid": (REDUCED, {}), "SVS": (SVS, SVS)}
    for kind, (options, first) in pages.items():
        path = write_pages(folder / ("a.svs" if kind == "SVS" else "a.tiff"), [(FULL, first), (HALF, options)])
        made[kind] = (path.name, path.read_bytes())
    path = write_scn(folder / "a.scn", FULL, (100, 200), (1600, 1600))
    made["SCN"] = (path.name, path.read_bytes())
    return made


def change(whole: bytes, random: np.random.Generator) -> bytes:
    """`whole` with some bytes changed, cut, zeroed or doubled, often in its header or near its end."""
    content, most = bytearray(whole), random.choice([1, 5])  # half of them stay as long as they were
    for _ in range(random.integers(1, 4)):
        near = min(1000, len(content))
        place = int(random.choice([random.integers(len(content) + 1), random.integers(near + 1), len(content) - near]))
        match random.integers(0, most):
            case 0:
                content[place : place + 1] = bytes([random.integers(0, 256)])
            case 1:
                content = content[: max(place, 1)]
            case 2:
                content[place : place + 200] = bytes(len(content[place : place + 200]))
            case 3:
                content[place:place] = content[place : place + 50]
            case 4:
                content[place : place + 4] = random.choice([b"\xff\xff\xff\xff", b"\0\0\0\x7f", b"\1\0\0\0"])
    return bytes(content)


def mend_sums(content: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what they hold, so that a reader looks at it."""
    mended, at = bytearray(content), 8
    while at + 12 <= len(mended):
        end = at + 8 + struct.unpack_from(">I", mended, at)[0]
        if end + 4 > len(mended):
            break
        struct.pack_into(">I", mended, end, zlib.crc32(mended[at + 4 : end]))
        at = end + 4
    return bytes(mended)


def attempt(path: Path, bundle: Bundle, out: Path) -> list[str]:
    """What reading a file and scoring it, tissue found and tissue given, come to."""
    try:
        with open_slide(path, 0.5) as slide:
            width, height = (min(side, MOST_READ) for side in slide.levels[0].size)
            outcomes = [f"pixels {digest(slide.read_level(0, (0, 0), (width, height)).tobytes())}"]
            for tissue in ("auto", "all") if (width, height) == slide.levels[0].size else ():
                outcomes.append(score_once(slide, bundle, out, tissue))
            return outcomes
    except GlassError as error:
        return [refusal(error, path)]


def score_once(slide: Slide, bundle: Bundle, out: Path, tissue: str) -> str:
    """What figures, map and pictures of a slide come to, or the refusal's line."""
    try:
        result = msgspec.structs.replace(score(slide, bundle, out, "ort", tissue=tissue), seconds={})
    except GlassError as error:
        return refusal(error, slide.path or out)
    parts = [str(result).encode(), tifffile.imread(out / "map.ome.tif").tobytes()]
    parts += [(out / name).read_bytes() for name in ("regions.geojson", "overlay.png")]
    return " ".join(("scored", *(digest(part) for part in parts)))


def judge(sound: dict[str, tuple[str, bytes]], bundle: Bundle, folder: Path, number: int) -> Told:
    """Make a mutated file, score it twice, and say what came of it."""
    random = np.random.default_rng(number)
    kind = list(sound)[number % len(sound)]
    name, content = sound[kind]
    changed = change(content, random)
    path = folder / name
    path.write_bytes(mend_sums(changed) if name == "a.png" and random.random() < 0.5 else changed)
    try:
        return judge_twice(number, kind, lambda: attempt(path, bundle, folder / "out"))
    finally:
        path.unlink()
        shutil.rmtree(folder / "out", ignore_errors=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        os.environ["GLASSRT_CACHE"] = f"{place}/cache"
        folder = Path(place)
        bundle, sound = open_bundle(make_bundle(folder / "sound.glass")), make_sound(folder)
        try_each(lambda number: judge(sound, bundle, folder, number))


if __name__ == "__main__":
    main()
