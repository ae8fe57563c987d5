"""The big libraries of containers and clusters, imported by one thread at a time.

Their modules, and those of requests, which both use, import one another. Of two threads that begin
at different ends of such a circle (a cell, and what is imported beside it) one would get half of a
module: Python breaks the deadlock of their locks that way. Whoever needs one loads it here first.
"""

from __future__ import annotations

import threading
from importlib import import_module

_PARTS = {
    "docker": ("docker", "docker.errors"),
    "kubernetes": (
        "kubernetes",
        "kubernetes.client.configuration",
        "kubernetes.client.rest",
        "kubernetes.config.incluster_config",
        "kubernetes.config.kube_config",
        "kubernetes.stream.ws_client",
    ),
}
_lock = threading.Lock()


def load(name: str) -> None:
    """Import all that nbtrain uses of a library; takes no time the next time.

    Raises
    ------
    ImportError
        If it is not installed, or broken.
    """
    with _lock:
        for part in _PARTS[name]:
            import_module(part)
