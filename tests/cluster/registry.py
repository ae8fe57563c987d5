"""A Docker registry for the images that pods run.

Docker pushes over plain HTTP to loopback alone, and nodes are no part of loopback: two processes
serve the same folder, one for each side.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from .daemon import Daemon, until
from .network import HOST, free_port, listens
from .paths import CACHE, STATE
from .shell import run, succeeds

#: Where it is kept from one boot to the next, so that a layer is pushed once.
STORE = CACHE / "registry"
SIDES = {"registry": "127.0.0.1", "registry-nodes": HOST}
DAEMONS = [Daemon(name) for name in SIDES]
#: The first choice: nodes know an image that they have by its name, and the port is part of it.
PORT = 5055


def start() -> None:
    """Start the registry's two processes."""
    port = free_port(PORT)
    (STATE / "registry.port").write_text(str(port), "utf-8")
    STORE.mkdir(parents=True, exist_ok=True)
    for name, address in SIDES.items():
        config = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(STORE)}},
            "http": {"addr": f"{address}:{port}"},
        }
        path = STATE / f"{name}.yml"
        path.write_text(json.dumps(config), "utf-8")
        Daemon(name).start("docker-registry", "serve", path)
    for name, address in SIDES.items():
        until(f"{name} answers", partial(listens, address, port), Daemon(name))


def name() -> str:
    """Return what the references of its images begin with."""
    return f"127.0.0.1:{(STATE / 'registry.port').read_text('utf-8')}"


def mirror(folder: Path) -> None:
    """Write for containerd where a node finds the registry."""
    port = name().rpartition(":")[2]
    server = f"http://{HOST}:{port}"
    (folder / name()).mkdir(parents=True, exist_ok=True)
    (folder / name() / "hosts.toml").write_text(
        f'server = "{server}"\n[host."{server}"]\ncapabilities = ["pull", "resolve"]\n', "utf-8"
    )


def push(tag: str, registry: str) -> str:
    """Push a local Docker image to a registry and return the reference that pods use.

    The image's own number is a part of it: a node that has pulled a reference does not ask again,
    and would go on with the image that had the tag before.
    """
    identity = run("docker", "image", "inspect", "--format", "{{.Id}}", tag).strip()
    name, _, version = tag.partition(":")
    reference = f"{registry}/{name}:{version or 'latest'}-{identity.removeprefix('sha256:')[:12]}"
    run("docker", "tag", tag, reference)
    try:
        run("docker", "push", "--quiet", reference)
    finally:
        # The second name of the image, not the image.
        succeeds("docker", "rmi", "--no-prune", reference)
    return reference
