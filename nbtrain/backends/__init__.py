"""The backends by name."""

from __future__ import annotations

import contextlib
from functools import cache
from importlib import import_module

from .. import libraries
from ..backend import Backend
from ..errors import OptionError

NAMES = ("local", "docker", "kubernetes", "results")
#: What a backend imports when it is first used: its own module, and libraries that take longer than
#: a cell should.
_IMPORTS = {
    "docker": ("nbtrain.backends.docker", "docker"),
    "kubernetes": ("nbtrain.backends.kubernetes.backend", "kubernetes", "docker"),
}


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
    if name == "docker":
        from .docker import DockerBackend

        return DockerBackend()
    if name == "kubernetes":
        from .kubernetes.backend import KubernetesBackend

        return KubernetesBackend()
    if name == "results":
        from .results import ResultsBackend

        return ResultsBackend()
    raise OptionError(f"backend {name}: there is none of this name here")


def preload(name: str) -> None:
    """Import all that a backend needs, so that its first use finds it there."""
    if name not in _IMPORTS:
        return
    own, *needed = _IMPORTS[name]
    import_module(own)
    for library in needed:
        with contextlib.suppress(ImportError):  # it is told where the library is used
            libraries.load(library)
