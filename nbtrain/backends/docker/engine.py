"""The engine's objects of one run: made, found, and removed by their labels."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from . import specs

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container


#: How often something is removed that somebody makes use of just then.
ATTEMPTS = 5
#: After so long without output it is looked whether a command goes on, in seconds.
SILENT_S = 3.0
_FRAME = struct.Struct(">4xI")


def create(client: DockerClient, spec: dict[str, Any], network: str) -> Container:
    """Create a container, connected to the network under its alias; "" leaves it without one."""
    api = client.api
    limits = dict(spec["host"], network_mode=network or "none")
    networking = None
    if network:
        endpoint = api.create_endpoint_config(aliases=[spec["alias"]])
        networking = api.create_networking_config({network: endpoint})
    made = api.create_container(
        spec["image"],
        command=spec["command"],
        name=spec["name"],
        entrypoint=[],
        user=str(specs.USER),
        labels=spec["labels"],
        environment=spec["environment"],
        working_dir="/",
        volumes=[specs.WRITABLE],
        host_config=api.create_host_config(**limits),
        networking_config=networking,
    )
    # Not inspected: nothing more is needed of it.
    found: Container = client.containers.prepare_model({"Id": made["Id"]})
    return found


def containers(client: DockerClient, run: str = "", role: str = "") -> list[Container]:
    """Return the containers of a run (of all runs), running or not."""
    wanted = [f"{specs.RUN}={run}" if run else specs.RUN]
    if role:
        wanted.append(f"{specs.ROLE}={role}")
    # Sparse: one that goes away meanwhile is no error, and nothing more is needed.
    found: list[Container] = client.containers.list(
        all=True, sparse=True, filters={"label": wanted}
    )
    return found


def state(container: Container) -> str:
    """Return "running", "restarting", "paused", "exited", "created", ... of a listed container."""
    return str(container.attrs["State"])


def labels(container: Container) -> dict[str, str]:
    """Return the labels of a listed container."""
    found: dict[str, str] = container.attrs["Labels"]
    return found


def volumes(client: DockerClient, run: str = "") -> list[Any]:
    """Return the volumes of a run (of all runs)."""
    found: list[Any] = client.volumes.list(filters={"label": _label(run)})
    return found


def remove(client: DockerClient, run: str) -> None:
    """Remove all that there is of a run; what runs is killed.

    A reader may make a container at the same time: it is removed as well.
    """
    from docker.errors import APIError, NotFound

    networks = client.networks.list(filters={"label": _label(run)})
    for left in range(ATTEMPTS, 0, -1):
        for container in containers(client, run):
            with contextlib.suppress(NotFound):
                container.remove(force=True, v=True)
        try:
            for thing in (
                *networks,
                *client.volumes.list(filters={"name": specs.object_name(run)}),
            ):
                with contextlib.suppress(NotFound):
                    thing.remove()
        except APIError:  # in use
            if left == 1:
                raise
        else:
            return


def execute(client: DockerClient, container: Container, command: list[str]) -> Iterator[bytes]:
    """Run a command in a container; yield its output, and raise what its exit code means.

    It ends when the command does, and soon after its container did.

    Raises
    ------
    FileNotFoundError
        If it says that there is no such file (`nbtrain.runtime.reading.NOT_FOUND`).
    """
    from ...runtime.reading import NOT_FOUND

    api = client.api
    made = api.exec_create(container.id, command, user=str(specs.USER), stderr=False)["Id"]
    stream = api.exec_start(made, socket=True)
    try:
        # It is an object of http.client around the socket, or the socket itself (TLS).
        sock: socket.socket = getattr(stream, "_sock", stream)
        sock.settimeout(SILENT_S)
        yield from _output(sock, lambda: _goes_on(client, container, made))
    finally:
        stream._response.close()  # docker.api.client keeps it there, and the connection with it
        stream.close()
    if api.exec_inspect(made)["ExitCode"] == NOT_FOUND:
        raise FileNotFoundError


def _goes_on(client: DockerClient, container: Container, command: str) -> bool:
    """Tell whether a command is at work; one whose container died is still called running."""
    running = client.api.inspect_container(container.id)["State"]["Running"]
    return bool(running and client.api.exec_inspect(command)["Running"])


def _output(sock: socket.socket, goes_on: Callable[[], bool]) -> Iterator[bytes]:
    """Yield the data in the engine's frames: stream (1 byte), nothing (3), length (4), data.

    After a while without any an empty piece is yielded. The engine does not close the connection
    of a command whose container is killed, so that `goes_on` is asked then.
    """
    left = 0
    header = b""
    while True:
        try:
            data = sock.recv(left or _FRAME.size - len(header))
        except TimeoutError:
            if not goes_on():
                return
            yield b""
            continue
        if not data:
            return
        if left:
            left -= len(data)
            yield data
            continue
        header += data
        if len(header) == _FRAME.size:
            (left,) = _FRAME.unpack(header)
            header = b""


def _label(run: str) -> str:
    return f"{specs.RUN}={run}" if run else specs.RUN
