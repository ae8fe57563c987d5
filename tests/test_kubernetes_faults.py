"""What happens to pods changes nothing of the result; and results outlive the head."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import pytest

from nbtrain import magics, payload
from nbtrain.backends.kubernetes import names
from nbtrain.backends.kubernetes.backend import KubernetesBackend, _running_pod
from nbtrain.backends.kubernetes.errors import Unreachable
from nbtrain.backends.kubernetes.watch import finished
from nbtrain.run import runs
from nbtrain.runtime.events import Ended, Failed, Progress, Started
from nbtrain.runtime.rundir import RunDir

from . import cluster, places, programs
from .harness import assert_equal_to_plain, launch, plain, until
from .kubernetes_pods import Connections, listing, python_image

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

BASIC = {
    "model": programs.model,
    "dataset": programs.slow_without_python,
    "validation": programs.validation,
}


@pytest.fixture
def place(request, nbtrain_home):
    with places.open_place("kubernetes", request.getfixturevalue) as found:
        yield found
        for ref in found.backend.runs():
            found.backend.delete(ref)
        assert not found.objects()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return plain(tmp_path_factory.mktemp("plain"), dataset="slow_without_python")


def begun(place, **fields):
    """Return a run in its second epoch."""
    run = launch(BASIC, checkpoint_every="2 steps", **place.fields, **fields)
    next(event for event in run.watch() if isinstance(event, Progress) and event.epoch)
    return run


def delete_pod(place, run, role, index=""):
    labels = f"nbtrain/run={run.id},nbtrain/role={role}"
    for pod in place.client.find("Pod", labels=labels)["items"]:
        if pod["metadata"]["name"].startswith(f"{run_base(run)}-{role}{index}"):
            place.client.delete("Pod", pod["metadata"]["name"], grace_s=0)


def run_base(run):
    return names.base(run.id, names.user())


@pytest.mark.parametrize("worker", [0, 1])
def test_a_deleted_pod_of_a_worker_is_replaced(place, undisturbed, worker):
    run = begun(place)
    delete_pod(place, run, "worker", f"-{worker}")
    assert_equal_to_plain(run, undisturbed)
    assert [e.worker for e in run.events if isinstance(e, Failed)] == [worker]


def test_a_deleted_pod_of_the_head_is_replaced_and_trainers_go_on(place, undisturbed):
    run = begun(place)
    delete_pod(place, run, "head")
    assert_equal_to_plain(run, undisturbed)
    assert not [e for e in run.events if isinstance(e, Failed)]
    assert len([e for e in run.events if isinstance(e, Started)]) == 1


@pytest.mark.usefixtures("breakable")
def test_a_restarted_api_server_costs_no_event_and_doubles_none(place, undisturbed, monkeypatch):
    connections = Connections(monkeypatch)
    asked, told = [], []
    placements = KubernetesBackend.placements

    def noted(backend, run):
        asked.append(run.id)
        for placement in placements(backend, run):
            told.append(placement)
            yield placement

    monkeypatch.setattr(KubernetesBackend, "placements", noted)
    run = begun(place)
    before = connections.ever.copy()
    cluster.restart_apiserver()
    assert_equal_to_plain(run, undisturbed)
    assert not [e for e in run.events if isinstance(e, Failed)]
    # It had been followed through the end of the connection, and not from its beginning again.
    assert connections.ever[RunDir.EVENTS] > before[RunDir.EVENTS]
    assert [event.seq for event in run.events] == list(range(len(run.events)))
    assert isinstance(run.events[-1], Ended)
    written = b"".join(run.read(RunDir.EVENTS)).splitlines()
    assert len(written) == len(run.events)
    assert asked == [run.id]
    for worker in (None, 0, 1):
        of_it = [placement for placement in told if placement.worker == worker]
        assert "running" in {placement.phase for placement in of_it}
        assert all(one != other for one, other in pairwise(of_it))


def nodes(place, run):
    """Return the node of each of the run's pods, by role."""
    pods = place.client.find("Pod", labels=f"nbtrain/run={run.id}")["items"]
    labels = [(pod["metadata"]["labels"], pod["spec"].get("nodeName")) for pod in pods]
    return {(own["nbtrain/role"], own.get(names.INDEX)): node for own, node in labels}


@contextlib.contextmanager
def killed(node):
    """Pull a node's plug, and switch it on again in the end."""
    cluster.kill_node(node)
    try:
        yield
    finally:
        cluster.start_node(node)


@pytest.fixture
def spread(place):
    """The place, where pods of a run keep away from each other's nodes as far as they can."""
    term = {
        "labelSelector": {"matchExpressions": [{"key": names.RUN, "operator": "Exists"}]},
        "topologyKey": "kubernetes.io/hostname",
    }
    wish = {"weight": 100, "podAffinityTerm": term}
    spread = {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}
    template = {"spec": {"affinity": {"podAntiAffinity": spread}}}
    place.fields["container"]["pod_template"] = template
    return place


