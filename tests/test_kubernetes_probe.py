"""`nbtrain doctor --probe`: what pods find out, and that nothing of them is left."""

from __future__ import annotations

import contextlib
import json
import socket

import pytest

from nbtrain import doctor
from nbtrain.backends.kubernetes import names, preflight, probe
from nbtrain.backends.kubernetes.client import Client
from nbtrain.backends.kubernetes.errors import ApiError
from nbtrain.backends.kubernetes.settings import PodSettings
from nbtrain.payload import versions
from nbtrain.runtime import probe as inside

from . import cluster as test_cluster
from .cluster import objects
from .docker_image import base_image
from .harness import until
from .kubernetes_pods import listing, python_image

REACHED, REFUSED = {"ip": "10.0.0.1", "problem": ""}, {"ip": "10.0.0.1", "problem": "timed out"}


@pytest.fixture
def client(namespace, monkeypatch, tmp_path):
    monkeypatch.setenv("NBTRAIN_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("KUBECONFIG", str(test_cluster.kubeconfig("user")))
    return Client(namespace=namespace)


def request(**options):
    small = {"cpu": "100m", "memory": "256Mi"}
    return preflight.example({**small, **options}, versions())


def found(client, tell=lambda _: None, **options):
    return {check.name: check for check in probe.checks(client, request(**options), tell)}


# -- in a pod -------------------------------------------------------------------------------------


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_pod_tells_what_it_reaches_and_which_versions_it_has(listening, tmp_path):
    result = tmp_path / "message"
    assert inside.main(["connect", listening, "--result", str(result)]) == 0
    told = json.loads(result.read_text())
    assert told["tries"] == [{"ip": "127.0.0.1", "problem": ""}]
    assert told["versions"]["python"] == versions()["python"]


def test_what_is_expected_is_waited_for_and_what_is_not_is_told(listening):
    with socket.socket() as silent:  # has the port, and does not listen
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert "refused" in inside.connect(address, patience_s=0)["problem"]
    assert inside.connect("no.such.name.invalid:1", patience_s=0)["ip"] == ""
    # Where nobody should be reached, being reached is what is told.
    assert inside.connect(listening, expected=False, patience_s=0)["problem"] == ""


def test_a_package_that_does_not_come_is_told_in_one_line(monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    problem = inside.download("no-such-package-of-nbtrain==1")
    assert "no-such-package-of-nbtrain==1" in problem
    assert "\n" not in problem


# -- what is said of it ---------------------------------------------------------------------------


def test_isolation_is_a_fact_with_what_it_means():
    assert probe._enforced(REACHED, REFUSED).state == "ok"
    open_to_all = probe._enforced(REACHED, REACHED)
    assert open_to_all.state == "warning"
    assert "not enforced" in open_to_all.sentence
    assert "no password" in open_to_all.sentence
    assert "Calico" in open_to_all.fix
    # A worker that nobody reaches proves nothing.
    assert "can't be told" in probe._enforced(REFUSED, REFUSED).sentence


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (probe._dns("digits-anna", {"ip": "", "problem": "not known"}), "digits-anna is not known"),
        (probe._network([REACHED, REFUSED], "from a to b"), "another worker (from a to b): timed"),
        (probe._package("keras==3", "no index"), "can't install packages: no index"),
    ],
)
def test_a_failure_is_a_sentence_with_a_fix(check, words):
    assert check.state == "failed"
    assert words in check.sentence
    assert check.fix


def test_the_stranger_is_like_a_worker_but_none_of_the_runs():
    made = probe._Manifests(request(), PodSettings(image="a"), "anna")
    worker, stranger = made.workers(), made.stranger(["connect", "a:1"])
    specs = [job["spec"]["template"]["spec"] for job in (worker, stranger)]
    assert specs[0]["securityContext"] == specs[1]["securityContext"]
    labels = stranger["spec"]["template"]["metadata"]["labels"]
    assert names.RUN not in labels
    assert names.ROLE not in labels
    for job in (made.head(), worker, stranger):  # even where nbtrain is killed, all of it ends
        assert job["spec"]["activeDeadlineSeconds"] == probe.LIFE_S
        assert job["spec"]["ttlSecondsAfterFinished"] == probe.TTL_S


