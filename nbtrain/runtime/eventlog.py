"""Appends events to `events.jsonl`, going on where a dead head stopped."""

from __future__ import annotations

import dataclasses
import errno
import os
import time
from pathlib import Path

from . import events
from .events import Event


class EventLog:
    """The writing end of a run's events; `seq` counts on across heads.

    With `echo` they are printed as well, so that a pod's log tells the story too.
    """

    def __init__(self, path: Path, *, echo: bool = False) -> None:
        self._echo = echo
        _drop_half_line(path)
        self.past = read(path)
        self._seq = self.past[-1].seq + 1 if self.past else 0
        self._file = path.open("ab", buffering=0)

    def append(self, event: Event, generation: int) -> Event:
        """Stamp, write and return an event; one write, so a reader sees whole lines or none.

        Raises
        ------
        OSError
            If it can't be written as a whole (the disk is full); nothing of it is left then.
        """
        stamped = dataclasses.replace(
            event, seq=self._seq, time=round(time.time(), 3), generation=generation
        )
        text = events.encode(stamped)
        line = text.encode() + b"\n"
        before = os.fstat(self._file.fileno()).st_size
        if self._file.write(line) < len(line):
            os.ftruncate(self._file.fileno(), before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._seq += 1
        if self._echo:
            print(text, flush=True)
        return stamped

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: Path) -> list[Event]:
    """Return the events of a file; unknown kinds and a half-written last line are left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().split(b"\n"):
        try:
            event = events.decode(line)
        except ValueError:
            continue
        if event is not None:
            found.append(event)
    return found


def _drop_half_line(path: Path) -> None:
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)
