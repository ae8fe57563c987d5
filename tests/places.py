"""Where the runs of the contract train, and how to see what they leave there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from nbtrain import backends
from nbtrain.backend import Backend
from nbtrain.backends.local import home

from .harness import leftovers, until


@dataclass
class Place:
    """A backend, and what a request needs to train there."""

    backend: Backend
    fields: dict[str, Any] = field(default_factory=dict)
    #: How long what was removed may still be seen, in seconds.
    patience_s: ClassVar[float] = 0.0

    def objects(self) -> set[str]:
        """Return the names of all that runs have made and that is still there."""
        raise NotImplementedError


class Local(Place):
    """Processes of this machine."""

    def objects(self) -> set[str]:
        until(lambda: not leftovers(home().parent))
        return {str(path) for path in home().glob("*")}


class Docker(Place):
    """Containers of this machine's engine."""

    patience_s = 30.0  # a volume without a name goes a moment after its container

    def objects(self) -> set[str]:
        client = self.backend._client  # type: ignore[attr-defined]
        ours = {"label": "io.nbtrain.run"}
        found = [
            *client.containers.list(all=True, sparse=True, filters=ours),
            *client.networks.list(filters=ours),
            *client.volumes.list(filters=ours),
            *client.volumes.list(filters={"dangling": True}),  # they have no labels
        ]
        return {one.id for one in found}


@dataclass
class Kubernetes(Place):
    """Pods of a namespace."""

    client: Any = None

    def objects(self) -> set[str]:
        from nbtrain.backends.kubernetes import names
        from nbtrain.backends.kubernetes.backend import KINDS

        ours = names.selector({names.MANAGED_BY: "nbtrain"})
        found = (item for kind in KINDS for item in self.client.find(kind, labels=ours)["items"])
        return {item["metadata"]["uid"] for item in found}


@contextlib.contextmanager
def open_place(name: str, fixture: Callable[[str], Any]) -> Iterator[Place]:
    """Give a place by its backend's name; `fixture` gives what pytest's fixtures do."""
    if name == "local":
        yield Local(backends.get(name))
    elif name == "docker":
        from .docker_image import base_image

        fields = {"backend": name, "container": {"image": base_image()}}
        yield Docker(backends.get(name), fields)
    elif name == "kubernetes":
        from nbtrain import config

        from . import cluster
        from .docker_image import base_image

        namespace = fixture("namespace")
        fixture("monkeypatch").setenv("KUBECONFIG", str(cluster.kubeconfig("user")))
        # As a user has it: the runs of other kernels are looked for there.
        config.update({"namespace": namespace})
        container = {"image": cluster.push(base_image()), "cpu": 0.5, "storage": 2**30}
        fields = {"backend": name, "container": container, "memory": 1200 * 2**20}
        backends.get.cache_clear()
        backend = backends.get(name)
        yield Kubernetes(backend, fields, backend._places.client({}))  # type: ignore[attr-defined]


@contextlib.contextmanager
def left_as_found(place: Place) -> Iterator[None]:
    """Delete the runs that are made meanwhile, and see that nothing of them is left."""
    before, others = place.objects(), {ref.id for ref in place.backend.runs()}
    yield
    for ref in place.backend.runs():
        if ref.id not in others:
            place.backend.delete(ref)
    with contextlib.suppress(AssertionError):
        until(lambda: place.objects() == before, place.patience_s)
    assert place.objects() == before


ALL = [
    pytest.param("local", id="local"),
    pytest.param("docker", id="docker", marks=pytest.mark.docker),
    pytest.param("kubernetes", id="kubernetes", marks=pytest.mark.cluster),
]
