"""The cluster is what nbtrain needs: two nodes that train together, break and come back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ..docker_image import base_image
from . import (
    access,
    compact,
    images,
    kill_node,
    lifecycle,
    objects,
    push,
    restart_apiserver,
    start_node,
    traces,
)
from .daemon import until

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]

#: What a pod needs where `restricted` is enforced.
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
NON_ROOT = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "fsGroup": 2000,
    "seccompProfile": {"type": "RuntimeDefault"},
}

#: Two workers find each other by name and add what they hold: 1 + 2.
ALL_REDUCE = """
import json, os, socket, time
index = int(os.environ["JOB_COMPLETION_INDEX"])
hosts = ["train-0.train", "train-1.train"]
for host in hosts:
    while True:
        try:
            print(host, socket.gethostbyname(host), flush=True)
            break
        except OSError:  # the other pod is not there yet
            time.sleep(0.1)
config = {
    "cluster": {"worker": [f"{host}:2222" for host in hosts]},
    "task": {"type": "worker", "index": index},
}
os.environ["TF_CONFIG"] = json.dumps(config)
import tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
def step():
    return tf.distribute.get_replica_context().all_reduce("sum", tf.constant(index + 1.0))
print("sum", float(tf.function(strategy.run)(step)), flush=True)
"""

#: Asks the API server who it is, by all that a pod is given: name, certificate and token.
WHO_AM_I = """
import ssl, urllib.error, urllib.request
given = "/run/secrets/kubernetes.io/serviceaccount/"
headers = {"Authorization": "Bearer " + open(given + "token").read()}
url = "https://kubernetes.default.svc/api/v1/namespaces/default/pods"
context = ssl.create_default_context(cafile=given + "ca.crt")
try:
    urllib.request.urlopen(urllib.request.Request(url, headers=headers), context=context)
except urllib.error.HTTPError as error:
    print(error.read().decode())
