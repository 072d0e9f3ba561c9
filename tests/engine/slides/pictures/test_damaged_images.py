"""Images whose file is cut, holed or changed are told as damaged, and never end otherwise than in one line."""

import errno
import os
import re
import struct
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import mutated_slides
import numpy as np
import pytest
import tifffile
from hunting import hunt
from made_images import FORMS, HEIGHT, write

from glassrt.engine.errors import SlideError
from glassrt.engine.slides.pictures.images import read_image
from glassrt.engine.slides.readers import open_slide

UNCOMPRESSED = ("BMP", "BMP with masks", "strips")
IN_STRIPS = [form for form in FORMS if form.startswith("strips")]


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("form", FORMS)
def test_images_that_were_not_copied_to_the_end_are_refused(tmp_path: Path, form: str, share: float) -> None:
    name, content = FORMS[form]
    path = write(tmp_path, name, content[: int(len(content) * share)])
    with pytest.raises(SlideError, match=r"damaged|not a PNG|not a slide") as caught:
        open_slide(path, 0.5)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", [form for form in FORMS if form not in UNCOMPRESSED and form not in IN_STRIPS])
@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_a_run_of_zeros_is_told(tmp_path: Path, form: str, place: float) -> None:
    name, content = FORMS[form]
    start = int(len(content) * place)
    holed = content[:start] + bytes(min(2000, len(content) // 12)) + content[start + min(2000, len(content) // 12) :]
    with pytest.raises(SlideError, match="damaged"):
        read_image(write(tmp_path, name, holed))


def strip_places(content: bytes) -> list[tuple[int, int]]:
    with tifffile.TiffFile(BytesIO(content)) as file:
        page = file.pages.first
        return list(zip(page.dataoffsets, page.databytecounts, strict=True))


@pytest.mark.parametrize("part", ["all", "first half", "last half", "middle"])
@pytest.mark.parametrize("form", [form for form in IN_STRIPS if form not in UNCOMPRESSED])
def test_a_strip_of_zeros_is_told_with_its_place(tmp_path: Path, form: str, part: str) -> None:
    name, whole = FORMS[form]
    content = bytearray(whole)
    offset, count = strip_places(whole)[2]
    first, last = {"all": (0, 1), "first half": (0, 0.5), "last half": (0.5, 1), "middle": (0.4, 0.6)}[part]
    first, last = offset + int(count * first), offset + int(count * last)
    content[first:last] = bytes(last - first)
    with pytest.raises(SlideError, match=r"damaged at x 0, y \d+ .*copy it again"):
        read_image(write(tmp_path, name, bytes(content)))


@pytest.mark.parametrize("lost", [1, 2, 3, 5, 9, 100])
@pytest.mark.parametrize("form", IN_STRIPS)
def test_a_strip_whose_byte_count_is_too_small_is_told_or_whole(tmp_path: Path, form: str, lost: int) -> None:
    name, whole = FORMS[form]
    content = bytearray(whole)
    with tifffile.TiffFile(BytesIO(whole)) as file:
        page = file.pages.first
        tag = page.tags[279]
        letter = {3: "H", 4: "I"}[int(tag.dtype)]
        place = tag.valueoffset + 3 * struct.calcsize(letter)
        struct.pack_into(f"<{letter}", content, place, page.databytecounts[3] - lost)
    whole_pixels = read_image(write(tmp_path, name, whole))
    try:
        read = read_image(write(tmp_path, name, bytes(content)))
    except SlideError as error:
        told = str(error)
    else:  # what is lost may be the mark at a strip's end, which holds no pixels
        told = ""
        assert lost < 10
        assert np.array_equal(read, whole_pixels)
    assert not told or re.search(r"damaged at x 0, y \d+", told)


def test_a_strip_that_is_missing_is_told(tmp_path: Path) -> None:
    name, whole = FORMS["strips with deflate"]
    content = bytearray(whole)
    with tifffile.TiffFile(BytesIO(whole)) as file:
        tag = file.pages.first.tags[279]
        struct.pack_into("<H" if int(tag.dtype) == 3 else "<I", content, tag.valueoffset, 0)
    with pytest.raises(SlideError, match="holds nothing at x 0, y 0"):
        read_image(write(tmp_path, name, bytes(content)))


def test_a_cut_bmp_is_told_with_its_row(tmp_path: Path) -> None:
    content = FORMS["BMP"][1]
    stride = (len(content) - 54) // HEIGHT
    with pytest.raises(SlideError, match="damaged at x 0, y 9 "):  # rows are stored from the last to the first
        read_image(write(tmp_path, "a.bmp", content[: -9 * stride - 5]))


def test_mutated_slides_are_refused_in_a_line_or_give_the_same_twice() -> None:
    """`GLASSRT_MUTATIONS=10000` tries as many; some of them here."""
    last = int(os.environ.get("GLASSRT_MUTATIONS", "40"))
    told = list(hunt(mutated_slides.__file__, 0, last))
    assert [each for each in told if each["fault"]] == []
    assert len(told) == last
    assert {outcome[0] for each in told for outcome in each["outcomes"]} == {
        "p",
        "s",
        "S",
    }  # some are read, some scored, some refused


FAILING_READ = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int seen;
ssize_t read(int descriptor, void *buffer, size_t count) {
    static ssize_t (*real)(int, void *, size_t);
    char link[64], path[4096];
    if (!real) real = dlsym(RTLD_NEXT, "read");
    snprintf(link, 64, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, 4095);
    if (length > 0) {
        path[length] = 0;
        if (strstr(path, "/lost.") && ++seen > atoi(getenv("FAIL_AFTER"))) {
            errno = atoi(getenv("FAIL_WITH"));
            return -1;
        }
    }
    return real(descriptor, buffer, count);
}
"""
OPEN = (
    "import sys; from glassrt.engine.slides.readers import open_slide; from glassrt.engine.errors import SlideError\n"
)
OPEN += "try: open_slide(sys.argv[1], 0.5)\nexcept SlideError as error: print(error)"


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "strips with deflate"])
def test_a_disk_that_fails_while_an_image_is_read_is_told_as_such(
    built: Path, tmp_path: Path, form: str, code: int
) -> None:
    library = built / "failing_read.so"
    if not library.exists():
        source = write(built, "failing_read.c", FAILING_READ.encode())
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    name, content = FORMS[form]
    path = write(tmp_path, f"lost{Path(name).suffix}", content)
    for after in (0, 1, 2):
        environment = {**os.environ, "LD_PRELOAD": str(library), "FAIL_WITH": str(code), "FAIL_AFTER": str(after)}
        done = subprocess.run([sys.executable, "-c", OPEN, path], env=environment, capture_output=True, text=True)
        assert done.stderr == ""
        assert done.stdout.count("\n") == 1
        assert str(path) in done.stdout
        assert "reading failed" in done.stdout
