"""The backends by name."""

from __future__ import annotations

from functools import cache

from ..backend import Backend
from ..errors import OptionError

NAMES = ("local",)
LATER = ("docker", "kubernetes")


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
    if name in LATER:
        raise OptionError(
            f"--backend {name}: not in this release.", "Use --backend local: processes here."
        )
    raise OptionError(f"--backend {name}: no such backend.", f"There is: {', '.join(NAMES)}.")
