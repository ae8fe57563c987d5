"""Errors that are raised where the training runs and told as `Failed` events."""

from __future__ import annotations


class Refused(Exception):
    """A form that would not give the numbers of one process, refused before training.

    Parameters
    ----------
    form
        What is refused, by the name the user knows it by (``"loss=Circle()"``).
    why
        Why it can't be right with several workers; one sentence.
    instead
        The way around; one sentence, or an empty string where there is none.
    """

    def __init__(self, form: str, why: str, instead: str = "") -> None:
        super().__init__(form, why, instead)
        self.form, self.why, self.instead = form, why, instead

    def __str__(self) -> str:
        return " ".join(part for part in (f"{self.form}: {self.why}", self.instead) if part)


class VersionMismatch(Refused):
    """The Keras, TensorFlow or Python here is not one that this code was tested with."""


class Corrupt(Exception):
    """A file of a run is cut short or its bytes are not the ones that were written."""
