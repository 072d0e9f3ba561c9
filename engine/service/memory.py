"""Shared memory that the server makes: sealed, so that a client can neither shrink it nor make it grow.

Tiles are copied out of it at once, as the client may write the next one any time.
"""

import mmap
import os
import sys
import threading

from glassrt.engine.service.refusals import Refused

PAGE = 4096


def can_seal() -> bool:
    """Whether the system has such memory."""
    return sys.platform == "linux" and hasattr(os, "memfd_create")


class SealedMemory:
    """So many bytes, rounded up to pages, at a `path` that processes of the same user can open. Close it in the end."""

    def __init__(self, size: int) -> None:
        """Raises Refused where the system has none."""
        if sys.platform != "linux" or not can_seal():
            raise Refused(501, "this system has no memory that can be sealed; send tiles in the body")
        import fcntl

        self.size = -(-size // PAGE) * PAGE
        try:
            self._file = os.memfd_create("glassrt", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            raise Refused(503, f"no shared memory can be made ({error.strerror})") from error
        try:
            os.ftruncate(self._file, self.size)
            fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self._map = mmap.mmap(self._file, self.size, mmap.MAP_SHARED, mmap.PROT_READ)
        except OSError as error:
            os.close(self._file)
            raise Refused(503, f"no shared memory can be made ({error.strerror})") from error
        self.path = f"/proc/{os.getpid()}/fd/{self._file}"
        self._lock = threading.Lock()
        self._open = True

    def copy(self, offset: int, length: int) -> bytes:
        """A copy of bytes. Raises Refused for what lies outside."""
        if offset < 0 or length < 1 or offset + length > self.size:
            raise Refused(400, f"{length} bytes from {offset} on do not lie in the session's {self.size}")
        with self._lock:
            if not self._open:
                raise Refused(409, "the session's memory is gone")
            return self._map[offset : offset + length]

    def close(self) -> None:
        """Give it back; harmless when done twice."""
        with self._lock:
            if self._open:
                self._open = False
                self._map.close()
                os.close(self._file)
