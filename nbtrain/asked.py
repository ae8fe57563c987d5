"""What a view of a run may ask for: the same in the kernel and in Jupyter's server."""

from __future__ import annotations

import codecs
import contextlib
import json
import shlex
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from .runtime.rundir import RunDir

#: A log is given in pieces of at most this many bytes.
PIECE = 200_000


class Asked(Protocol):
    """What of a Run is needed here."""

    def read(self, path: str, offset: int = 0) -> Iterator[bytes]:
        """Yield a file from an offset."""

    def stop(self, grace: float = 120.0) -> Any:
        """Stop, and return when the run has ended."""

    def delete(self) -> None:
        """Remove the run."""

    def tensorboard(self, folder: str | Path = ".") -> Path:
        """Copy what TensorBoard callbacks have written."""


def answers(run: Asked) -> dict[str, Callable[..., Any]]:
    """Return the questions that the view of a run may ask, by name."""

    def stop(grace: float = 120.0) -> None:
        # It returns when the run has ended; who looks at the view sees that anyway.
        threading.Thread(target=run.stop, args=(grace,), daemon=True).start()

    def log(worker: int, offset: int = -1) -> dict[str, Any]:
        return log_piece(run, worker, offset)

    def tensorboard() -> dict[str, str]:
        return tensorboard_folder(run, Path.cwd())

    return {"stop": stop, "delete": run.delete, "log": log, "tensorboard": tensorboard}


def tensorboard_folder(run: Asked, folder: Path) -> dict[str, str]:
    """Make a folder for TensorBoard; return where it is, and the command that shows it."""
    made = str(run.tensorboard(folder))
    return {"folder": made, "command": f"tensorboard --logdir {shlex.quote(made)}"}


def log_piece(run: Asked, worker: int, offset: int = -1, limit: int = PIECE) -> dict[str, Any]:
    """Return a piece of a worker's log: its text, where it begins, and where to go on.

    Parameters
    ----------
    offset
        In bytes; a negative one gives the end of the log.
    limit
        At most so many bytes.
    """
    path = RunDir("").log(worker)
    begin = offset if offset >= 0 else max(_size(run, path) - limit, 0)
    data = b""
    with contextlib.suppress(FileNotFoundError):  # it has written nothing yet
        for piece in run.read(path, begin):
            data += piece[: limit - len(data)]
            if len(data) >= limit:
                break
    full = len(data) >= limit and offset >= 0
    if offset < 0 and begin:
        # The end of a log begins with a whole line.
        cut = data.find(b"\n") + 1
        begin, data = begin + cut, data[cut:]
    # A character may be on its way, or be cut in two: it comes with the next piece.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data)
    used = len(data) - len(decoder.getstate()[0])
    return {"text": text, "offset": begin, "next": begin + used, "full": full}


def _size(run: Asked, path: str) -> int:
    index = json.loads(b"".join(run.read(RunDir.LOGS)))
    return next((int(entry["bytes"]) for entry in index if entry["path"] == path), 0)
