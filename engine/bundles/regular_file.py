"""Files that may be anything: a pipe would wait for its writer, a device never end."""

import os
import stat
from pathlib import Path

from glassrt.engine.errors import BundleError
from glassrt.engine.system import BINARY, CLOSE_ON_EXEC, NON_BLOCK

LARGEST_TEXT = 1 << 20  # bytes of a JSON file


def read_file(path: Path, largest: int) -> bytes:
    """All bytes of a file of a bundle, which has to be a regular one, or lead to one, of at most `largest` bytes.

    Nothing else is opened. Raises BundleError.
    """
    try:
        if stat.S_ISREG(path.stat().st_mode):
            descriptor = os.open(path, os.O_RDONLY | NON_BLOCK | CLOSE_ON_EXEC | BINARY)
            with open(descriptor, "rb") as file:
                opened = os.fstat(descriptor)
                if opened.st_size > largest:
                    raise BundleError(f"{path} has {opened.st_size} bytes, and no such file of a bundle over {largest}")
                if stat.S_ISREG(opened.st_mode):
                    return file.read(opened.st_size)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}): copy or download the bundle again") from error
    raise BundleError(f"{path} is no regular file: copy or download the bundle again")
