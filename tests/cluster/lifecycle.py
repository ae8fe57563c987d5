"""Booting the cluster, ending it, and breaking it on purpose."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
from collections.abc import Iterator

from . import (
    access,
    binaries,
    cgroups,
    control_plane,
    images,
    machine,
    network,
    objects,
    registry,
    traces,
)
from .daemon import Daemon, known, until
from .node import Node
from .paths import CACHE, STATE
from .shell import ClusterError

NODES = {node.name: node for node in (Node(1), Node(2))}
#: Written last by a boot: without it, what there is is half a cluster.
_COMPLETE = STATE / "complete"


def up() -> bool:
    """Boot the cluster; return False where one is up already, which is then used."""
    with _alone():
        if is_up():
            return False
        if problems := machine.lacking():
            raise ClusterError("this machine cannot hold the cluster:\n" + "\n".join(problems))
        built = binaries.build()
        images.pause_image(built)
        # Of an earlier boot that was interrupted, or of the time before the machine's restart.
        _clean()
        _boot()
        return True


def down() -> None:
    """End the cluster and see that nothing of it is left."""
    with _alone():
        _clean()


def is_up() -> bool:
    """Tell whether a cluster is complete and all of its processes live."""
    return _COMPLETE.exists() and not dead() and control_plane.ready()


def daemons() -> list[Daemon]:
    """Return the processes that a complete cluster has."""
    of_nodes = [daemon for node in NODES.values() for daemon in node.daemons]
    return [*registry.DAEMONS, *control_plane.DAEMONS, *of_nodes]


def dead() -> list[str]:
    """Return the names of those that do not live."""
    return [daemon.name for daemon in daemons() if not daemon.pid]


def restart_apiserver() -> None:
    """Kill the API server, start it anew and wait until it is ready."""
    access.only_ours("restarting the API server")
    control_plane.APISERVER.kill()
    control_plane.start_apiserver(binaries.folder())


def kill_node(name: str) -> None:
    """Pull a node's plug: its peers hear nothing any more, not even that a connection is closed."""
    access.only_ours("killing a node")
    NODES[name].kill()


def start_node(name: str) -> None:
    """Switch a killed node on again and wait until it is Ready."""
    access.only_ours("starting a node")
    node = NODES[name]
    node.boot([other for other in NODES.values() if other != node])
    node.join(binaries.folder())
    until(f"{name} is Ready", lambda: name in objects.nodes_ready(), *node.daemons)


def _boot() -> None:
    STATE.mkdir(parents=True, mode=0o700)
    network.up()
    access.write(objects.NAMESPACE)
    registry.start()
    control_plane.start(binaries.folder())
    control_plane.start_controllers(binaries.folder())
    control_plane.write_resolv_conf()
    for node in NODES.values():
        node.boot([other for other in NODES.values() if other != node])
        node.join(binaries.folder())
    objects.create(NODES.values())
    control_plane.start_dns(binaries.folder())
    until("both nodes are Ready", lambda: objects.nodes_ready() == set(NODES), *daemons())
    for daemon in daemons():
        daemon.check()
    _COMPLETE.touch()


def _clean() -> None:
    for node in NODES.values():
        node.kill()
    for daemon in known():
        daemon.kill()
    for pid in traces.pids():
        # Started by a boot that was interrupted before it could write the number down.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until("no process of it is left", lambda: not traces.pids())
    network.down()
    if STATE.exists():
        shutil.rmtree(STATE)
    until("no cgroup of it is left", _without_cgroups, timeout=10)
    if left := traces.found():
        raise ClusterError("the cluster has left behind:\n" + "\n".join(left))


def _without_cgroups() -> bool:
    cgroups.remove()
    return not cgroups.found()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let two sessions not boot or end the one cluster at the same time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "boot.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
