"""What the cluster holds from the start: storage, roles, and a namespace that restricts its pods.

Pure functions to dicts, and the one that puts them where they belong.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from typing import Any

from . import access
from .daemon import until
from .node import Node
from .paths import STATE

NAMESPACE = "nbtrain-test"
STORAGE_CLASS = "local"
#: How many volumes a node has: each serves one claim at a time.
VOLUMES = 8
#: The folders of the volumes, by the volumes' names.
FOLDERS = STATE / "volumes"

_RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def create(nodes: Iterable[Node]) -> None:
    """Create them all in a fresh cluster."""
    _apply(storage_class(), *dns_role(), *(v for node in nodes for v in volumes(node)))
    create_namespace(NAMESPACE)


def create_namespace(name: str) -> None:
    """Create a restricted namespace in which the ordinary user may work."""
    _apply(namespace(name), grant(name))
    accounts = core_api()
    until(
        f"{name} has its service account, without which there are no pods",
        lambda: accounts.list_namespaced_service_account(name).items,
        # Controllers that found the API server away look for it again after up to a minute
        # (client-go: 30 s, doubled at random), and a test before may have restarted it.
        timeout=150,
    )


def namespace(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": _RESTRICTED},
    }


def grant(namespace: str) -> dict[str, Any]:
    """Let the ordinary user do in a namespace what Kubernetes' own role `edit` allows."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "user", "namespace": namespace},
        "roleRef": _role("edit"),
        "subjects": [_subject("user")],
    }


def dns_role() -> list[dict[str, Any]]:
    """Let DNS see what it answers for."""
    watch = ["list", "watch"]
    rules = [
        {
            "apiGroups": [""],
            "resources": ["endpoints", "services", "pods", "namespaces"],
            "verbs": watch,
        },
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": watch},
    ]
    group = "rbac.authorization.k8s.io"
    metadata = {"name": "nbtrain-test:dns"}
    return [
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRole",
            "metadata": metadata,
            "rules": rules,
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "roleRef": _role(metadata["name"]),
            "subjects": [_subject("dns")],
        },
    ]


def storage_class() -> dict[str, Any]:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def volumes(node: Node) -> Iterator[dict[str, Any]]:
    """Make the folders of a node's volumes and yield the volumes."""
    for number in range(VOLUMES):
        name = f"{node.name}-{number}"
        (FOLDERS / name).mkdir(parents=True, exist_ok=True)
        here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node.name]}
        yield {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": "20Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": STORAGE_CLASS,
                "local": {"path": str(FOLDERS / name)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
            },
        }


def recycle_volumes() -> None:
    """Empty the volumes whose claims are gone, and offer them again: no provisioner does."""
    core = core_api()
    for volume in core.list_persistent_volume().items:
        if volume.status.phase == "Released":
            folder = FOLDERS / volume.metadata.name
            shutil.rmtree(folder)
            folder.mkdir()
            patch = {"spec": {"claimRef": None}}
            core.patch_persistent_volume(volume.metadata.name, patch)


def left_in(namespace: str) -> list[str]:
    """Return what a namespace holds, beside what every namespace is given."""
    from kubernetes import client as k8s

    api = client()
    core, batch = k8s.CoreV1Api(api), k8s.BatchV1Api(api)
    lists = {
        "pod": core.list_namespaced_pod,
        "service": core.list_namespaced_service,
        "secret": core.list_namespaced_secret,
        "claim": core.list_namespaced_persistent_volume_claim,
        "config map": core.list_namespaced_config_map,
        "job": batch.list_namespaced_job,
        "network policy": k8s.NetworkingV1Api(api).list_namespaced_network_policy,
    }
    given = ("config map", "kube-root-ca.crt")
    names = [(kind, o.metadata.name) for kind, find in lists.items() for o in find(namespace).items]
    return [f"{kind} {name}" for kind, name in names if (kind, name) != given]


def nodes_ready() -> set[str]:
    """Return the names of the nodes that are Ready and that pods may be put on.

    A node that comes back is tainted a while longer than it says that it is not Ready.
    """
    return {
        node.metadata.name
        for node in core_api().list_node().items
        for condition in node.status.conditions or []
        if condition.type == "Ready" and condition.status == "True" and not node.spec.taints
    }


def client(user: str = "admin") -> Any:
    """Return the Kubernetes client of a user."""
    from kubernetes import config

    return config.new_client_from_config(str(access.kubeconfig(user)))


def core_api() -> Any:
    from kubernetes.client import CoreV1Api

    return CoreV1Api(client())


def _apply(*manifests: dict[str, Any]) -> None:
    from kubernetes import utils

    api = client()
    for manifest in manifests:
        utils.create_from_dict(api, manifest)


def _role(name: str) -> dict[str, str]:
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}


def _subject(user: str) -> dict[str, str]:
    name, _ = access.USERS[user]
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}
