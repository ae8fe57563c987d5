"""What a real cluster says of a run: at once, in words, and through everything that breaks."""

from __future__ import annotations

import queue
import threading
from itertools import pairwise

import pytest

from nbtrain.backends.kubernetes import names
from nbtrain.backends.kubernetes.backend import check_pods, create, remove
from nbtrain.backends.kubernetes.client import Client, hang_up
from nbtrain.backends.kubernetes.errors import ApiError
from nbtrain.backends.kubernetes.manifests import Given
from nbtrain.backends.kubernetes.watch import Mirror, RunWatch
from nbtrain.payload import runtime_zip

from . import cluster as test_cluster
from . import golden
from .harness import until
from .kubernetes_pods import manifests, needs_own_cluster, python_image

pytestmark = pytest.mark.cluster


@pytest.fixture
def client(namespace, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(test_cluster.kubeconfig("user")))
    return Client(namespace=namespace)


@pytest.fixture
def admin(namespace, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(test_cluster.kubeconfig()))
    return Client(namespace=namespace)


class Watching:
    """The placements of a run, collected by a thread."""

    def __init__(self, client, made):
        self.made, self.client = made, client
        self.seen, self.error = [], None
        create(client, made, Given(runtime_zip().read_bytes(), "token", b"{}"))
        self.watch = RunWatch(client, made.request.id, made.base)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        for placement in self.watch.placements():
            self.seen.append(placement)

    def said(self, words, worker="any"):
        return [p for p in list(self.seen) if words in p.reason and worker in ("any", p.worker)]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        remove(self.client, names.selector({names.RUN: self.made.request.id}))
        self.thread.join(20)
        assert not self.thread.is_alive()  # its objects are gone: the run has ended
        assert not [t for t in threading.enumerate() if t.name.startswith("nbtrain-watch")]


# -- what the API server takes --------------------------------------------------------------------


def quota_and_limits(client):
    """Make a namespace in which every pod must say what it needs."""
    hard = {"requests.cpu": "16", "limits.cpu": "32", "requests.memory": "64Gi",
            "limits.memory": "64Gi", "requests.ephemeral-storage": "200Gi",
            "limits.ephemeral-storage": "200Gi", "pods": "20"}  # fmt: skip
    limit = {"type": "Container", "max": {"cpu": "4", "memory": "8Gi"}}
    for kind, spec in (("ResourceQuota", {"hard": hard}), ("LimitRange", {"limits": [limit]})):
        client.create({"apiVersion": "v1", "kind": kind, "metadata": {"name": "all"}, "spec": spec})


@pytest.mark.parametrize("case", golden.CASES)
def test_every_manifest_is_taken_by_the_api_server(client, admin, case):
    quota_and_limits(admin)
    made = golden.manifests(case)
    try:
        for manifest in [*made.all(golden.GIVEN), made.server()]:
            client.create(manifest, dry_run=True)
        if case != "everything":  # its ServiceAccount and PriorityClass are not there
            check_pods(client, made)
    finally:
        admin.delete("ResourceQuota", "all")
        admin.delete("LimitRange", "all")


def test_what_the_namespace_does_not_admit_is_known_before_anything_is_made(client):
    template = {"spec": {"hostNetwork": True}}
    with pytest.raises(ApiError, match="Pod Security level does not admit"):
        check_pods(client, manifests("a", pod_template=template))
    with pytest.raises(ApiError, match="serviceaccount"):
        check_pods(client, manifests("a", service_account="nobody"))


# -- pods that can't start ------------------------------------------------------------------------


def test_a_pod_that_no_node_has_room_for(client):
    with Watching(client, manifests(python_image(), cpu="900", storage="none")) as watching:
        (first, *_) = until(lambda: watching.said("Insufficient cpu", 1), 20)
        assert first.phase == "pending"
        assert "--cpu" in first.fix


def test_an_image_that_is_not_there_ends_the_waiting_within_seconds(client):
    missing = python_image() + "-of-nobody"
    with Watching(client, manifests(missing, storage="none")) as watching:
        (first, *_) = until(lambda: watching.said("there is no image", 0), 20)
        assert first.stuck
        assert missing in first.reason


def test_a_secret_that_is_not_there(client):
    made = manifests(python_image(), secret="nothing", storage="none")
    with Watching(client, made) as watching:
        (first, *_) = until(lambda: watching.said("there is no secret nothing", 1), 20)
        assert first.stuck


def test_pods_over_the_quota_are_told_from_events(client, admin):
    admin.create({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"},
        "spec": {"hard": {"requests.memory": "300Mi"}},
    })  # fmt: skip
    try:
        made = manifests(python_image(), storage="none", memory="128Mi")
        with Watching(client, made) as watching:
            (first, *_) = until(lambda: watching.said("quota small has no room"), 20)
            assert first.worker in (0, 1)
            assert "--memory" in first.fix
    finally:
        admin.delete("ResourceQuota", "small")


def test_a_pod_out_of_memory_says_so(client):
    script = "x = bytearray(500 * 2**20); import time; time.sleep(60)"
    template = {"spec": {"containers": [
        {"name": "worker", "command": ["python3", "-c", script], "args": []}]}}  # fmt: skip
    made = manifests(python_image(), storage="none", memory="64Mi", pod_template=template)
    with Watching(client, made) as watching:
        (first, *_) = until(lambda: watching.said("out of memory (it has 64Mi)"), 40)
        assert "--memory" in first.fix


# -- watches that break off -----------------------------------------------------------------------


class Counting:
    """A mirror of ConfigMaps, and how often each was seen to come."""

    def __init__(self, client):
        self.changed = queue.SimpleQueue()
        self.mirror = Mirror(client, "ConfigMap", self.changed, prefix="m-")
        self.mirror.start()
        until(self.mirror.listed.is_set)

    def names(self):
        return sorted(o["metadata"]["name"] for o in self.mirror.objects.values())


