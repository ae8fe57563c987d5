"""Whole runs on a cluster: what they give, what they need, and what they leave where they fail."""

from __future__ import annotations

import time

import numpy as np
import pytest
import yaml

import nbtrain
from nbtrain import backends, run
from nbtrain.backends.kubernetes import preflight
from nbtrain.backends.kubernetes.client import Client
from nbtrain.errors import RehearsalFailed, RunFailed
from nbtrain.runtime.events import Progress

from . import cluster as test_cluster
from . import places, programs
from .harness import launch, until, variables
from .kubernetes_pods import Connections, listing, python_image, user_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

BASIC = {
    "model": programs.model,
    "dataset": programs.dataset,
    "validation": programs.validation,
}


@pytest.fixture
def place(request, nbtrain_home):
    opened = places.open_place("kubernetes", request.getfixturevalue)
    with opened as found, places.left_as_found(found):
        yield found


def train(place, **options):
    """Start a run as a user does."""
    given = {**place.fields, **place.fields["container"], "live": False, **options}
    del given["container"]
    return nbtrain.train(programs.model, given.pop("dataset", programs.dataset), **given)


# -- what they give -------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_pods_give_bit_by_bit_what_processes_give_and_one_watch_sees_them_all(
    place, monkeypatch, workers
):
    here = launch(BASIC, workers=workers)
    connections = Connections(monkeypatch)
    there = launch(BASIC, workers=workers, **place.fields)
    for ours, theirs in zip(variables(there), variables(here), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert there.history.history == here.history.history
    # However many workers there are.
    once = ("watch jobs", "watch pods", "watch events", "events.jsonl")
    assert connections.most == dict.fromkeys(once, 1)


# -- what they need -------------------------------------------------------------------------------


def test_the_role_that_the_doctor_asks_for_is_all_that_a_run_needs(place, monkeypatch):
    """Not even the wishes: no look at the pods beforehand, and files come by exec."""
    namespace = place.client.namespace
    before = listing(namespace)
    monkeypatch.setenv("KUBECONFIG", str(test_cluster.kubeconfig()))
    role = yaml.safe_load(preflight.role_yaml(namespace, preflight.RIGHTS))
    with user_of(Client(namespace=namespace), role["rules"]) as kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        in_a_fresh_kernel(monkeypatch)
        assert preflight.rights(Client(namespace=namespace)).state == "ok"
        wishes = preflight.missing_rights(Client(namespace=namespace), preflight.WISHES)
        assert wishes == preflight.WISHES
        name, slow = "limited", programs.slow_without_python
        started = train(place, name=name, dataset=slow, workers=2, epochs=1000, rehearse=False)
        next(event for event in started.watch() if isinstance(event, Progress) and event.epoch)
        in_a_fresh_kernel(monkeypatch)
        attached = nbtrain.attach(name)
        assert attached is not started
        assert attached.stop().status == "stopped"
        assert attached.model.count_params()
        assert attached.history.epoch
        assert attached.logs(1) == "".join(attached.follow_logs(1))
        attached.delete()
        assert listing(namespace) == before


def in_a_fresh_kernel(monkeypatch):
    """Forget what this process knows of runs and clusters."""
    monkeypatch.setattr(run, "_here", {})
    backends.get.cache_clear()


# -- what they leave ------------------------------------------------------------------------------


def test_an_image_that_is_not_there_fails_the_run_at_once_and_says_whose(place):
    before = listing(place.client.namespace)
    missing = python_image() + "-of-nobody"
    began = time.monotonic()
    failed = train(place, name="missing", image=missing, rehearse=False)
    with pytest.raises(RunFailed, match=f"there is no image {missing}") as raised:
        failed.wait(60).check()
    assert time.monotonic() - began < 60
    assert raised.value.cause == "placement"
    assert str(raised.value).startswith(("the head: ", "worker 0: ", "worker 1: "))
    assert "--image" in str(raised.value)
    until(lambda: not place.client.find("Pod")["items"])
    failed.delete()
    assert listing(place.client.namespace) == before


def test_a_mistake_is_found_before_there_is_anything_on_the_cluster(place, monkeypatch):
    before = listing(place.client.namespace)
    made = []
    create = Client.create

    def noted(client, manifest, *, dry_run=False):
        # A review of what one may do is a question in the form of an object.
        if not dry_run and not manifest["kind"].endswith("Review"):
            made.append(manifest["kind"])
        return create(client, manifest, dry_run=dry_run)

    monkeypatch.setattr(Client, "create", noted)
    failed = train(place, name="mistaken", dataset=programs.raises)
    with pytest.raises(RehearsalFailed, match="the file of the data is empty"):
        failed.wait().check()
    assert made == []
    assert listing(place.client.namespace) == before
