"""In CI, a line every minute of what is being tested: a run that is cut short has no summary."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

EVERY_S = 60.0


class Progress:
    """What is going on in all processes that run tests; reported by a thread of its own."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._running: dict[str, float] = {}
        self._done = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._report, daemon=True)

    def pytest_sessionstart(self) -> None:
        self._thread.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._running[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._running.pop(nodeid, None)
        self._done += 1

    def pytest_sessionfinish(self) -> None:
        self._over.set()
        self._thread.join()

    def _report(self) -> None:
        while not self._over.wait(EVERY_S):
            print(self.line(time.monotonic()), flush=True)

    def line(self, now: float) -> str:
        """Return how many are done, what the machine has left, and what runs for how long."""
        running = ", ".join(f"{n} ({now - t:.0f} s)" for n, t in self._running.copy().items())
        load = os.getloadavg()[0]
        return (
            f"\n=== {(now - self._began) / 60:.0f} min: {self._done} done,"
            f" {_available():.1f} GiB of memory left, load {load:.1f}; {running}"
        )


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("CI") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Progress())


def _available() -> float:
    """Return the memory that is available, in GiB (proc(5), MemAvailable)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) / 2**20
