"""A fresh kernel finds runs in places that its settings do not name."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from nbtrain import config
from nbtrain.backend import RunRef
from nbtrain.backends.kubernetes import names, places
from nbtrain.backends.kubernetes.errors import Unreachable
from nbtrain.errors import BackendError

from . import programs
from .harness import launch, until
from .places import open_place

pytestmark = pytest.mark.usefixtures("nbtrain_home")


class Cluster:
    """An API server that answers, or does not, and counts the questions."""

    contexts = ("c",)

    def __init__(self, context, namespace):
        if context not in self.contexts:
            raise BackendError(f"the kubeconfig has no context {context!r}")
        self.context, self.namespace = context, namespace
        self.asked = 0


@pytest.fixture
def there(monkeypatch):
    """The runs of each namespace; None for one that does not answer."""
    monkeypatch.setattr(places, "Client", Cluster)
    return {}


def listing(found, there):
    """Return the ids of all runs, what was raised after them, and the clusters by namespace."""
    clusters = {}

    def look(client):
        client.asked += 1
        clusters[client.namespace] = client
        if there[client.namespace] is None:
            raise Unreachable(f"{client.namespace} does not answer", "")
        runs = there[client.namespace]
        return [RunRef("kubernetes", run, run, float(run.partition("-")[2])) for run in runs]

    ids, error = [], None
    try:
        ids.extend(ref.id for ref in found.runs(look))
    except BackendError as raised:
        error = raised
    return ids, error, clusters


def started(run_id, namespace):
    found = places.Places()
    found.settle(run_id, found.client({"context": "c", "namespace": namespace}))
    return found


def test_a_fresh_kernel_finds_a_run_where_it_was_started(there):
    started("one-1", "apart")
    there["apart"] = ["one-1"]
    fresh = places.Places()
    assert listing(fresh, there)[:2] == (["one-1"], None)
    assert places.Places().of("one-1").namespace == "apart"


def test_runs_of_all_places_are_newest_first(there):
    started("a-1", "apart")
    started("b-4", "other")
    there |= {"apart": ["a-1", "a-3"], "other": ["b-2", "b-4"]}
    assert listing(places.Places(), there)[0] == ["b-4", "a-3", "b-2", "a-1"]


def test_a_deleted_run_points_nowhere(there):
    started("one-1", "apart").forget("one-1")
    assert listing(places.Places(), there) == ([], None, {})


def test_a_run_that_is_gone_from_its_cluster_is_forgotten(there):
    started("one-1", "apart")
    there["apart"] = []
    assert len(listing(places.Places(), there)[2]) == 1
    assert listing(places.Places(), there)[2] == {}


def test_one_that_does_not_answer_hides_no_other_and_is_left_alone_for_a_while(there):
    started("one-1", "away")
    started("two-2", "apart")
    there |= {"away": None, "apart": ["two-2"]}
    fresh = places.Places()
    for _ in range(2):
        ids, error, clusters = listing(fresh, there)
        assert (ids, str(error)) == (["two-2"], "away does not answer")
    assert (clusters["apart"].asked, "away" in clusters) == (2, False)


def test_a_place_of_this_kernels_runs_is_always_asked(there):
    here = started("one-1", "away")
    there["away"] = None
    assert listing(here, there)[0] == []
    there["away"] = ["one-1"]
    assert listing(here, there)[:2] == (["one-1"], None)


def test_a_context_that_the_kubeconfig_has_no_more_is_passed_over(there, monkeypatch):
    started("one-1", "apart")
    monkeypatch.setattr(Cluster, "contexts", ())
    assert listing(places.Places(), there) == ([], None, {})


@pytest.mark.cluster
@pytest.mark.timeout(400)
def test_another_process_attaches_to_a_run_that_no_setting_points_at(request, nbtrain_home):
    functions = {"model": programs.model, "dataset": programs.dataset}
    with open_place("kubernetes", request.getfixturevalue) as place:
        run = launch(functions, epochs=1, **place.fields)
        run.wait().check()
        config.path().unlink()
        code = (
            "import json, nbtrain\n"
            f"print(json.dumps(nbtrain.attach({run.id!r}).history.history['loss']))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1]) == run.history.history["loss"]
        run.delete()


@pytest.mark.cluster
@pytest.mark.timeout(400)
def test_another_machine_attaches_by_the_name_alone_as_long_as_there_is_the_volume(
    request, nbtrain_home, tmp_path
):
    functions = {"model": programs.model, "dataset": programs.dataset}
    with open_place("kubernetes", request.getfixturevalue) as place:
        run = launch(functions, epochs=1, **place.fields)
        expected = run.wait().check().history.history["loss"]

        def elsewhere(**environment):
            """Return what a machine says on which nobody has trained, as the user it has there."""
            home = {"NBTRAIN_HOME": str(tmp_path / "elsewhere"), "LOGNAME": "somebody"}
            code = (
                "import json, nbtrain\n"
                f"print(json.dumps(nbtrain.attach({run.name!r}).history.history['loss']))"
            )
            return subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                env={**os.environ, **home, **environment},
            )

        assert "NoSuchRun" in elsewhere().stderr
        done = elsewhere(NBTRAIN_USER=names.user())
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1]) == expected
        place.client.delete("Job", f"{names.base(run.id, names.user())}-head")
        until(lambda: not place.client.find("Pod")["items"], 60)
        done = elsewhere(NBTRAIN_USER=names.user())
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1]) == expected
        run.delete()
