"""Every error that a user of nbtrain can see.

Each says what is wrong and what to do. In a notebook they show as that text alone: a traceback
through nbtrain's own frames helps nobody.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from .runtime.errors import Refused as Refused


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known word that a mistyped one is most like; empty if none is like it."""
    near = difflib.get_close_matches(word, list(known), 1, 0.6)
    return near[0] if near else ""


class NbtrainError(Exception):
    """Base of nbtrain's errors.

    Parameters
    ----------
    message
        What is wrong, in one sentence.
    fix
        What to do about it; one sentence or a few lines, may be empty.
    """

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message, self.fix = message, fix

    def __str__(self) -> str:
        return f"{self.message}\n{self.fix}" if self.fix else self.message

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows instead of a traceback (its own protocol)."""
        return [f"{type(self).__name__}: {self}"]


class OptionError(NbtrainError, ValueError):
    """An option or argument of the cell, of `train` or of the configuration is wrong."""


class FunctionError(NbtrainError):
    """The cell's functions are missing or are not what nbtrain can use."""


class CannotTravel(NbtrainError):
    """Something that a function uses can't be sent to the workers."""


class NameInUse(NbtrainError):
    """A live run, or something else in the notebook, has the name already."""


class NoSuchRun(NbtrainError, LookupError):
    """No run of this name is known."""


class NotReady(NbtrainError):
    """The run has no such result (yet)."""


class NotStarted(NotReady, FileNotFoundError):
    """The run is still being started: there is nothing to read yet."""


class BackendError(NbtrainError):
    """The machine, engine or cluster that was to run the training can't."""


class ImageError(NbtrainError):
    """An image can't be built, pushed, saved or loaded, or there is none of its name."""


class ImageDoesNotFit(ImageError):
    """An image's Python, TensorFlow or Keras is another one than the notebook's."""


class RunFailed(NbtrainError):
    """A run ended without a trained model.

    Attributes
    ----------
    worker : int or None
        The worker that it came from.
    cause : str
        One of `nbtrain.runtime.events.CAUSES`.
    traceback : str
        The traceback of the user's own code, as text; empty if it was not their code.
    """

    def __init__(
        self,
        message: str,
        fix: str = "",
        *,
        worker: int | None = None,
        cause: str = "lost",
        traceback: str = "",
    ) -> None:
        super().__init__(message, fix)
        self.worker, self.cause, self.traceback = worker, cause, traceback

    def __str__(self) -> str:
        # The traceback ends with the message.
        what = f"(raised on worker {self.worker})" if self.traceback else self.message
        parts = (self.traceback.rstrip(), what, self.fix)
        return "\n".join(part for part in parts if part)


class RehearsalFailed(RunFailed):
    """The user's own code failed in a rehearsal on the notebook's machine; nothing was started."""

    def __str__(self) -> str:
        what = "(raised in a rehearsal of one step on this machine; nothing was started elsewhere)"
        raised = self.traceback.rstrip() or self.message
        return "\n".join(part for part in (raised, what, self.fix) if part)


class RunStopped(NbtrainError):
    """The run was stopped before there was a model to return."""


class WaitTimeout(NbtrainError, TimeoutError):
    """The run went on for longer than the caller wanted to wait."""


class ConfigError(NbtrainError):
    """The configuration file can't be used."""


class UnsafeEnvironment(NbtrainError):
    """What is asked for can't be run by the interpreter or machine at hand."""


class WaitInterrupted(NbtrainError):
    """The kernel was interrupted while it waited for a run, which goes on."""
