"""The objects of a run are made at once where they can be; what goes wrong leaves none of them."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from nbtrain.backends.kubernetes import backend as backend_module
from nbtrain.backends.kubernetes import preflight
from nbtrain.backends.kubernetes.backend import KubernetesBackend, create
from nbtrain.backends.kubernetes.errors import ApiError, NotFound
from nbtrain.backends.kubernetes.manifests import Manifests
from nbtrain.backends.kubernetes.settings import PodSettings
from nbtrain.backends.together import together
from nbtrain.errors import ImageDoesNotFit

from . import golden

#: What is made at the same time: how many of them have to be on their way before one is answered.
TOGETHER = {"Secret": 2, "PersistentVolumeClaim": 2, "Service": 3, "NetworkPolicy": 3}


class Cluster:
    """Keeps objects; in `refuses` is the kind of those that it does not make."""

    context, namespace = "fake", "ml"

    def __init__(self, refuses=""):
        self.objects, self.log, self.refuses = {}, [], refuses
        self._lock = threading.Lock()
        self._waiting = {count: threading.Barrier(count, timeout=20) for count in (2, 3)}

    def create(self, manifest, *, dry_run=False):
        kind, metadata = manifest["kind"], manifest["metadata"]
        if dry_run:
            return manifest
        with self._lock:
            self.log.append(("begin", metadata["name"], kind))
        if kind in TOGETHER:
            self._waiting[TOGETHER[kind]].wait()
        if kind == self.refuses:
            raise ApiError(f"no {kind} here", status=403)
        made = {**manifest, "metadata": {**metadata, "uid": f"u-{kind}-{metadata['name']}"}}
        with self._lock:
            self.objects[kind, metadata["name"]] = made
            self.log.append(("end", metadata["name"], kind))
        return made

    def get(self, kind, name):
        with self._lock:
            if (kind, name) not in self.objects:
                raise NotFound(f"there is no {kind} {name}")
            return self.objects[kind, name]

    def find(self, kind, *, labels="", fields=""):
        with self._lock:
            return {"items": [o for (k, _), o in self.objects.items() if k == kind]}

    def patch(self, kind, name, change):
        with self._lock:
            self.objects[kind, name]["metadata"] |= change["metadata"]

    def delete(self, kind, name, *, grace_s=None):
        with self._lock:
            del self.objects[kind, name]


def manifests_of(request):
    return Manifests(request, PodSettings.of(request, image=request.container["image"]), "anna")


@pytest.fixture
def start(monkeypatch, tmp_path, nbtrain_home):
    """Return a function that starts a run in a cluster."""
    payload = tmp_path / "payload.bin"
    payload.write_bytes(b"p")

    def call(cluster):
        backend = KubernetesBackend()
        monkeypatch.setattr(backend._places, "client", lambda _: cluster)
        request = golden.manifests("plain").request
        image = {"image": "registry.example/train:1"}
        return backend.start(dataclasses.replace(request, container=image), payload)

    monkeypatch.setattr(backend_module, "check_known", lambda image: None)
    monkeypatch.setattr(preflight, "admitted", lambda client, request: manifests_of(request))
    return call


def test_what_needs_one_another_is_made_one_after_another_and_the_rest_at_once():
    cluster, made = Cluster(), golden.manifests("plain")
    head = create(cluster, made, golden.GIVEN)
    kinds = {kind for kind, _ in cluster.objects}
    assert kinds == {"Secret", "PersistentVolumeClaim", "Job", "Service", "NetworkPolicy"}
    first, second = (at for at, told in enumerate(cluster.log) if told[::2] == ("begin", "Job"))
    ended = {kind: at for at, (what, _, kind) in enumerate(cluster.log) if what == "end"}
    assert max(ended["Secret"], ended["PersistentVolumeClaim"]) < first
    assert first < max(ended["Service"], ended["NetworkPolicy"]) < second  # no worker without them
    for (kind, _), found in cluster.objects.items():
        owners = [o["uid"] for o in found["metadata"].get("ownerReferences", ())]
        is_free = kind == "PersistentVolumeClaim" or found is head
        assert owners == ([] if is_free else [head["metadata"]["uid"]])


@pytest.mark.parametrize("kind", ["Secret", "PersistentVolumeClaim", "Service", "NetworkPolicy"])
def test_what_is_refused_leaves_nothing_of_what_is_made_at_the_same_time(start, kind):
    cluster = Cluster(refuses=kind)
    with pytest.raises(ApiError, match=f"no {kind} here"):
        start(cluster)
    assert ("begin", kind) in {(what, k) for what, _, k in cluster.log}
    assert cluster.objects == {}


def test_an_image_that_does_not_fit_is_refused_before_anything_is_made(start, monkeypatch):
    def refuse(image):
        raise ImageDoesNotFit(f"{image} has another Python", "Take another one.")

    monkeypatch.setattr(backend_module, "check_known", refuse)
    cluster = Cluster()
    with pytest.raises(ImageDoesNotFit, match="another Python"):
        start(cluster)
    assert cluster.log == []
    assert cluster.objects == {}


def test_calls_at_once_give_their_results_in_order_and_the_first_error():
    meeting = threading.Barrier(3, timeout=20)
    done = []

    def call(number, error=None):
        def made():
            meeting.wait()
            if error is not None:
                raise error
            done.append(number)
            return number

        return made

    assert together(call(1), call(2), call(3)) == [1, 2, 3]
    assert together() == []
    done.clear()
    with pytest.raises(ValueError, match="second"):
        together(call(1), call(2, ValueError("second")), call(3, KeyError("third")))
    assert done == [1]
