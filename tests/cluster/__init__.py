"""A real Kubernetes cluster on this machine, for the tests: two nodes, booted in seconds.

`python -m tests.cluster` says what can be done with it; NBTRAIN_TEST_CONTEXT names a context of
the developer's own kubeconfig that is used instead.
"""

from __future__ import annotations

import os

from . import access, lifecycle, registry
from .access import kubeconfig
from .binaries import kubectl
from .control_plane import compact
from .lifecycle import down, kill_node, restart_apiserver, start_node
from .machine import lacking
from .shell import ClusterError

__all__ = [
    "ClusterError",
    "compact",
    "down",
    "kill_node",
    "kubeconfig",
    "kubectl",
    "lacking",
    "push",
    "restart_apiserver",
    "start_node",
    "up",
]


def up() -> bool:
    """Boot the cluster; return False where there is one that can be used."""
    return False if access.own_context() else lifecycle.up()


def push(image: str) -> str:
    """Push a local Docker image to where pods find it and return the reference for them.

    A cluster of the developer's own needs NBTRAIN_TEST_REGISTRY, such as `host:5000/prefix`.
    """
    if access.own_context() is None:
        return registry.push(image, registry.name())
    own = os.environ.get("NBTRAIN_TEST_REGISTRY")
    if not own:
        raise ClusterError("set NBTRAIN_TEST_REGISTRY to a registry that your cluster pulls from")
    return registry.push(image, own)
