"""What keeps a run from a cluster is said before anything is made there."""

from __future__ import annotations

import contextlib
import threading
from decimal import Decimal

import pytest
import yaml

from nbtrain.backends.kubernetes import names, preflight
from nbtrain.backends.kubernetes.backend import KubernetesBackend, remove
from nbtrain.backends.kubernetes.client import Client
from nbtrain.backends.kubernetes.errors import AlreadyExists, ApiError, NotFound, refused
from nbtrain.backends.kubernetes.quota import amount, of_pod, of_run, shortages
from nbtrain.errors import BackendError, NameInUse
from nbtrain.request import make_request

from . import cluster as test_cluster
from .cluster.objects import STORAGE_CLASS
from .harness import until
from .kubernetes_pods import listing, manifests, user_with

EVERYTHING = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}


def asked_for(**options):
    return make_request("digits", {"cpu": "500m", "memory": "1Gi", "seed": 1, **options})


# -- quotas ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [("2", "2"), ("500m", "0.5"), ("1Ki", "1024"), ("1.5G", "1500000000"), ("1e3", "1000"),
     ("2E", "2000000000000000000"), (3, "3")],
)  # fmt: skip
def test_quantities_are_read_as_kubernetes_writes_them(text, number):
    assert amount(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "x", "1Q", "mi", "1 Gi"])
def test_what_is_no_quantity_is_refused(text):
    with pytest.raises((ValueError, ArithmeticError)):
        amount(text)


def test_a_pod_takes_what_its_containers_take_together_or_the_first_ones_alone():
    def container(cpu, **limits):
        return {"resources": {"requests": {"cpu": cpu}, "limits": limits}}

    found = of_pod({
        "initContainers": [container("3"), container("1", memory="4Gi")],
        "containers": [container("1"), container("500m", memory="1Gi")],
    })  # fmt: skip
    assert found["requests.cpu"] == found["cpu"] == 3
    assert found["limits.memory"] == 4 * 2**30
    assert found["requests.memory"] == 4 * 2**30  # what is limited is asked for, too
    assert found["pods"] == 1


def test_a_run_takes_what_its_head_and_all_workers_take():
    found = of_run(manifests("a", workers=3, cpu="2", memory="1Gi", gpus=1))
    assert found["requests.cpu"] == Decimal("6.1")
    assert found["limits.memory"] == 3 * 2**30 + 256 * 2**20
    assert found["requests.nvidia.com/gpu"] == 3
    assert found["pods"] == 4


def a_quota(hard, used=None, **spec):
    status = {"hard": hard, "used": used or {}}
    return {"metadata": {"name": "small", "labels": {}}, "spec": spec, "status": status}


def test_what_a_quota_lacks_is_said_in_its_own_names():
    needed = {"requests.cpu": Decimal("4.1"), "requests.memory": Decimal(5 * 2**30)}
    quota = a_quota({"requests.cpu": "4", "requests.memory": "8Gi"}, {"requests.cpu": "500m"})
    assert shortages([quota], needed, {}) == [
        "small has 3.5 of 4 requests.cpu left, and 4.1 are needed"
    ]
    assert shortages([quota], needed, {"requests.cpu": Decimal("0.5")}) == [
        "small has 4 of 4 requests.cpu left, and 4.1 are needed"
    ]
    assert shortages([a_quota({"requests.cpu": "5"})], needed, {}) == []
    full = a_quota({"requests.memory": "8Gi"}, {"requests.memory": "5Gi"})
    assert shortages([full], needed, {}) == [
        "small has 3Gi of 8Gi requests.memory left, and 5Gi are needed"
    ]


def test_a_quota_for_some_pods_only_is_left_to_the_cluster():
    needed = {"pods": Decimal(3)}
    assert shortages([a_quota({"pods": "1"}, scopes=["BestEffort"])], needed, {}) == []
    assert shortages([a_quota({"pods": "1"})], needed, {}) != []


# -- rights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "kind", "gives"),
    [
        (EVERYTHING, "Pod/exec", True),
        ({**EVERYTHING, "apiGroups": [""]}, "Pod", True),
        ({**EVERYTHING, "apiGroups": ["batch"]}, "Pod", False),
        ({**EVERYTHING, "resources": ["pods"]}, "Pod", True),
        ({**EVERYTHING, "resources": ["pods"]}, "Pod/exec", False),
        ({**EVERYTHING, "resources": ["pods/exec"]}, "Pod/exec", True),
        ({**EVERYTHING, "resources": ["*/exec"]}, "Pod/exec", True),
        ({**EVERYTHING, "verbs": ["get"]}, "Pod", False),
        ({**EVERYTHING, "resourceNames": ["one"]}, "Pod", False),
        ({"verbs": ["*"], "nonResourceURLs": ["*"]}, "Pod", False),
    ],
)
def test_a_rule_gives_what_kubernetes_takes_it_to_give(rule, kind, gives):
    assert preflight._gives(rule, kind, "create") is gives


