"""The start of a run, while it goes on in a thread: what it is at, and calling it off."""

from __future__ import annotations

import threading
from collections.abc import Callable


class CalledOff(Exception):
    """The start that is going on is not wanted any more; nobody but `Start` gets to see it."""


class Start:
    """All that is slow about a start; whoever called for it has long gone on.

    Parameters
    ----------
    work
        Starts the run. It is given this, to say what it is at, which raises `CalledOff` once the
        start has been called off: so `work` has to leave nothing behind when something is raised.
    undo
        Removes what `work` has made, if the start is called off when it is too late to raise.

    Attributes
    ----------
    doing : str
        What it is at.
    warnings : tuple of str
        What the user should know.
    changed
        Called when either is another one.
    """

    def __init__(self, work: Callable[[Start], None], undo: Callable[[], None]) -> None:
        self._work, self._undo = work, undo
        self._lock = threading.Lock()
        self._off = self._over = False
        self.doing = ""
        self.warnings: tuple[str, ...] = ()
        self.changed: Callable[[], None] = lambda: None

    def __call__(self) -> bool:
        """Start the run; tell whether it is there now, which it is not if it was called off."""
        try:
            self._work(self)
        except CalledOff:
            return False
        with self._lock:
            self._over = not self._off
        if self._off:
            self._undo()
        return self._over

    def call_off(self) -> None:
        """Have it undone, if it is not over."""
        with self._lock:
            self._off = not self._over

    def say(self, doing: str) -> None:
        """Tell what it is at now."""
        if self._off:
            raise CalledOff
        if doing != self.doing:
            self.doing = doing
            self.changed()

    def warn(self, message: str) -> None:
        """Tell what the user should know."""
        self.warnings = (*self.warnings, message)
        self.changed()