"""


class Pods:
    """What an ordinary user does in one namespace."""

    def __init__(self, namespace: str) -> None:
        from kubernetes import client

        api = objects.client("user" if access.own_context() is None else "admin")
        self.namespace = namespace
        self.core, self.batch = client.CoreV1Api(api), client.BatchV1Api(api)

    def create(self, name: str, spec: dict[str, Any]) -> None:
        manifest = {"metadata": {"name": name}, "spec": spec}
        self.core.create_namespaced_pod(self.namespace, manifest)

    def phase(self, name: str) -> str:
        return str(self.core.read_namespaced_pod(name, self.namespace).status.phase)

    def all(self) -> list[Any]:
        return list(self.core.list_namespaced_pod(self.namespace).items)

    def logs(self, name: str) -> str:
        return str(self.core.read_namespaced_pod_log(name, self.namespace))

    def runs(self, name: str) -> None:
        until(f"{name} runs", lambda: self.phase(name) == "Running", timeout=120)

    def execute(self, name: str, *command: str) -> str:
        from kubernetes.stream import stream

        call = self.core.connect_get_namespaced_pod_exec
        options = {"stdout": True, "stderr": True, "stdin": False, "tty": False}
        # Read here, as the client leaves a connection open that the other side has ended.
        session = stream(
            call, name, self.namespace, command=list(command), _preload_content=False, **options
        )
        session.run_forever(timeout=60)
        session.sock.shutdown()
        return str(session.read_all())

    def delete(self, name: str) -> None:
        self.core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0)


@pytest.fixture
def pods(namespace: str) -> Pods:
    return Pods(namespace)


def container(image: str, *command: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": "main",
        "image": image,
        "command": list(command),
        "securityContext": RESTRICTED,
        **fields,
    }


# Making and pushing an image takes its time, which is no test's.
@pytest.fixture(scope="session")
def python(cluster: bool) -> str:
    return push(images.python_image())


@pytest.fixture(scope="session")
def tensorflow(cluster: bool) -> str:
    return push(base_image())


@pytest.fixture
def server(pods: Pods, python: str) -> Iterator[str]:
    """A pod that writes a file to a volume and serves the volume."""
    claim = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    pods.core.create_namespaced_persistent_volume_claim(pods.namespace, claim)
    script = "echo written > /data/file; echo started; cd /data; exec python -m http.server 8000"
    mount = {"name": "data", "mountPath": "/data"}
    spec = {
        "securityContext": NON_ROOT,
        "containers": [container(python, "sh", "-c", script, volumeMounts=[mount])],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    }
    pods.create("server", spec)
    pods.runs("server")
    until("it has started", lambda: "started" in pods.logs("server"))
    yield "server"
    pods.delete("server")
    pods.core.delete_namespaced_persistent_volume_claim("data", pods.namespace)


def test_two_pods_on_two_nodes_reduce_with_tensorflow(pods: Pods, tensorflow: str):
    selector = {"job-name": "train"}
    apart = {"labelSelector": {"matchLabels": selector}, "topologyKey": "kubernetes.io/hostname"}
    scratch = {"name": "scratch", "mountPath": "/tmp"}
    pod = {
        "securityContext": NON_ROOT,
        "subdomain": "train",
        "restartPolicy": "Never",
        "affinity": {
            "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}
        },
        "containers": [container(tensorflow, "python", "-c", ALL_REDUCE, volumeMounts=[scratch])],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
    }
    job = {
        "completionMode": "Indexed",
        "completions": 2,
        "parallelism": 2,
        "backoffLimit": 0,
        "template": {"metadata": {"labels": selector}, "spec": pod},
    }
    service = {"clusterIP": "None", "selector": selector, "publishNotReadyAddresses": True}
    metadata = {"metadata": {"name": "train"}}
    pods.core.create_namespaced_service(pods.namespace, {**metadata, "spec": service})
    pods.batch.create_namespaced_job(pods.namespace, {**metadata, "spec": job})

    def ended() -> bool:
        status = pods.batch.read_namespaced_job("train", pods.namespace).status
        return bool(status.succeeded == 2 or status.failed)

    until("both pods have ended", ended, timeout=240)
    logs = [pods.logs(pod.metadata.name) for pod in pods.all()]
    assert [log.splitlines()[-1] for log in logs] == ["sum 3.0", "sum 3.0"], "\n".join(logs)
    assert len({pod.spec.node_name for pod in pods.all()}) == 2
    pods.batch.delete_namespaced_job("train", pods.namespace, propagation_policy="Foreground")
    pods.core.delete_namespaced_service("train", pods.namespace)


def test_a_user_reaches_a_pod_by_exec_logs_and_the_api_servers_proxy(pods: Pods, server: str):
    # Its user is no root and owns nothing: the volume's group lets it write.
    said = pods.execute(server, "stat", "--format", "%u %g", "/data/file")
    assert said.strip() == "1000 2000"
    assert "started" in pods.logs(server)
    proxied = pods.core.connect_get_namespaced_pod_proxy_with_path(
        f"{server}:8000", pods.namespace, "file", _preload_content=False
    )
    assert proxied.data == b"written\n"


def test_a_user_reaches_a_pods_port(pods: Pods, server: str):
    from kubernetes.stream import portforward

    call = pods.core.connect_get_namespaced_pod_portforward
    forwarded = portforward(call, server, pods.namespace, ports="8000")
    with contextlib.closing(forwarded):
        connection = forwarded.socket(8000)
        connection.settimeout(30)
        connection.sendall(b"GET /file HTTP/1.0\r\n\r\n")
        answer = b""
        while part := connection.recv(1024):
            answer += part
    until("the connection has ended", lambda: not forwarded.connected)
    forwarded.websocket.shutdown()
    assert answer.endswith(b"\r\n\r\nwritten\n")


def test_a_pod_is_known_to_the_api_server_by_its_service_account(pods: Pods, server: str):
    refused = pods.execute(server, "python", "-c", WHO_AM_I)
    assert f"system:serviceaccount:{pods.namespace}:default" in refused


def test_a_pod_that_may_be_root_is_refused(pods: Pods):
    from kubernetes.client import ApiException

    with pytest.raises(ApiException, match="violates PodSecurity"):
        pods.create("root", {"containers": [{"name": "main", "image": "any"}]})


@pytest.mark.usefixtures("breakable")
def test_an_ordinary_user_sees_no_other_namespace(pods: Pods):
    from kubernetes.client import ApiException

    with pytest.raises(ApiException, match="cannot list resource"):
        pods.core.list_namespaced_pod("kube-system")


@pytest.mark.usefixtures("breakable")
def test_a_credential_plugin_lets_in_the_same_user(namespace: str):
    from kubernetes.client import CoreV1Api

    found = CoreV1Api(objects.client("plugin")).list_namespaced_pod(namespace).items
    assert found == []


@pytest.mark.usefixtures("breakable")
def test_what_etcd_forgot_is_410_gone(pods: Pods):
    from kubernetes.client import ApiException
    from kubernetes.watch import Watch

    past = pods.core.list_namespaced_pod(pods.namespace).metadata.resource_version
    note = {"metadata": {"name": "note"}}
    pods.core.create_namespaced_config_map(pods.namespace, note)
    pods.core.delete_namespaced_config_map("note", pods.namespace)
    compact()
    restart_apiserver()
    with pytest.raises(ApiException) as refused:
        for _ in Watch().stream(
            pods.core.list_namespaced_pod, pods.namespace, resource_version=past, timeout_seconds=10
        ):
            pass
    assert refused.value.status == 410


@pytest.mark.usefixtures("breakable")
def test_a_killed_node_is_seen_to_be_lost_and_runs_pods_again(pods: Pods, python: str):
    kill_node("node2")
    try:
        until("its loss is seen", lambda: objects.nodes_ready() == {"node1"})
    finally:
        start_node("node2")
    assert objects.nodes_ready() == {"node1", "node2"}
    spec = {
        "securityContext": NON_ROOT,
        "nodeSelector": {"kubernetes.io/hostname": "node2"},
        "containers": [container(python, "sleep", "60")],
    }
    pods.create("after", spec)
    pods.runs("after")
    pods.delete("after")


@pytest.mark.usefixtures("breakable")
def test_a_cluster_that_is_up_is_used():
    assert lifecycle.is_up()
    assert lifecycle.up() is False


def test_nothing_of_a_cluster_is_left_once_it_is_down(cluster: bool):
    if not cluster:
        pytest.skip("this session did not boot the cluster, so it does not end it")
    kinds = {line.split()[0] for line in traces.found()}
    assert kinds == {"process", "link", "iptables", "cgroup", "folder"}
    lifecycle.down()
    assert traces.found() == []
    began = time.monotonic()
    assert lifecycle.up()
    assert time.monotonic() - began < 60  # its binaries and images are there: seconds
