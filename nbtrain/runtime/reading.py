"""Reading a run directory: whoever wants to know something of a run reads a file from an offset.

Where the directory is somewhere else, `python runtime.zip read` does it there and writes to its
standard output.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .framing import framed
from .rundir import RunDir

#: How often a followed file is looked at, in seconds; the first looks come faster.
POLL_S = (0.02, 0.1)
#: Pieces in which a file is read, in bytes.
CHUNK = 1 << 20
#: Exit code of the role for a file that is not there.
NOT_FOUND = 3


def exactly(file: BinaryIO, count: int) -> Iterator[bytes]:
    """Yield the next `count` bytes of a file in pieces of `CHUNK`, whatever is written meanwhile.

    Raises
    ------
    EOFError
        If it has not so many any more.
    """
    while count:
        data = file.read(min(count, CHUNK))
        if not data:
            raise EOFError("the file became shorter")
        count -= len(data)
        yield data


def read(rundir: RunDir, path: str, offset: int = 0, follow: bool = False) -> Iterator[bytes]:
    """Yield a file of a run directory from `offset`; with `follow` until the run has ended.

    A directory gives its index as JSON. A file that does not exist raises FileNotFoundError, with
    `follow` it is waited for, and an empty chunk is yielded now and then.
    """
    target = rundir / path
    if target.is_dir():
        yield json.dumps(rundir.index(path)).encode()
        return
    if not follow:
        yield from _pieces(target, offset)
        return
    pause = POLL_S[0]
    while True:
        live = is_live(rundir)  # asked first: what is written before the end is read after
        got = 0
        with contextlib.suppress(FileNotFoundError):
            for piece in _pieces(target, offset + got):
                got += len(piece)
                yield piece
        offset += got
        if not live and not got:
            return
        if not got:
            yield b""
            time.sleep(pause)
        pause = POLL_S[0] if got else min(pause * 1.5, POLL_S[1])


def _pieces(path: Path, offset: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while data := file.read(CHUNK):
            yield data


def take_lock(rundir: RunDir) -> int | None:
    """Return the locked lock file of a run, or None while a head holds it."""
    fd = os.open(rundir / RunDir.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # More than once: a reader that looks whether the run is live holds the lock for a moment.
    for _ in range(20):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(POLL_S[0])
        else:
            return fd
    os.close(fd)
    return None


def is_live(rundir: RunDir) -> bool:
    """Tell whether a head is at work on a run: it holds the lock for as long as it lives."""
    try:
        fd = os.open(rundir / RunDir.LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two readers who look at the same time don't see each other.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def main(argv: list[str]) -> int:
    """Write a file of a run directory, or a folder's index, to the standard output."""
    parser = argparse.ArgumentParser(prog="read")
    parser.add_argument("rundir", type=Path)
    parser.add_argument("path")
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--follow", action="store_true")
    parser.add_argument("--frames", action="store_true", help="in frames with a seal")
    options = parser.parse_args(argv)
    try:
        pieces = read(RunDir(options.rundir), options.path, options.offset, options.follow)
        for piece in framed(pieces) if options.frames else pieces:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    except FileNotFoundError:
        print(f"there is no {options.path}", file=sys.stderr)
        return NOT_FOUND
    except BrokenPipeError:
        os._exit(0)  # nobody reads any more
    return 0