@pytest.fixture
def counting(admin):
    found = Counting(admin)
    yield found
    found.mirror.stop()
    for item in admin.find("ConfigMap")["items"]:
        if item["metadata"]["name"].startswith("m-"):
            admin.delete("ConfigMap", item["metadata"]["name"])


def make(client, name):
    client.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})


def test_a_watch_goes_on_after_its_connection_was_dropped(counting, admin):
    make(admin, "m-1")
    until(lambda: counting.names() == ["m-1"])
    hang_up(counting.mirror._response)
    make(admin, "m-2")
    admin.delete("ConfigMap", "m-1")
    until(lambda: counting.names() == ["m-2"])


def test_a_watch_goes_on_after_the_api_server_was_away(counting, admin):
    needs_own_cluster()
    make(admin, "m-1")
    until(lambda: counting.names() == ["m-1"])
    test_cluster.restart_apiserver()
    make(admin, "m-2")
    until(lambda: counting.names() == ["m-1", "m-2"], 60)


def test_what_happened_before_a_compaction_is_not_lost(counting, admin, monkeypatch):
    needs_own_cluster()
    make(admin, "m-1")
    until(lambda: counting.names() == ["m-1"])
    lists = []
    find = admin.find
    monkeypatch.setattr(admin, "find", lambda *a, **k: (lists.append(a), find(*a, **k))[1])
    # As if it had been away since long ago: the version to go on from is forgotten.
    with monkeypatch.context() as patch:
        patch.setattr(counting.mirror, "_watch", _from_the_first_version(counting.mirror))
        hang_up(counting.mirror._response)
        make(admin, "m-2")
        test_cluster.compact()
        admin.delete("ConfigMap", "m-1")
        until(lambda: lists, 60)
    until(lambda: counting.names() == ["m-2"], 60)


def _from_the_first_version(mirror):
    watch = type(mirror)._watch
    first = iter(["1"])
    return lambda since: watch(mirror, next(first, since))


@pytest.fixture
def taken(monkeypatch):
    """All changes that mirrors are told, as kind, object and version."""
    told = []
    take = Mirror._take

    def noted(mirror, change, item):
        if change != "BOOKMARK":
            about = item["metadata"]
            told.append((mirror.kind, about["uid"], about["resourceVersion"], change))
        take(mirror, change, item)

    monkeypatch.setattr(Mirror, "_take", noted)
    return told


def test_nothing_of_a_run_is_lost_or_doubled_by_cut_connections_and_forgotten_versions(
    client, admin, taken, monkeypatch
):
    """Of Jobs, pods and Events alike; what happens meanwhile is seen, once."""
    needs_own_cluster()
    made = manifests(python_image(), cpu="900", storage="none")
    with Watching(client, made) as watching:
        until(lambda: watching.said("Insufficient cpu", 1), 20)
        mirrors = [watching.watch._jobs, watching.watch._pods, watching.watch._events]
        for mirror in mirrors:
            hang_up(mirror._response)
        something_happens(admin, made, 0)
        until(lambda: all(is_up_to_date(mirror, admin) for mirror in mirrors))
        assert len({seen[:3] for seen in taken}) == len(taken)

        listed = []
        find = client.find
        monkeypatch.setattr(client, "find", lambda *a, **k: (listed.append(a[0]), find(*a, **k))[1])
        for mirror in mirrors:
            monkeypatch.setattr(mirror, "_watch", _from_the_first_version(mirror))
        test_cluster.compact()
        for mirror in mirrors:
            hang_up(mirror._response)
        something_happens(admin, made, 1)
        until(lambda: {"Job", "Pod", "Event"} <= set(listed))
        until(lambda: all(is_up_to_date(mirror, admin) for mirror in mirrors))
        assert len({seen[:3] for seen in taken}) == len(taken)
        said = [(p.worker, p) for p in watching.seen]
    for worker in (None, 0, 1):
        told = [placement for who, placement in said if who == worker]
        assert told
        assert all(one != next_ for one, next_ in pairwise(told))


def something_happens(admin, made, worker):
    """Change a Job, delete a worker's pod and tell an Event of the run."""
    admin.patch("Job", f"{made.base}-worker", {"metadata": {"annotations": {"n": str(worker)}}})
    (pod,) = [
        pod["metadata"]["name"]
        for pod in admin.find("Pod", labels="nbtrain/role=worker")["items"]
        if pod["metadata"]["labels"][names.INDEX] == str(worker)
    ]
    admin.delete("Pod", pod, grace_s=0)
    admin.create({
        "apiVersion": "v1", "kind": "Event", "reason": "Noted", "message": "by the test",
        "metadata": {"name": f"{made.base}-{worker}"},
        "involvedObject": {"kind": "Job", "name": f"{made.base}-worker",
                           "namespace": admin.namespace},
    })  # fmt: skip


def is_up_to_date(mirror, admin):
    """Tell whether a mirror has what there is, in the version that there is."""
    there = admin.find(mirror.kind, labels=mirror._labels)["items"]
    expected = {(item["metadata"]["uid"], item["metadata"]["resourceVersion"]) for item in there}
    mirrored = mirror.objects.values()
    return expected == {(m["metadata"]["uid"], m["metadata"]["resourceVersion"]) for m in mirrored}


def test_a_watch_is_ended_while_much_happens(admin):
    """What comes in at that moment must not be taken for anything (it would be ciphertext)."""
    over = threading.Event()

    def churn():
        while not over.is_set():
            make(admin, "m-churn")
            admin.delete("ConfigMap", "m-churn")

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(60):
            Counting(admin).mirror.stop()
    finally:
        over.set()
        thread.join()