@pytest.mark.usefixtures("breakable")
@pytest.mark.timeout(500)
def test_a_lost_node_changes_nothing_of_the_result(spread, undisturbed):
    """The worker on it comes up on the other node, and the dead pod keeps nobody waiting."""
    run = begun(spread)
    before = nodes(spread, run)
    node = next(node for node in before.values() if node != before["head", None])
    lost = {int(index) for (_, index), where in before.items() if where == node}
    with killed(node):
        assert_equal_to_plain(run, undisturbed)
        (failed,) = (event for event in run.events if isinstance(event, Failed))
        assert failed.worker in lost
        # The dead pod, whose node never says that it has ended, does not keep the Job from it.
        until(lambda: finished(spread.client.get("Job", f"{run_base(run)}-worker")), 60)
        run.delete()
        assert not spread.objects()


@pytest.mark.usefixtures("breakable")
@pytest.mark.timeout(500)
def test_the_head_on_a_lost_node_is_missed_in_words_and_goes_on_when_it_is_back(
    spread, undisturbed
):
    """Its volume is local to the node, as the cheapest are: no other head can have it."""
    run = begun(spread)
    node = nodes(spread, run)["head", None]
    with killed(node):
        until(lambda: "its volume is on a node that is away" in run.state.head_reason, 120)
        with pytest.raises(Unreachable, match=f"the head on {node} can't be asked: its node"):
            next(spread.backend.read(run._ref, RunDir.CARD))
    assert_equal_to_plain(run, undisturbed)


def test_after_k8s_delete_the_namespace_is_as_it_was(place):
    namespace = place.client.namespace
    before = listing(namespace)
    run = launch({**BASIC, "dataset": programs.dataset}, epochs=1, **place.fields)
    run.wait().check()
    assert {name.partition("/")[0] for name in listing(namespace) - before} == {
        "job.batch", "pod", "service", "secret", "persistentvolumeclaim",
        "networkpolicy.networking.k8s.io",
    }  # fmt: skip
    magics.TrainMagics(SimpleNamespace(user_ns={})).k8s_delete(run.id)
    assert listing(namespace) == before


@pytest.mark.full
@pytest.mark.timeout(600)
def test_with_no_image_pods_install_what_the_notebook_has(place, undisturbed):
    """And say that it is slow, and what makes it fast."""
    container = {**place.fields["container"], "python_image": python_image(), "env": pip_settings()}
    del container["image"]
    versions = payload.versions()
    fields = {**place.fields, "container": container, "versions": versions}
    run = launch(BASIC, start_timeout_s=300.0, **fields)
    said = "installing packages (faster with an image that has them: %k8s_image build)"
    until(lambda: said in {w.placement_reason for w in run.state.workers}, 120)
    assert_equal_to_plain(run, undisturbed)


def pip_settings():
    """Return the package index of this machine's pip, as a user has to name it to pods."""
    names = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    settings = {}
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2].upper().replace("-", "_")
        settings[f"PIP_{name}"] = value.strip("'")
    return {name: settings[name] for name in names if name in settings}


def test_results_outlive_the_head(place):
    toleration = {"key": "spot", "operator": "Exists", "effect": "NoSchedule"}
    more = {"tolerations": [toleration], "env": {"MINE": "1"}}
    container = {**place.fields["container"], **more}
    fields = {**place.fields, "container": container}
    run = launch({**BASIC, "dataset": programs.prints}, epochs=1, **fields)
    run.wait().check()
    backend, client = place.backend, place.client
    for role in ("head", "worker"):
        client.delete("Job", f"{run_base(run)}-{role}")
    until(lambda: not _running_pod(client, run.id, "head"), 60)
    # What a day later is left of it: the volume.
    (ref,) = backend.runs()
    assert (ref.id, ref.live, ref.stored) == (run.id, False, True)
    # A list of runs, as of a kernel that knows nothing of this one, starts nothing ...
    listed = runs()
    assert [(one.id, one.outline.status) for one in listed] == [(run.id, "stored")]
    assert "stored" in repr(listed)
    assert "env" not in listed[0]._request.container  # that is not for all eyes
    assert client.find("Job")["items"] == []
    # ... and who wants to know more has it read, from a pod that is like those of the run.
    (again,) = listed
    assert again.status == "succeeded"
    (job,) = client.find("Job")["items"]
    assert job["metadata"]["labels"][names.ROLE] == "server"
    assert toleration in job["spec"]["template"]["spec"]["tolerations"]
    assert again.request.container == container
    assert run.model.count_params()
    assert run.history.history["loss"]
    for worker in range(2):
        assert "the dataset is made" in run.logs(worker)


def test_a_payload_beyond_a_secret_is_sent_to_the_head(place):
    data = os.urandom(20 * 2**20)

    def dataset():
        return data and programs.dataset()

    run = launch({**BASIC, "dataset": dataset}, epochs=1, **place.fields)
    run.wait().check()
    assert run.status == "succeeded"


def test_a_killed_run_gives_its_last_checkpoint(place):
    run = begun(place, epochs=1000)
    run.stop(0)
    until(lambda: not _running_pod(place.client, run.id, "worker"), 60)
    (ref,) = place.backend.runs()
    assert not ref.live
    assert run.load().count_params()
