"""A worker's memory: its own limit, and how to tell that it ran out of it."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from pathlib import Path

#: Where the kernel counts processes that it killed for their memory: cgroup v2, and v1.
_COUNTS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
#: What the C++ library writes when an allocation fails, before it aborts the process.
_SIGN = b"std::bad_alloc"


def limit(size: int) -> None:
    """Have allocations beyond `size` bytes fail in this process; 0 is no limit."""
    if size:
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


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
