"""The processes of a cluster, found again by whoever comes later: they outlive their starter."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .paths import STATE
from .shell import ClusterError, tail

#: In the environment of each process of the cluster, with its folder.
MARK = "NBTRAIN_TEST_CLUSTER"


@dataclass(frozen=True)
class Daemon:
    """One process, by its name and the folder where its number and its log are."""

    name: str
    folder: Path = STATE

    @property
    def log(self) -> Path:
        return self.folder / "logs" / f"{self.name}.log"

    @property
    def file(self) -> Path:
        """Where its number is, with the time of its start."""
        return self.folder / "pids" / self.name

    @property
    def pid(self) -> int | None:
        """The process' id, or None where it does not live (any more)."""
        try:
            pid, started = self.file.read_text("utf-8").split()
        except FileNotFoundError:
            return None
        # An id is given out again some day: the time of the start tells.
        return int(pid) if started == _started(int(pid)) else None

    def start(self, *command: str | Path) -> None:
        """Start a process that belongs to no terminal; what it says is appended to its log."""
        if self.pid:
            return
        for path in (self.log, self.file):
            path.parent.mkdir(parents=True, exist_ok=True)
        words = [str(word) for word in command]
        program = shutil.which(words[0])
        if program is None:
            raise ClusterError(f"{words[0]} is not installed: `make cluster` says how to get it")
        log = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        # Not a Popen: nobody waits for it, and its object would complain of that.
        pid = os.posix_spawn(
            program, words, {**os.environ, MARK: str(self.folder)}, setsid=True,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.log), log, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )  # fmt: skip
        self.file.write_text(f"{pid} {_started(pid)}", "utf-8")

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End the process, by default as a power cut would, and wait until it is gone."""
        pid = self.pid
        if pid:
            os.kill(pid, how)
            until(f"{self.name} ends", lambda: gone(pid))
        self.file.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise where the process is no longer there, with the end of what it said."""
        if not self.pid:
            raise ClusterError(f"{self.name} has ended; the end of {self.log}:\n{self.said()}")

    def said(self) -> str:
        return tail(self.log.read_text("utf-8", errors="replace")) if self.log.exists() else ""


def known(folder: Path = STATE) -> list[Daemon]:
    """Return the daemons that were started and not killed by us."""
    return [Daemon(path.name, folder) for path in sorted(folder.glob("pids/*"))]


def until(
    what: str, condition: Callable[[], object], *daemons: Daemon, timeout: float = 60.0
) -> None:
    """Wait for a condition; a daemon that it needs and that ends is named with its last words."""
    deadline = time.monotonic() + timeout
    while not condition():
        for daemon in daemons:
            daemon.check()
        if time.monotonic() > deadline:
            words = "".join(f"\nThe end of {d.log}:\n{d.said()}" for d in daemons)
            raise ClusterError(f"waited {timeout:.0f} s in vain until {what}{words}")
        time.sleep(0.05)


def _started(pid: int) -> str | None:
    """Return when a process started, in the kernel's ticks, or None where it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
        threads = len(os.listdir(f"/proc/{pid}/task"))
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name before it is in parentheses and may hold anything.
    fields = stat.rpartition(")")[2].split()
    # A first thread that is a zombie says little: others may still hold the process' sockets.
    return None if fields[0] in "ZX" and threads <= 1 else fields[19]


def gone(pid: int) -> bool:
    """Tell whether a process has ended, and reap it where it is ours."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return _started(pid) is None