def test_with_something_failed_no_pods_are_started(monkeypatch, tmp_path, capsys):
    bad = preflight.Check("namespace", "failed", "there is no namespace ml.")
    monkeypatch.setenv("NBTRAIN_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setattr("nbtrain.backends.kubernetes.client.Client", lambda *_: None)
    monkeypatch.setattr(preflight, "checks", lambda *_: iter([bad]))
    assert doctor.run({"probe": True}) == 1
    assert "? probe: no pods were started" in capsys.readouterr().out


# -- clusters that the tests have not got ---------------------------------------------------------


class Cluster:
    """Keeps objects, and has a pod for each Job at once: callers have ended and found this out."""

    def __init__(self, tries, refused, versions):
        self.objects, self.deleted = [], []
        self.told = {"tries": tries, "versions": versions}
        self.refused = {"tries": [refused], "versions": versions}

    def create(self, manifest, *, dry_run=False):
        if dry_run:
            return manifest
        made = {**manifest, "metadata": {**manifest["metadata"], "uid": len(self.objects)}}
        self.objects.append(made)
        if made["kind"] == "Job":
            self.objects.append(self._pod(made))
        return made

    def _pod(self, job):
        name, template = job["metadata"]["name"], job["spec"]["template"]
        role = name.rpartition("-")[2]
        status = {"phase": "Running", "podIP": "10.0.0.1"}
        if role in ("caller", "stranger"):
            message = json.dumps(self.told if role == "caller" else self.refused)
            state = {"terminated": {"exitCode": 0, "message": message}}
            status = {
                "phase": "Succeeded",
                "containerStatuses": [{"name": "worker", "state": state}],
            }
        owner = {"ownerReferences": [{"name": name}]}
        metadata = {**template["metadata"], "name": f"{name}-0", "uid": name, **owner}
        spec = {**template["spec"], "nodeName": "node2" if role == "caller" else "node1"}
        return {"kind": "Pod", "metadata": metadata, "spec": spec, "status": status}

    def find(self, kind, *, labels=""):
        wanted = dict(label.split("=") for label in labels.split(",") if label)
        return {
            "items": [
                o
                for o in self.objects
                if o["kind"] == kind and wanted.items() <= o["metadata"]["labels"].items()
            ]
        }

    def patch(self, *_):
        pass

    def delete(self, kind, name, *, grace_s=None):
        self.deleted.append((kind, name, grace_s))
        self.objects = [
            o for o in self.objects if (o["kind"], o["metadata"]["name"]) != (kind, name)
        ]


@pytest.fixture
def looked(monkeypatch):
    """Return a function that probes a cluster of which this is found out; nothing may be left."""

    def look(tries=(REACHED,) * 3, *, refused=REFUSED, fast="", slow="", image="a", found=None):
        fake = Cluster(list(tries), refused, versions() if found is None else found)
        ways = {"by_exec": slow, "works": fast}
        monkeypatch.setattr("nbtrain.backends.kubernetes.backend.has_storage", lambda _: True)
        monkeypatch.setattr(probe._Probe, "_by_exec", lambda *_: _way(ways["by_exec"]))
        monkeypatch.setattr(probe.Proxy, "works", lambda *_: _way(ways["works"]))
        checks = probe.checks(fake, request(image=image), lambda _: None)
        result = {check.name: check for check in checks}
        assert fake.objects == []
        return {name: check.state for name, check in result.items()}, result

    return look


def _way(problem):
    if problem:
        raise ApiError(problem)
    return True


def test_where_policies_are_enforced_all_lines_are_good(looked):
    states, checks = looked()
    assert list(states) == ["start", "proxy", "exec", "python", "dns", "network", "policy"]
    assert set(states.values()) == {"ok"}
    assert "from node2 to node1" in checks["network"].sentence


def test_one_way_to_the_results_is_enough_and_none_is_a_failure(looked):
    for fast, slow, expected in [
        ("no route", "", ("warning", "ok")),
        ("", "forbidden", ("ok", "warning")),
        ("no route", "forbidden", ("failed", "failed")),
    ]:
        states, _ = looked(fast=fast, slow=slow)
        assert (states["proxy"], states["exec"]) == expected


def test_a_network_without_dns_is_told_apart_from_one_that_does_not_connect(looked):
    unknown = {"ip": "", "problem": "Name or service not known"}
    states, _ = looked([unknown, REACHED, REACHED])
    assert (states["dns"], states["network"]) == ("failed", "ok")
    states, checks = looked([REACHED, REACHED, REFUSED])
    assert (states["dns"], states["network"]) == ("ok", "failed")
    assert "can't be told" in checks["policy"].sentence


def test_an_image_of_other_versions_does_not_fit(looked):
    states, checks = looked(found={**versions(), "tensorflow": "1.15.0"})
    assert states["python"] == "failed"
    assert "TensorFlow 1.15.0, not" in checks["python"].sentence


# -- on a cluster ---------------------------------------------------------------------------------


@pytest.fixture
def idle_nodes(namespace):
    """Wait until both nodes take pods, and none of another test is left on them.

    A wish of a pod's is outweighed where the other node is full.
    """

    def others():
        pods = objects.core_api().list_pod_for_all_namespaces().items
        return [pod for pod in pods if pod.metadata.namespace.startswith("t-")]

    until(lambda: len(objects.nodes_ready()) > 1 and not others(), 120)


@pytest.mark.cluster
@pytest.mark.usefixtures("idle_nodes")
def test_where_all_is_well_everything_is_found_and_nothing_left(client, namespace, capsys):
    before = listing(namespace)
    image = test_cluster.push(base_image())
    asked = {"namespace": namespace, "image": image, "cpu": 0.1, "memory": "256Mi", "probe": True}
    assert doctor.run(asked) == 0
    assert listing(namespace) == before
    said = " ".join(capsys.readouterr().out.split())  # lines are broken where they are long
    for line in ("✓ start: pods started on node", "✓ python: ", "✓ dns: ", "✓ network: pods reach",
                 "✓ proxy: ", "✓ exec: ", "… waiting for pods", "… removing the pods"):  # fmt: skip
        assert line in said
    # The two are kept from sharing a node where there are two.
    assert "from node" in said, said
    # The tests' cluster has no controller for NetworkPolicies.
    assert "! policy: NetworkPolicies are not enforced" in said


@pytest.mark.cluster
def test_an_image_that_is_not_there_is_named_and_nothing_left(client, namespace):
    before = listing(namespace)
    image = python_image().rpartition(":")[0] + ":no-such-tag"
    checks = found(client, image=image)
    assert list(checks) == ["start"]
    assert checks["start"].state == "failed"
    assert checks["start"].sentence == f"a pod does not run: there is no image {image}."
    assert "--image" in checks["start"].fix
    assert listing(namespace) == before


@pytest.mark.cluster
def test_an_image_without_tensorflow_does_not_fit(client):
    check = found(client, image=python_image())["python"]
    assert check.state == "failed"
    assert "no TensorFlow" in check.sentence


@pytest.mark.cluster
def test_interrupted_while_pods_start_nothing_is_left(client, namespace):
    before = listing(namespace)

    def interrupt(progress):
        if progress.startswith("waiting"):
            assert listing(namespace) != before
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found(client, interrupt, image=python_image())
    assert listing(namespace) == before


@pytest.mark.cluster
def test_closed_in_the_middle_nothing_is_left(client, namespace):
    before = listing(namespace)
    checks = probe.checks(client, request(image=python_image()), lambda _: None)
    with contextlib.closing(checks):
        assert next(checks).name == "start"
        assert listing(namespace) != before
    assert listing(namespace) == before
