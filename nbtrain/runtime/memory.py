"""A worker's memory: its own limit, how to tell that it ran out of it, and what it keeps."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from pathlib import Path

#: Where the kernel counts processes that it killed for their memory: cgroup v2, and v1.
_COUNTS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
#: What the C++ library writes when an allocation fails, before it aborts the process.
_SIGN = b"std::bad_alloc"
#: Parameters of glibc's mallopt(3), by their numbers in malloc.h; values are C's int.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_INT_MAX = 2**31 - 1
#: How a user sets these.
_TUNED = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def limit(size: int) -> None:
    """Have allocations beyond `size` bytes fail in this process; 0 is no limit."""
    if size:
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def keep_freed() -> None:
    """Have malloc keep what is freed from now on, for what is allocated next.

    By itself glibc takes the tensors of a step from the kernel and gives them back, and the kernel
    has to clear each page again: 4100 page faults in a step of a small convolutional network, 17 of
    its 45 ms. Kept, it is 15 faults and 27 ms; the process stays as big as a step makes it.
    Not where there is another malloc, or where the user has set glibc's: see mallopt(3).
    """
    if any(name.startswith(_TUNED) for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _INT_MAX)


def resident() -> int:
    """Return the bytes of memory that this process has now; without /proc, those it once had."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def kills() -> int:
    """Return how many processes of this container were killed for their memory; 0 if unknown."""
    for name in _COUNTS:
        with contextlib.suppress(OSError, ValueError):
            lines = (line.split() for line in Path(name).read_text().splitlines())
            return next((int(words[1]) for words in lines if words[0] == "oom_kill"), 0)
    return 0


class Tail:
    """The last bytes of a log."""

    def __init__(self) -> None:
        self._bytes = b""

    def add(self, data: bytes) -> None:
        """Take more of the log."""
        self._bytes = (self._bytes + data)[-4096:]

    def of_memory(self) -> bool:
        """Tell whether it ends with an allocation that failed."""
        return _SIGN in self._bytes
