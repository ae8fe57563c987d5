"""The objects of a run: as the golden files have them, restricted, and named as names may be."""

from __future__ import annotations

import base64
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbtrain.backends.kubernetes import names
from nbtrain.backends.kubernetes.manifests import (
    LARGEST_SECRET,
    Given,
    owned,
    quantity,
    resources,
)
from nbtrain.backends.kubernetes.merging import merged

from . import golden

LABEL = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"


def by_kind(case, kind):
    return [m for m in golden.manifests(case).all(golden.GIVEN) if m["kind"] == kind]


def pods(case):
    jobs = [*by_kind(case, "Job"), golden.manifests(case).server()]
    return {job["metadata"]["labels"][names.ROLE]: job["spec"]["template"]["spec"] for job in jobs}


@pytest.mark.parametrize("case", golden.CASES)
def test_the_objects_are_those_of_the_golden_file(case):
    # `python -m tests.golden` writes them anew.
    assert golden.text(case) == (golden.FOLDER / f"{case}.yaml").read_text("utf-8")


@pytest.mark.parametrize("case", sorted(golden.CASES.keys() - {"template"}))
def test_every_pod_is_restricted_and_limited(case):
    for pod in pods(case).values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
            requests, limits = (container["resources"][k] for k in ("requests", "limits"))
            assert set(requests) == set(limits) >= {"cpu", "memory", "ephemeral-storage"}
            assert requests["memory"] == limits["memory"]


@pytest.mark.parametrize("case", golden.CASES)
def test_every_mount_has_its_volume(case):
    for pod in pods(case).values():
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            paths = [mount["mountPath"] for mount in container["volumeMounts"]]
            assert len(paths) == len(set(paths))
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


@pytest.mark.parametrize("case", golden.CASES)
def test_the_token_is_in_the_secret_alone(case):
    for manifest in golden.manifests(case).all(golden.GIVEN):
        if manifest["kind"] == "Secret":
            assert base64.b64decode(manifest["data"]["token"]) == b"the token"
        else:
            assert "the token" not in json.dumps(manifest)


@pytest.mark.parametrize("case", golden.CASES)
def test_all_objects_are_found_by_the_runs_label(case):
    for manifest in golden.manifests(case).all(golden.GIVEN):
        assert manifest["metadata"]["labels"][names.RUN] == "digits-20260102-030405-abcd"
        assert manifest["metadata"]["labels"][names.USER] == "anna"


def test_a_payload_that_does_not_fit_is_left_out_of_the_secret():
    runtime = b"r" * 500_000
    assert "payload.bin" in Given(runtime, "t", b"{}", b"p" * 500_000).files()
    assert "payload.bin" not in Given(runtime, "t", b"{}", b"p" * 600_000).files()
    assert "payload.bin" not in Given(runtime, "t", b"{}").files()
    assert LARGEST_SECRET < 2**20


def test_what_the_head_owns_is_removed_with_it_and_never_waits():
    manifests = golden.manifests("plain")
    head = {**manifests.head(), "metadata": {**manifests.head()["metadata"], "uid": "u-1"}}
    for manifest in manifests.after_head():
        (reference,) = owned(manifest, head)["metadata"]["ownerReferences"]
        assert reference["uid"] == "u-1"
        assert not reference["blockOwnerDeletion"]


def test_without_a_volume_the_head_serves_for_longer():
    arguments = {case: pods(case)["head"]["containers"][0]["args"] for case in golden.CASES}
    linger = {case: int(a[a.index("--linger") + 1]) for case, a in arguments.items()}
    assert linger["no_volume"] > linger["plain"] > 0


# -- names ----------------------------------------------------------------------------------------

IDS = st.builds(
    "{}-20260102-030405-{}".format,
    st.from_regex(r"\A[A-Za-z][A-Za-z0-9_]{0,39}\Z"),
    st.from_regex(r"\A[a-z2-7]{4}\Z"),
)


@given(IDS, st.text(min_size=1))
def test_any_run_of_any_user_has_names_that_kubernetes_takes(run_id, user):
    owner = names.slug(user, 63) or "user"
    base = names.base(run_id, owner)
    assert re.fullmatch(LABEL, base)
    assert not base[0].isdigit()  # of a Service
    assert len(f"{base}-worker-63") <= 63  # a pod's host name
    for value in names.labels(run_id, owner, "head").values():
        assert len(value) <= 63
        assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?", value)
    assert run_id.startswith(names.run_name(run_id))


@given(IDS, IDS)
def test_two_runs_and_two_users_have_different_names(one, other):
    assert names.base(one, "anna") != names.base(one, "annabel")
    assert one == other or names.base(one, "anna") != names.base(other, "anna")


def test_the_user_is_the_hubs_or_the_machines(monkeypatch):
    monkeypatch.setenv("NBTRAIN_USER", "Anna.B@example.com")
    assert names.user() == "anna-b-example-com"
    monkeypatch.delenv("NBTRAIN_USER")
    monkeypatch.setenv("JUPYTERHUB_USER", "hub")
    assert names.user() == "hub"
    monkeypatch.delenv("JUPYTERHUB_USER")
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, "me")
    assert names.user() == "me"


# -- quantities and merging -----------------------------------------------------------------------


def test_quantities_are_written_as_people_read_them():
    assert [quantity(n) for n in (2**31, 3 * 2**20, 5 * 2**10, 7)] == ["2Gi", "3Mi", "5Ki", "7"]
    assert resources(1.5, 2**30, 1) == {
        "cpu": "1500m", "memory": "1Gi", "ephemeral-storage": "1Mi",
    }  # fmt: skip
    assert resources(2, 2**30, 1)["cpu"] == "2"


def test_the_users_part_is_merged_as_kubectl_patch_does():
    ours = {
        "a": {"b": 1, "c": 2},
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
        "args": ["x"],
        "tolerations": [{"key": "k"}],
    }
    theirs = {
        "a": {"b": None, "d": 3},
        "env": [{"name": "B", "value": "9"}, {"name": "C", "value": "3"}],
        "args": ["y"],
        "tolerations": [{"key": "l"}],
    }
    assert merged(ours, theirs) == {
        "a": {"c": 2, "d": 3},
        "env": [{"name": n, "value": v} for n, v in (("A", "1"), ("B", "9"), ("C", "3"))],
        "args": ["y"],
        "tolerations": [{"key": "k"}, {"key": "l"}],
    }
    assert ours["a"] == {"b": 1, "c": 2}


_TREES = st.recursive(
    st.none() | st.integers(), lambda t: st.lists(t) | st.dictionaries(st.text(max_size=3), t)
)


@given(st.dictionaries(st.text(max_size=3), _TREES))
def test_merging_nothing_changes_nothing(tree):
    assert merged(tree, {}) == tree
