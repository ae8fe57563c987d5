"""A view of a run's files that reads like `pathlib`, wherever the run directory is."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from .backend import Backend, RunRef
from .display import passing
from .transfer import Transfer, watched


class RunPath:
    """A file or folder of a run directory.

    Supports `/`, `name`, `suffix`, `exists`, `is_dir`, `is_file`, `iterdir`, `glob`, `read_bytes`,
    `read_text`, `open` (for reading) and `download`.
    """

    def __init__(self, backend: Backend, ref: RunRef, path: str = "") -> None:
        self._backend, self._ref, self._path = backend, ref, PurePosixPath(path)

    def __truediv__(self, name: str) -> RunPath:
        return RunPath(self._backend, self._ref, str(self._path / name))

    def __repr__(self) -> str:
        return f"<{self._ref.name}: {self}>"

    def __str__(self) -> str:
        return str(self._path)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RunPath):
            return NotImplemented
        return (self._ref.id, self._path) == (other._ref.id, other._path)

    def __hash__(self) -> int:
        return hash((self._ref.id, self._path))

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self._path.name

    @property
    def suffix(self) -> str:
        """The file name's ending, with the dot."""
        return self._path.suffix

    @property
    def parent(self) -> RunPath:
        """The folder that this is in."""
        return RunPath(self._backend, self._ref, str(self._path.parent))

    def exists(self) -> bool:
        """Tell whether there is such a file or folder."""
        return str(self) == "." or any(
            p == self._path or self._path in p.parents for p in self._all()
        )

    def is_file(self) -> bool:
        """Tell whether this is a file."""
        return self._path in set(self._all())

    def is_dir(self) -> bool:
        """Tell whether this is a folder with something in it."""
        return self.exists() and not self.is_file()

    def iterdir(self) -> Iterator[RunPath]:
        """Yield what is in this folder."""
        inside = [p.relative_to(self._path).parts[0] for p in self._all() if self._holds(p)]
        for name in dict.fromkeys(inside):
            yield self / name

    def glob(self, pattern: str) -> Iterator[RunPath]:
        """Yield the files below this folder whose relative path matches; `*` crosses folders."""
        for path in self._all():
            if self._holds(path) and fnmatch(str(path.relative_to(self._path)), pattern):
                yield RunPath(self._backend, self._ref, str(path))

    def rglob(self, pattern: str) -> Iterator[RunPath]:
        """Yield the files below this folder whose name matches."""
        for path in self._all():
            if self._holds(path) and fnmatch(path.name, pattern):
                yield RunPath(self._backend, self._ref, str(path))

    def read_bytes(self) -> bytes:
        """Return the file's bytes; FileNotFoundError if there is none."""
        # Not joined at the end: memory that is written for the first time is what costs most.
        found = io.BytesIO()
        with self._pieces() as pieces:
            for piece in pieces:
                found.write(piece)
        return found.getvalue()

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the file's text."""
        return self.read_bytes().decode(encoding, "replace")

    def open(self, mode: str = "rb") -> io.BytesIO | io.StringIO:
        """Open the file for reading."""
        if mode == "rb":
            return io.BytesIO(self.read_bytes())
        if mode in ("r", "rt"):
            return io.StringIO(self.read_text())
        raise ValueError(f"a run's files can only be read, not opened with {mode!r}")

    def download(self, target: str | Path = ".") -> Path:
        """Copy the file into a folder or to a file name, and return where it is."""
        path = Path(target)
        if path.is_dir():
            path = path / self.name
        with path.open("wb") as file, self._pieces() as pieces:
            for piece in pieces:
                file.write(piece)
        return path

    @contextlib.contextmanager
    def _pieces(self) -> Iterator[Iterator[bytes]]:
        """Give the file's bytes; how far they are is shown if it takes long."""
        pieces = self._backend.read(self._ref, str(self._path))
        with passing() as tell:
            yield watched(pieces, Transfer(f"reading {self.name}"), tell, self._bytes)

    def _bytes(self) -> int:
        return next((e["bytes"] for e in self._index() if e["path"] == str(self._path)), 0)

    def _holds(self, path: PurePosixPath) -> bool:
        return str(self._path) == "." or self._path in path.parents

    def _all(self) -> list[PurePosixPath]:
        return [PurePosixPath(entry["path"]) for entry in self._index()]

    def _index(self) -> list[dict[str, Any]]:
        index: list[dict[str, Any]] = json.loads(b"".join(self._backend.read(self._ref, "")))
        return index


def logs_in(folder: RunPath) -> dict[str, RunPath]:
    """Return TensorBoard's files below a folder, by their paths in it.

    That is whatever lies in a folder of it that has event files somewhere: profiles are beside.
    """
    files = {str(PurePosixPath(str(f)).relative_to(str(folder))): f for f in folder.rglob("*")}
    events = [name for name in files if PurePosixPath(name).name.startswith("events.out.tfevents")]
    folders = {name.partition("/")[0] for name in events if "/" in name}
    return {
        name: file
        for name, file in files.items()
        if name in events or name.partition("/")[0] in folders
    }
