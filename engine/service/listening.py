"""Where a server listens: a TCP port, or a socket in the file system."""

import contextlib
import errno
import ipaddress
import os
import re
import socket
import stat
import sys
from pathlib import Path
from typing import NamedTuple

from glassrt.engine.errors import UsageError

ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]\s]+)):([0-9]{1,5})")
LOCALHOST = "localhost"


class Address(NamedTuple):
    """A TCP address. Port 0 is any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host == LOCALHOST or ipaddress.ip_address(self.host).is_loopback


def parse_listen(text: str) -> Address:
    """`HOST:PORT`. Raises UsageError."""
    found = ADDRESS.fullmatch(text)
    host = (found[1] or found[2]) if found else ""
    try:
        if host != LOCALHOST:
            ipaddress.ip_address(host)
    except ValueError:
        host = ""
    if not found or not host or int(found[3]) > 65535:
        raise UsageError(f"--listen {text}: expected a number and a port, as in 127.0.0.1:8080 or [::1]:8080")
    return Address(host, int(found[3]))


def listen(address: Address) -> socket.socket:
    """A socket that listens. Raises UsageError for a port that is in use, or not allowed."""
    host = "127.0.0.1" if address.host == LOCALHOST else address.host
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, address.port))
        made.listen(256)
    except OSError as error:
        made.close()
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be listened on ({error.strerror})"
        raise UsageError(f"--listen {address.host}:{address.port}: the port {why}; choose another") from error
    made.setblocking(False)
    return made


def listen_at(path: Path) -> socket.socket:
    """A socket in the file system that only its user can reach. Raises UsageError."""
    if sys.platform == "win32" or not hasattr(socket, "AF_UNIX"):
        raise UsageError("--socket: this system has none that can be used; take --listen")
    if os.path.lexists(path):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UsageError(f"--socket {path}: something else stands there; choose another")
        if answers(path):
            raise UsageError(f"--socket {path} is in use; choose another")
        path.unlink()
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    older = os.umask(0o177)
    try:
        made.bind(str(path))
        made.listen(256)
    except OSError as error:
        made.close()
        raise UsageError(f"--socket {path}: cannot be made ({error.strerror or error}); choose another") from error
    finally:
        os.umask(older)
    made.setblocking(False)
    return made


def answers(path: Path) -> bool:
    """Whether a process listens at a socket in the file system."""
    if sys.platform == "win32":
        return False
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
        return True
