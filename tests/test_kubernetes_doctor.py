"""The checks before a run: one sentence each, and the fix; on a real cluster."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import pytest
import yaml

from nbtrain import doctor
from nbtrain.backends.kubernetes import access, preflight
from nbtrain.backends.kubernetes.client import Client
from nbtrain.backends.kubernetes.preflight import Check, role_yaml

from . import cluster as test_cluster
from .kubernetes_pods import user_with


@pytest.fixture
def client(namespace, monkeypatch, tmp_path):
    monkeypatch.setenv("NBTRAIN_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("KUBECONFIG", str(test_cluster.kubeconfig("user")))
    return Client(namespace=namespace)


def found(client, **options):
    request = preflight.example(options, {"python": "3.11.7", "tensorflow": "2.21.0"})
    return {check.name: check for check in preflight.checks(client, request)}


# -- without a cluster ----------------------------------------------------------------------------


def test_what_is_missing_is_written_as_the_role_to_ask_for():
    role = yaml.safe_load(role_yaml("ml", {"Job": ("create", "get"), "Pod/exec": ("create",)}))
    assert role["kind"] == "Role"
    assert role["metadata"] == {"name": "nbtrain", "namespace": "ml"}
    assert role["rules"] == [
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "get"]},
        {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]},
    ]


def test_every_check_is_a_mark_and_a_sentence_with_the_fix_below():
    shown = doctor.lines([
        Check("cluster", "ok", "it answers."),
        Check("rights", "failed", "you lack rights.", "Ask for:\nkind: Role\n"),
    ])  # fmt: skip
    assert list(shown) == [
        "✓ cluster: it answers.", "✗ rights: you lack rights.", "    Ask for:\n    kind: Role",
    ]  # fmt: skip


def test_without_a_cluster_the_first_check_is_the_last(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("NBTRAIN_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    assert doctor.run() == 1
    assert capsys.readouterr().out.startswith("✗ cluster: there is no kubeconfig")


# -- on a cluster ---------------------------------------------------------------------------------


@pytest.mark.cluster
def test_where_all_is_well_everything_is_said(client):
    checks = found(client, image="registry.example/train:1")
    assert list(checks) == [
        "cluster", "namespace", "rights", "image", "storage", "pods", "quota",
    ]  # fmt: skip
    assert {check.state for check in checks.values()} <= {"ok", "unknown"}
    assert checks["rights"].state == checks["pods"].state == "ok"
    assert "no quota" in checks["quota"].sentence


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("options", "name", "words"),
    [
        ({"pod_template": {"spec": {"hostNetwork": True}}}, "pods", "Pod Security"),
        ({"service_account": "nobody"}, "pods", 'serviceaccount "nobody" not found'),
    ],
)
def test_what_the_cluster_would_refuse_is_said_beforehand(client, options, name, words):
    check = found(client, image="a", **options)[name]
    assert check.state == "failed"
    assert words in check.sentence
    assert check.fix


@pytest.mark.cluster
def test_no_image_is_said_with_how_to_make_it_fast(client):
    check = found(client)["image"]
    assert "python:3.11-slim and install tensorflow-cpu==2.21.0" in check.sentence
    assert "%k8s_image" in check.fix


@pytest.mark.cluster
def test_missing_rights_are_listed_as_a_role(client, namespace, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(test_cluster.kubeconfig()))
    with user_with(Client(namespace=namespace), monkeypatch, [("pods", "get")]) as limited:
        check = preflight.rights(limited)
    assert check.state == "failed"
    assert "create Job" in check.sentence
    role = yaml.safe_load(check.fix.partition("\n")[2])
    verbs = {rule["resources"][0]: rule["verbs"] for rule in role["rules"]}
    assert verbs["pods"] == ["list", "watch", "delete"]
    assert "jobs" in verbs
    assert "pods/exec" in verbs


@pytest.mark.cluster
def test_storage_is_looked_at_where_one_may(client, namespace, monkeypatch):
    assert found(client, image="a")["storage"].state == "unknown"
    monkeypatch.setenv("KUBECONFIG", str(test_cluster.kubeconfig()))
    admin = Client(namespace=namespace)
    assert found(admin, image="a")["storage"].state == "ok"
    missing = found(admin, image="a", storage_class="nothing")["storage"]
    assert (missing.state, missing.sentence) == ("failed", "there is no storage class nothing.")


@pytest.mark.cluster
def test_a_namespace_that_is_not_there(client, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(test_cluster.kubeconfig()))
    check = preflight.namespace(Client(namespace="nowhere"))
    assert check.state == "failed"
    assert "kubectl create namespace nowhere" in check.fix


@pytest.mark.cluster
def test_credentials_from_a_program_work(client, namespace, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(test_cluster.kubeconfig("plugin")))
    assert preflight.reachable(Client(namespace=namespace)).state == "ok"


@pytest.mark.cluster
def test_inside_of_a_pod_its_own_account_is_taken(namespace, monkeypatch, tmp_path):
    """With the very files that a pod has: a token of its ServiceAccount, the CA, the namespace."""
    from kubernetes.config import incluster_config

    kubeconfig = json.loads(test_cluster.kubeconfig().read_text("utf-8"))
    cluster = kubeconfig["clusters"][0]["cluster"]
    monkeypatch.setenv("KUBECONFIG", str(test_cluster.kubeconfig()))
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
    token = Client(namespace=namespace).call("POST", account, body={"spec": {}})["status"]["token"]
    for name, text in (("token", token), ("namespace", namespace)):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(access, "_NAMESPACE_FILE", tmp_path / "namespace")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    certificate = cluster["certificate-authority"]
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", certificate)
    address = urlsplit(cluster["server"])
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(address.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(address.port))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    client = Client()
    assert (client.context, client.namespace) == ("in-cluster", namespace)
    assert client.reachable().startswith("v1.")
    assert preflight.rights(client).state == "failed"