# -- a start, on a cluster that answers as it is told ----------------------------------------------


class Cluster:
    """What a cluster holds and refuses, and what was made there."""

    context, namespace, host = "production", "ml", "https://there"

    def __init__(self):
        self.objects = {}
        self.made = []
        self.refuses = {}  # what is created, by kind, with whether it is a dry run
        self.rules = [EVERYTHING]
        self.allowed = False
        self.default_class = "standard"
        self.before = lambda what: None
        self.add("Namespace", "ml")

    def add(self, kind, name, **content):
        self.objects[kind, name] = {"metadata": {"name": name}, **content}

    def get(self, kind, name):
        self.before(kind)
        if (kind, name) not in self.objects:
            raise NotFound(f"{kind} {name} not found")
        return self.objects[kind, name]

    def find(self, kind, *, labels="", fields=""):
        self.before(kind)
        wanted = dict(pair.split("=") for pair in labels.split(",") if pair)
        items = [item for (of, _), item in self.objects.items() if of == kind]
        found = [i for i in items if wanted.items() <= i["metadata"].get("labels", {}).items()]
        return {"items": found}

    def create(self, manifest, *, dry_run=False):
        kind, name = manifest["kind"], manifest.get("metadata", {}).get("name", "")
        self.before(kind)
        if kind == "SelfSubjectRulesReview":
            return {"status": {"resourceRules": self.rules, "incomplete": True}}
        if kind == "SelfSubjectAccessReview":
            return {"status": {"allowed": self.allowed}}
        if (kind, dry_run) in self.refuses:
            raise self.refuses[kind, dry_run]
        if (kind, name) in self.objects:
            raise AlreadyExists(f"{kind} {name} exists")
        made = {**manifest, "metadata": {"uid": name, **manifest["metadata"]}}
        if kind == "PersistentVolumeClaim" and self.default_class:
            made["spec"] = {"storageClassName": self.default_class, **made["spec"]}
        if not dry_run:
            self.made.append(kind)
            self.objects[kind, name] = made
        return made

    def patch(self, kind, name, change):
        return self.objects[kind, name]

    def delete(self, kind, name, *, grace_s=None):
        self.objects.pop((kind, name), None)

    def left(self):
        return sorted(kind for kind, _ in self.objects if kind != "Namespace")


@pytest.fixture
def there(nbtrain_home, monkeypatch):
    monkeypatch.setattr(preflight, "SETTLE_S", 0.05)
    monkeypatch.setattr(preflight, "LOOK_S", 0.01)
    return Cluster()


@pytest.fixture
def start(there, tmp_path, monkeypatch):
    payload = tmp_path / "payload.bin"
    payload.write_bytes(b"functions")
    backend = KubernetesBackend()
    monkeypatch.setattr(backend._places, "client", lambda container: there)

    def begin(request=None, **options):
        return backend.start(request or asked_for(**options), payload)

    begin.backend = backend
    return begin


FORBIDDEN = refused(
    403,
    b'{"reason": "Forbidden", "message": "pods \\"a\\" is forbidden: violates PodSecurity x"}',
)


def lacks_namespace(there):
    del there.objects["Namespace", "ml"]


def lacks_rights(there):
    there.rules = [{**EVERYTHING, "resources": ["pods", "pods/exec", "secrets"]}]


def has_small_quota(there):
    there.objects["ResourceQuota", "small"] = a_quota({"requests.cpu": "2"})


def has_small_quota_for_volumes(there):
    there.refuses["PersistentVolumeClaim", True] = refused(
        403, b'{"message": "x is forbidden: exceeded quota: small, requested: requests.storage=1"}'
    )


def admits_no_pods(there):
    there.refuses["Pod", True] = FORBIDDEN


