"""What the head keeps of a run: files that arrive from trainers, checkpoints, logs."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path, PurePosixPath
from typing import IO, Any

from .events import Event, Saved
from .rundir import RunDir, sha256

#: Checkpoints that are kept; the one before the last is there for when the last is damaged.
KEEP = 2
#: Bytes that are kept free for the end of the story of a run whose disk is full.
RESERVE = 1 << 18


class Store:
    """Writes the run directory; the head has one, nobody else writes."""

    def __init__(self, rundir: RunDir, past: list[Event]) -> None:
        self.rundir = rundir
        self._incoming: dict[str, _Incoming] = {}
        self._came: dict[str, tuple[_Identity, bytes]] = {}  # their SHA-256
        self._logs: dict[int, IO[bytes]] = {}
        self._reserve = rundir / RunDir.RESERVE
        self._reserve.write_bytes(bytes(RESERVE))
        self.saved: dict[str, Saved] = {}
        self.checkpoints: list[Saved] = []
        for event in past:
            if isinstance(event, Saved):
                self._remember(event)

    def receive(self, message: dict[str, Any], body: bytes) -> Saved | None:
        """Take a piece of a file; return what was saved when it was the last one."""
        name = _inside(message["path"])
        incoming = self._incoming.get(name)
        if incoming is None:
            incoming = self._incoming[name] = _Incoming(self.rundir.with_folders(name))
        if message["last"]:
            del self._incoming[name]
        try:
            incoming.write(body)
            if message["last"]:
                incoming.finish()
        except OSError:
            incoming.abandon()
            raise
        if not message["last"] or incoming.failed:
            return None
        self._came[name] = _identity(incoming.path.stat()), incoming.digest.digest()
        saved = Saved(
            what=message["what"],
            path=name,
            epoch=message.get("epoch"),
            step=message.get("step"),
            bytes=incoming.size,
            sha256=incoming.digest.hexdigest(),
        )
        before = self.saved.get(name)
        if before and (before.what, before.sha256) == (saved.what, saved.sha256):
            return None  # told once more after a connection broke
        self._remember(saved)
        return saved

    def sha256(self, name: str, stat: os.stat_result) -> bytes | None:
        """Return that of a file as it came, if this is its state still; for any thread."""
        identity, digest = self._came.get(name, (None, None))
        return digest if identity == _identity(stat) else None

    def files(self) -> list[str]:
        """Return the files that callbacks wrote, relative to their folder."""
        index = self.rundir.index(RunDir.FILES)
        return [file["path"].removeprefix(f"{RunDir.FILES}/") for file in index]

    def make_room(self) -> None:
        """Give up what is kept free, so that the end can be told."""
        self.abandon()
        self._reserve.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Forget files whose sender died."""
        for incoming in self._incoming.values():
            incoming.abandon()
        self._incoming.clear()

    def logged(self, worker: int) -> int:
        """Return how many bytes of a worker's log there are."""
        with contextlib.suppress(FileNotFoundError):
            return (self.rundir / self.rundir.log(worker)).stat().st_size
        return 0

    def log(self, worker: int, data: bytes, at: int) -> None:
        """Write to a worker's log from byte `at`; what finds no room on the disk is left out."""
        with contextlib.suppress(OSError):
            if worker not in self._logs:
                path = self.rundir / self.rundir.log(worker)
                path.touch()
                self._logs[worker] = path.open("r+b", buffering=0)
            os.pwrite(self._logs[worker].fileno(), data, at)

    def checkpoint(self) -> tuple[Saved | None, list[Saved]]:
        """Return the newest checkpoint that is whole, and the newer ones that are not."""
        damaged: list[Saved] = []
        while self.checkpoints:
            newest = self.checkpoints[-1]
            if self._is_whole(newest):
                return newest, damaged
            damaged.append(self.checkpoints.pop())
            del self.saved[newest.path]
        return None, damaged

    def weights_from_checkpoint(self) -> Saved | None:
        """Make the newest whole checkpoint the run's weights, where it has none."""
        newest, _ = self.checkpoint()
        if newest is None or RunDir.WEIGHTS in self.saved:
            return None
        target = self.rundir / RunDir.WEIGHTS
        target.unlink(missing_ok=True)
        os.link(self.rundir / newest.path, target)
        saved = Saved(
            what="weights",
            path=RunDir.WEIGHTS,
            epoch=newest.epoch,
            step=newest.step,
            bytes=newest.bytes,
            sha256=newest.sha256,
        )
        self._remember(saved)
        return saved

    def close(self) -> None:
        """Close what is open."""
        self.make_room()
        for file in self._logs.values():
            file.close()

    def _is_whole(self, saved: Saved) -> bool:
        with contextlib.suppress(OSError):
            return sha256(self.rundir / saved.path) == saved.sha256
        return False

    def _remember(self, saved: Saved) -> None:
        self.saved[saved.path] = saved
        if saved.what != "checkpoint":
            return
        self.checkpoints = [c for c in self.checkpoints if c.path != saved.path] + [saved]
        for old in self.checkpoints[:-KEEP]:
            (self.rundir / old.path).unlink(missing_ok=True)
        self.checkpoints = self.checkpoints[-KEEP:]


class _Incoming:
    """A file that is written beside its name, hashed on the way and renamed when complete.

    When it can't be written what is still on its way is dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.size, self.failed = path, 0, False
        self.digest = hashlib.sha256()
        self._beside = path.with_name(f".{path.name}.part")
        self._file = self._beside.open("wb", buffering=0)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while len(view) and not self.failed:
            view = view[self._file.write(view) :]
        self.digest.update(data)
        self.size += len(data)

    def finish(self) -> None:
        self._file.close()
        if not self.failed:
            self._beside.replace(self.path)

    def abandon(self) -> None:
        self.failed = True
        self._file.close()
        self._beside.unlink(missing_ok=True)


_Identity = tuple[int, int, int]


def _identity(stat: os.stat_result) -> _Identity:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _inside(name: str) -> str:
    """Return a path that can't leave the run directory."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"a path outside of the run directory: {name!r}")
    return str(path)
