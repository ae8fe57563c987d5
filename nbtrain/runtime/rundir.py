"""The run directory: the one place that knows the file names of a run.

Files are written beside and renamed, or only appended to, so a reader never sees half a file
and a head that dies at any moment leaves a directory that the next one can go on with.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from .errors import Corrupt


class RunDir:
    """The files of one run below `path`."""

    REQUEST = "request.json"
    PAYLOAD = "payload.bin"
    RUNTIME = "runtime.zip"
    EVENTS = "events.jsonl"
    HEAD = "head.json"
    LOCK = "head.lock"
    HEAD_LOG = "logs/head.log"
    WEIGHTS = "weights.safetensors"
    MODEL = "model.keras"
    HISTORY = "history.json"
    CARD = "run.json"
    FILES = "files"
    LOGS = "logs"
    CHECKPOINTS = "checkpoints"
    SCRATCH = "scratch"
    RESERVE = ".reserve"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunDir({str(self.path)!r})"

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def inside(self, name: str) -> Path:
        """Return the path of a file that was asked for from outside.

        Raises
        ------
        PermissionError
            If it is not below the directory, also by way of a link.
        """
        path = PurePosixPath(name)
        found = self.path / path
        inside = not path.is_absolute() and ".." not in path.parts and "\0" not in name
        if inside:
            with contextlib.suppress(OSError):
                inside = found.resolve().is_relative_to(self.path.resolve())
        if not inside:
            raise PermissionError("this path leaves the run directory")
        return found

    def create(self) -> None:
        """Make the directory and its folders; only the user can read them."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in (self.LOGS, self.CHECKPOINTS, self.FILES):
            (self.path / name).mkdir(exist_ok=True)

    def with_folders(self, name: str) -> Path:
        """Return the path of a file that is going to be written, and make its folders.

        Raises
        ------
        FileNotFoundError
            If the run directory itself is gone: who removed it does not want it back.
        """
        for folder in reversed(PurePosixPath(name).parents[:-1]):
            (self.path / folder).mkdir(exist_ok=True)
        return self.path / name

    def log(self, worker: int) -> str:
        """Return the name of a worker's log, relative to the directory."""
        return f"{self.LOGS}/worker-{worker}.log"

    def checkpoint(self, epoch: int, step: int) -> str:
        """Return the name of the checkpoint taken after `step` steps of `epoch` (from 0)."""
        return f"{self.CHECKPOINTS}/epoch-{epoch:06d}-step-{step:09d}.safetensors"

    def read_json(self, name: str) -> dict[str, Any]:
        """Return a JSON file's object; Corrupt if it is not one."""
        try:
            value = json.loads((self.path / name).read_text("utf-8"))
        except ValueError as error:
            raise Corrupt(f"{name}: {error}") from None
        if not isinstance(value, dict):
            raise Corrupt(f"{name}: not a JSON object")
        return value

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write a JSON file as a whole."""
        with self.replacing(name) as file:
            file.write(json.dumps(value, indent=1, default=str).encode())

    @contextlib.contextmanager
    def replacing(self, name: str, *, durable: bool = False) -> Iterator[IO[bytes]]:
        """Write beside and rename when the block ends well; else leave nothing behind.

        With `durable` the bytes are on the disk before the name is (`fsync`).
        """
        target = self.with_folders(name)
        beside = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with beside.open("wb") as file:
                yield file
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)

    def index(self, name: str = "") -> list[dict[str, Any]]:
        """Return the files below a folder: path relative to the directory, bytes, mtime."""
        found = []
        for root, folders, files in os.walk(self.path / name):
            folders.sort()
            for file in sorted(f for f in files if not _is_unfinished(f)):
                path = Path(root, file)
                with contextlib.suppress(FileNotFoundError):
                    stat = path.stat()
                    relative = path.relative_to(self.path).as_posix()
                    found.append({"path": relative, "bytes": stat.st_size, "mtime": stat.st_mtime})
        return found


def _is_unfinished(name: str) -> bool:
    """Tell whether a file is none of the run's: on its way, or room that is kept."""
    return name == RunDir.RESERVE or (name.startswith(".") and name.endswith(".part"))


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