@pytest.mark.parametrize(
    ("change", "options", "words", "fix"),
    [
        (lacks_namespace, {}, "there is no namespace ml", "kubectl create namespace ml"),
        (lacks_rights, {}, "you lack rights in ml: create Job, get Job", "kind: Role"),
        (lambda _: None, {"storage_class": "fast"}, "there is no storage class fast",
         "kubectl get storageclass"),
        (has_small_quota, {"workers": 4},
         "no room for a head and 4 workers: small has 2 of 2 requests.cpu left, and 2.1 are needed",
         "--workers"),
        (has_small_quota_for_volumes, {}, "quota small has no room for this", "--cpu"),
        (admits_no_pods, {}, "does not admit these pods", "--pod-template"),
    ],
)  # fmt: skip
def test_what_is_in_the_way_is_said_before_anything_is_made(
    there, start, change, options, words, fix
):
    change(there)
    with pytest.raises(BackendError) as caught:
        start(**options)
    assert words in caught.value.message
    assert fix in caught.value.fix
    assert there.made == []
    with pytest.raises(BackendError, match=caught.value.message.split(":")[0]):
        start.backend.check(asked_for(**options))


def test_a_namespace_that_is_not_there_is_said_first(there, start):
    for change in (admits_no_pods, has_small_quota, lacks_rights, lacks_namespace):
        change(there)
    with pytest.raises(BackendError, match="there is no namespace ml"):
        start(workers=4)


def test_a_list_of_rights_need_not_be_complete(there, start):
    """As where the cloud itself, and no Role, says who may do what."""
    there.rules, there.allowed = [], True
    start()
    assert "Job" in there.made


def test_all_is_asked_at_the_same_time(there, start):
    together = threading.Barrier(3, timeout=30)
    waits = {"Namespace", "SelfSubjectRulesReview", "PersistentVolumeClaim"}

    def before(kind):
        if kind in waits:
            waits.discard(kind)
            together.wait()

    there.before = before
    start()
    assert not waits


def test_what_a_run_of_the_same_name_holds_is_room_for_the_next(there, start):
    """So that --replace, and going on with a run, need no room for two."""
    has_small_quota(there)
    there.objects["ResourceQuota", "small"]["status"]["used"] = {"requests.cpu": "1"}
    start(workers=1)
    with pytest.raises(BackendError, match="no room"):
        start(workers=3)
    own = manifests("a", cpu="1").workers()["metadata"]["labels"]
    container = {"resources": {"requests": {"cpu": "1"}}}
    there.add("Pod", "other", spec={"containers": [container]}, status={"phase": "Running"})
    there.objects["Pod", "other"]["metadata"]["labels"] = {**own, "nbtrain/user": "somebody"}
    with pytest.raises(BackendError, match="no room"):
        start(workers=3)
    labels = {**own, "nbtrain/user": names.user()}
    there.objects["Pod", "other"]["metadata"]["labels"] = labels
    assert start(workers=3).live


def test_what_is_counted_still_is_waited_for(there, start, monkeypatch):
    monkeypatch.setattr(preflight, "SETTLE_S", 30.0)
    has_small_quota(there)
    status = there.objects["ResourceQuota", "small"]["status"]
    status["used"] = {"requests.cpu": "2"}
    looks = []

    def before(kind):
        looks.append(kind)
        if looks.count("ResourceQuota") == 3:
            status["used"] = {}

    there.before = before
    assert start(workers=2).live


def test_a_start_that_is_refused_midway_leaves_nothing(there, start):
    there.refuses["NetworkPolicy", False] = ApiError("no", status=403)
    with pytest.raises(ApiError):
        start()
    assert "PersistentVolumeClaim" in there.made
    assert there.left() == []


def test_a_start_that_is_refused_midway_leaves_a_volume_that_was_there(there, start):
    """A run that is gone on with is on it; a quota may refuse its claim a second time."""
    request = asked_for()
    start(request)
    remove(there, f"nbtrain/run={request.id}", keep_volume=True)
    assert there.left() == ["PersistentVolumeClaim"]
    there.refuses["NetworkPolicy", False] = ApiError("no", status=403)
    for refuses in ({}, {("PersistentVolumeClaim", d): FORBIDDEN for d in (True, False)}):
        there.refuses.update(refuses)
        with pytest.raises(ApiError, match="no"):
            start(request)
        assert there.left() == ["PersistentVolumeClaim"]
    del there.refuses["NetworkPolicy", False]
    assert start(request).id == request.id


def test_a_run_that_is_at_work_is_said_to_be(there, start):
    request = asked_for()
    start(request)
    before = there.left()
    with pytest.raises(NameInUse, match="at work already"):
        start(request)
    assert there.left() == before


def test_results_without_a_volume_are_said(there, start):
    assert start().warnings == ()
    assert start(storage="none").warnings == ()
    there.default_class = ""
    (said,) = start().warnings
    assert "no default storage class" in said
    assert "--storage-class" in said
    assert there.made.count("PersistentVolumeClaim") == 1
    assert start(storage="none").warnings == ()


