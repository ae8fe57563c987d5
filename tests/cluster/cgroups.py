"""The cgroups of the nodes: each kubelet has its own root, or it would end the other's pods."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_PARENT = "nbtrain-test"


def path(node: str) -> str:
    """Return the cgroup of a node, as the kubelet names it."""
    return f"/{_PARENT}/{node}"


def create(node: str) -> None:
    """Make a node's cgroup in every hierarchy."""
    for hierarchy in _hierarchies():
        (hierarchy / _PARENT / node).mkdir(parents=True, exist_ok=True)
        # In version 1 a group may use no processor before it is told which.
        for name in ("cpuset.cpus", "cpuset.mems"):
            for group in (hierarchy / _PARENT, hierarchy / _PARENT / node):
                if (hierarchy / name).exists() and not (group / name).read_text().strip():
                    (group / name).write_text((hierarchy / name).read_text())


def remove() -> None:
    """Remove the nodes' cgroups; their processes have to be gone."""
    for group in found():
        for folder, _, _ in os.walk(group, topdown=False):
            # One whose last process is still on its way out is left for the next try.
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def found() -> list[Path]:
    """Return the cgroups of nodes that there are."""
    return [h / _PARENT for h in _hierarchies() if (h / _PARENT).exists()]


def _hierarchies() -> list[Path]:
    """Return version 2's only hierarchy, or version 1's for each controller."""
    if (_MOUNT / "cgroup.controllers").exists():
        return [_MOUNT]
    # Links are second names (cpu,cpuacct).
    return [entry for entry in _MOUNT.iterdir() if entry.is_dir() and not entry.is_symlink()]
