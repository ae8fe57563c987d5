"""The backends by name."""

from __future__ import annotations

from functools import cache

from ..backend import Backend
from ..errors import OptionError

NAMES = ("local", "docker", "kubernetes", "results")


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
