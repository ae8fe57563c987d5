"""The backends by name."""

from __future__ import annotations

from functools import cache

from ..backend import Backend
from ..errors import OptionError

NAMES = ("local",)


@cache
def get(name: str) -> Backend:
    """Return a backend.

    Raises
    ------
    OptionError
        If there is none of this name.
    """
    if name == "local":
        from .local import LocalBackend

        return LocalBackend()
    raise OptionError(f"backend {name}: there is none of this name here")
