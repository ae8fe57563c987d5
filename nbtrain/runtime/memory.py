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
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_INT_MAX, _LARGEST_KEPT, _TRIM_BY_DEFAULT = 2**31 - 1, 2**25, 2**17
#: How a user sets these.
_TUNED = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def limit(size: int) -> None:
    """Have allocations beyond `size` bytes fail in this process; 0 is no limit."""
    if size:
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def keep_freed() -> None:
    """Have malloc keep what is freed from now on, for what is allocated next.

    By itself glibc may take the tensors of a step from the kernel and give them back, and the
    kernel has to clear each page again: 4100 page faults in a step of a small convolutional
    network, 17 of its 45 ms. Kept, it is 15 faults and 27 ms. (Whether it does depends on what
    was allocated before.) Blocks of more than 32 MiB, the most that glibc's heap takes, still go
    back at once: kept, those of a big model had workers with 2 GiB run out of memory.
    Not where there is another malloc, or where the user has set glibc's: see mallopt(3).
    """
    _mallopt((_M_MMAP_THRESHOLD, _LARGEST_KEPT), (_M_TRIM_THRESHOLD, _INT_MAX))


def give_back() -> None:
    """Have malloc give back what it has kept, and what is freed from now on."""
    _mallopt((_M_TRIM_THRESHOLD, _TRIM_BY_DEFAULT))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _mallopt(*settings: tuple[int, int]) -> None:
    if any(name.startswith(_TUNED) for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError):
        for parameter, value in settings:
            ctypes.CDLL(None).mallopt(parameter, value)


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