# -- on a cluster ---------------------------------------------------------------------------------


@pytest.fixture
def admin(namespace, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(test_cluster.kubeconfig()))
    return Client(namespace=namespace)


@pytest.fixture
def real(nbtrain_home, admin, monkeypatch, tmp_path):
    """A start on the cluster, by whoever the client is of; its pods would run what is nowhere."""
    payload = tmp_path / "payload.bin"
    payload.write_bytes(b"functions")
    backend = KubernetesBackend()

    def begin(client=admin, **options):
        monkeypatch.setattr(backend._places, "client", lambda container: client)
        return backend.start(asked_for(image="registry.invalid/a:1", **options), payload)

    begin.backend = backend
    return begin


@contextlib.contextmanager
def limited_by(client, **hard):
    """Have a quota in the namespace that counts already."""
    path = client.path("ResourceQuota")
    quota = {"metadata": {"name": "small"}, "spec": {"hard": hard}}
    client.call("POST", path, body=quota)
    try:
        until(lambda: client.get("ResourceQuota", "small")["status"].get("hard") == hard, 30)
        yield
    finally:
        client.call("DELETE", f"{path}/small")


def refusal(start, client, *arguments, **options):
    """Return what a start is refused with, which leaves the namespace as it was."""
    before = listing(client.namespace)
    with pytest.raises(BackendError) as caught:
        start(*arguments, **options)
    assert listing(client.namespace) == before
    assert caught.value.fix
    return caught.value


@pytest.mark.cluster
def test_a_namespace_that_the_cluster_has_not(real, admin):
    error = refusal(real, admin, Client(namespace="nowhere"))
    assert error.message == "there is no namespace nowhere."
    assert "kubectl create namespace nowhere" in error.fix
    assert listing("nowhere") == set()


@pytest.mark.cluster
def test_rights_that_the_cluster_does_not_give_are_the_role_to_ask_for(real, admin, monkeypatch):
    with user_with(admin, monkeypatch, [("pods", "get")]) as limited:
        error = refusal(real, admin, limited)
    assert "create Job" in error.message
    role = yaml.safe_load(error.fix.partition("\n")[2])
    verbs = {rule["resources"][0]: rule["verbs"] for rule in role["rules"]}
    assert verbs["pods"] == ["list", "watch", "delete"]
    assert verbs["jobs"] == list(preflight.RIGHTS["Job"])
    assert "events" not in verbs


@pytest.mark.cluster
def test_a_storage_class_that_the_cluster_has_not(real, admin):
    error = refusal(real, admin, storage_class="nothing")
    assert error.message == "there is no storage class nothing."


@pytest.mark.cluster
def test_a_quota_with_room_for_one_pod_after_the_other_but_not_for_all(real, admin):
    with limited_by(admin, **{"requests.cpu": "1", "pods": "10"}):
        error = refusal(real, admin, workers=4)
        assert "small has 1 of 1 requests.cpu left, and 2.1 are needed" in error.message
        ref = real(workers=1)
        real.backend.delete(ref)


@pytest.mark.cluster
def test_a_quota_without_room_for_the_volume(real, admin):
    with limited_by(admin, **{"requests.storage": "1Gi"}):
        error = refusal(real, admin, storage="2Gi")
    assert "quota small has no room for this" in error.message


@pytest.mark.cluster
def test_what_the_cluster_refuses_midway_leaves_nothing_there(real, admin):
    """The workers' Job is the last thing that is made."""
    with limited_by(admin, **{"count/jobs.batch": "1"}):
        error = refusal(real, admin)
    assert "count/jobs.batch=1" in error.message


@pytest.mark.cluster
def test_a_cluster_without_a_default_storage_class_by_somebody_who_may_not_look(
    real, admin, breakable, monkeypatch
):
    def is_default(value):
        mark = {"storageclass.kubernetes.io/is-default-class": value}
        admin.patch("StorageClass", STORAGE_CLASS, {"metadata": {"annotations": mark}})

    monkeypatch.setenv("KUBECONFIG", str(test_cluster.kubeconfig("user")))
    somebody = Client(namespace=admin.namespace)
    with pytest.raises(ApiError, match="you lack a right"):
        somebody.find("StorageClass")
    is_default("false")
    try:
        ref = real(somebody)
    finally:
        is_default("true")
    try:
        assert "no default storage class" in ref.warnings[0]
        assert not admin.find("PersistentVolumeClaim")["items"]
    finally:
        real.backend.delete(ref)
