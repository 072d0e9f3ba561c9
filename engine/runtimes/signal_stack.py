"""The stack that a thread's signal handlers run on."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from glassrt.engine.system import find_in_c

ROOM = 64  # bytes, more than any system's stack_t; its order differs between systems, so it is kept unread


@contextmanager
def keep_signal_stack() -> Iterator[None]:
    """Give the calling thread back, in the end, the alternate signal stack that it had (sigaltstack, signal.h).

    OpenVINO 2026.4 lends the thread that compiles a model a stack of the model's own. Closed in another order than
    they were compiled, models leave a stack that is freed, and the next Ctrl-C ends the process with SIGSEGV.
    """
    sigaltstack = find_in_c("sigaltstack")
    if sigaltstack is None:
        yield
        return
    before = ctypes.create_string_buffer(ROOM)
    sigaltstack(None, before)
    try:
        yield
    finally:
        sigaltstack(before, None)
