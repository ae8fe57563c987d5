"""What the tests on a real cluster share: manifests, an image, and users with few rights."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import uuid

from nbtrain.backends.kubernetes.client import Client
from nbtrain.backends.kubernetes.manifests import Manifests
from nbtrain.backends.kubernetes.settings import PodSettings
from nbtrain.request import make_request

from . import cluster as test_cluster
from .cluster import access, images
from .cluster.shell import run


@functools.cache
def python_image():
    """Return an image with Python alone, as pods pull it."""
    return test_cluster.push(images.python_image())


def manifests(image, *, payload_sha256="0" * 64, **options):
    """Return the manifests of a small run."""
    small = {"cpu": "100m", "memory": "128Mi", "seed": 1}
    request = make_request("digits", {**small, **options})
    request = dataclasses.replace(request, payload_sha256=payload_sha256)
    return Manifests(request, PodSettings.of(request, image=image), "anna")


def listing(namespace):
    """Return the names of what a namespace holds, as kubectl lists them."""
    kinds = "all,secret,configmap,pvc,networkpolicy"
    command = [test_cluster.kubectl(), f"--kubeconfig={test_cluster.kubeconfig()}"]
    return set(run(*command, f"--namespace={namespace}", "get", kinds, "--output=name").split())


@contextlib.contextmanager
def user_with(client, monkeypatch, rights):
    """Give a client of a new user with these rights alone, as (resource, verb)."""
    name = f"limited-{uuid.uuid4().hex[:6]}"
    rules = [{"apiGroups": [""], "resources": [r], "verbs": [verb]} for r, verb in rights]
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{client.namespace}"
    group = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules}
    subject = {"kind": "ServiceAccount", "name": name, "namespace": client.namespace}
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
        "subjects": [subject],
    }
    accounts = f"/api/v1/namespaces/{client.namespace}/serviceaccounts"
    client.call("POST", accounts, body={"metadata": {"name": name}})
    client.call("POST", f"{rbac}/roles", body=role)
    client.call("POST", f"{rbac}/rolebindings", body=binding)
    made = client.call("POST", f"{accounts}/{name}/token", body={"spec": {}})
    try:
        yield _client(client, made["status"]["token"], monkeypatch)
    finally:
        client.call("DELETE", f"{rbac}/rolebindings/{name}")
        client.call("DELETE", f"{rbac}/roles/{name}")
        client.call("DELETE", f"{accounts}/{name}")


def _client(client, token, monkeypatch):
    """Return a client that is known by a token, for the same cluster."""
    with open(test_cluster.kubeconfig()) as file:
        config = json.load(file)
    config["users"][0]["user"] = {"token": token}
    path = test_cluster.kubeconfig().with_name(f"limited-{uuid.uuid4().hex[:6]}")
    path.write_text(json.dumps(config))
    try:
        with monkeypatch.context() as patch:
            patch.setenv("KUBECONFIG", str(path))
            return Client(namespace=client.namespace)
    finally:
        path.unlink()


def needs_own_cluster():
    """Skip a test that breaks the cluster, where it is one that a developer lends."""
    import pytest

    if access.own_context():
        pytest.skip("only a cluster of the tests' own may be broken")
