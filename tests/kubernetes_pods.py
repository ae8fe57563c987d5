"""What the tests on a real cluster share: manifests, an image, and users with few rights."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import threading
import uuid
from collections import Counter, defaultdict
from types import SimpleNamespace

import yaml

from nbtrain.backends.kubernetes.client import Client, hang_up
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
    rules = [{"apiGroups": [""], "resources": [r], "verbs": [verb]} for r, verb in rights]
    with user_of(client, rules) as kubeconfig, monkeypatch.context() as patch:
        patch.setenv("KUBECONFIG", str(kubeconfig))
        yield Client(namespace=client.namespace)


@contextlib.contextmanager
def user_of(client, rules):
    """Give the kubeconfig of a new user whose Role has these rules, and who may do nothing else."""
    with account(client, rules) as name:
        path = f"/api/v1/namespaces/{client.namespace}/serviceaccounts/{name}/token"
        token = client.call("POST", path, body={"spec": {}})["status"]["token"]
        kubeconfig = test_cluster.kubeconfig().with_name(name)
        write_kubeconfig(kubeconfig, user={"token": token})
        try:
            yield kubeconfig
        finally:
            kubeconfig.unlink()


@contextlib.contextmanager
def account(client, rules):
    """Give the name of a new ServiceAccount whose Role has these rules."""
    name = f"limited-{uuid.uuid4().hex[:6]}"
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
    try:
        yield name
    finally:
        client.call("DELETE", f"{rbac}/rolebindings/{name}")
        client.call("DELETE", f"{rbac}/roles/{name}")
        client.call("DELETE", f"{accounts}/{name}")


def write_kubeconfig(path, *, user=None, **cluster):
    """Write the administrator's kubeconfig with other credentials, or another way to the cluster.

    Keywords stand in its file with dashes.
    """
    config = yaml.safe_load(test_cluster.kubeconfig().read_text("utf-8"))
    if user is not None:
        config["users"][0]["user"] = user
    config["clusters"][0]["cluster"] |= {k.replace("_", "-"): v for k, v in cluster.items()}
    path.write_text(json.dumps(config), "utf-8")
    return path


class Connections:
    """What is open to API servers for as long as something goes on: watches and followed files.

    Attributes
    ----------
    live
        What is open now, by what it is of: "watch pods", "events.jsonl".
    most, ever
        How many were open at the same time, and how many in all.
    """

    def __init__(self, monkeypatch):
        self.live, self.most, self.ever = defaultdict(list), {}, Counter()
        self._lock = threading.Lock()
        self._open, self._websocket = Client.open, Client.websocket
        connections = self

        @contextlib.contextmanager
        def opened(client, method, path, query=None, *rest, **options):
            answer = connections._open(client, method, path, query, *rest, **options)
            of = _followed(path, query or {})
            with answer as response, connections._counted(of, response):
                yield response

        def websocket(client, path, query):
            found = connections._websocket(client, path, query)
            words = [word for name, word in query if name == "command"]
            if "--follow" in words:
                counted = connections._counted(words[words.index("read") + 2], found)
                counted.__enter__()
                shutdown = found.shutdown
                found.shutdown = lambda: (counted.__exit__(None, None, None), shutdown())
            return found

        monkeypatch.setattr(Client, "open", opened)
        monkeypatch.setattr(Client, "websocket", websocket)

    @contextlib.contextmanager
    def _counted(self, of, connection):
        if of:
            with self._lock:
                self.live[of].append(connection)
                self.ever[of] += 1
                self.most[of] = max(self.most.get(of, 0), len(self.live[of]))
        try:
            yield
        finally:
            if of:
                with self._lock:
                    self.live[of].remove(connection)

    def cut(self, of):
        """Cut all that is open of something, as a network does; there has to be something."""
        with self._lock:
            found = list(self.live[of])
        assert found
        for connection in found:
            # A websocket has its socket where the connection of an answer has it.
            is_answer = hasattr(connection, "connection")
            hang_up(connection if is_answer else SimpleNamespace(connection=connection))


def _followed(path, query):
    """Return what a request goes on with; empty for one that is answered at once."""
    if query.get("watch"):
        return f"watch {path.rpartition('/')[2]}"
    return path.rpartition("/files/")[2] if query.get("follow") else ""


def needs_own_cluster():
    """Skip a test that breaks the cluster, where it is one that a developer lends."""
    import pytest

    if access.own_context():
        pytest.skip("only a cluster of the tests' own may be broken")
