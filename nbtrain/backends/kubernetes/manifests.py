"""The objects of a run, as pure functions from a request to what the API takes.

The head is a Job of one small pod, which owns the rest; the workers are one Indexed Job. Both pass
the `restricted` Pod Security Standard. The token is in the Secret and nowhere else.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.request import TrainRequest
from . import names
from .merging import merged
from .settings import (
    DISK,
    GPU_WHEELS_DISK,
    HEAD_CPU,
    HEAD_CPU_LIMIT,
    HEAD_MEMORY,
    LOST_NODE_S,
    TTL_S,
    WHEELS_DISK,
    PodSettings,
)

Manifest = dict[str, Any]

#: What agents connect to, and what the run directory is served at.
AGENTS_PORT, FILES_PORT = 8476, 8477
GIVEN, RUN_FOLDER, SCRATCH = "/nbtrain/given", "/nbtrain/run", "/nbtrain/scratch"
PACKAGES = "/nbtrain/packages"
RUNTIME = f"{GIVEN}/runtime.zip"
#: Files of the Secret.
FILES = ("runtime.zip", "token", "request.json", "payload.bin")
#: What a Secret may hold (1 MiB), less what its own names take.
LARGEST_SECRET = 2**20 - 4096
#: Any that is not root; pods of this group can write the volume.
UID = 1000
#: How often a head, and a worker's pod, is replaced: what is tried again decides the head, so
#: workers are replaced as often as it takes.
HEAD_RETRIES, WORKER_RETRIES = 6, 1000
#: How long a worker's pod may wait for a node, in seconds.
PENDING_S = 6 * 3600.0
#: How long a run may take to end by itself once its time is over, in seconds.
GRACE_S = 120

#: Options that are not written where who may look at Jobs and claims sees them, and that a pod
#: which serves the volume does without.
_NOT_TOLD = ("env", "secret", "volume", "max_time")
#: Sidecars in a Job's pods keep them from ending, and stand between the workers.
_NO_SIDECARS = {
    "sidecar.istio.io/inject": "false",
    "linkerd.io/inject": "disabled",
    "kuma.io/sidecar-injection": "disabled",
    "consul.hashicorp.com/connect-inject": "false",
}
#: A moved worker costs all workers a restart.
_NO_EVICTION = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}
#: How the clouds mark nodes that they may take away at any moment: label and value.
_SPOT = {
    "karpenter.sh/capacity-type": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
    "cloud.google.com/gke-spot": "true",
    "cloud.google.com/gke-preemptible": "true",
    "kubernetes.azure.com/scalesetpriority": "spot",
}


@dataclass(frozen=True)
class Given:
    """What a run's pods are given: the files of its Secret."""

    runtime: bytes
    token: str
    request: bytes
    payload: bytes = b""

    @classmethod
    def of(cls, request: TrainRequest, runtime: Path, payload: Path, token: str) -> Given:
        """Return what a run's pods are given; a payload that surely does not fit is not read."""
        # The limit on memory is the pod's; a pod that waits for a node is not late.
        sent = dataclasses.replace(request, memory=0, arrival_timeout_s=PENDING_S)
        raw = json.dumps(sent.to_json(), default=str)
        small = payload.is_file() and payload.stat().st_size < LARGEST_SECRET
        content = payload.read_bytes() if small else b""
        return cls(runtime.read_bytes(), token, raw.encode(), content)

    def files(self) -> dict[str, bytes]:
        """Return the files by name; a payload that does not fit is left out and sent afterwards."""
        contents = (self.runtime, self.token.encode(), self.request, self.payload)
        files = dict(zip(FILES, contents, strict=True))
        if not self.payload or sum(map(len, contents)) > LARGEST_SECRET:
            del files["payload.bin"]
        return files


class Manifests:
    """The manifests of one run.

    Parameters
    ----------
    request, settings
        What is asked for.
    owner
        The user, as `names.user` has it.
    """

    def __init__(self, request: TrainRequest, settings: PodSettings, owner: str) -> None:
        self.request, self.settings, self.owner = request, settings, owner
        self.base = names.base(request.id, owner)

    # -- all of them --------------------------------------------------------------------------

    def before_head(self, given: Given) -> list[Manifest]:
        """Return what a head can't start without."""
        volume = [self.volume_claim()] if self.settings.volume else []
        return [self.secret(given), *volume]

    def after_head(self) -> list[Manifest]:
        """Return the rest, which the head's Job owns from its first moment."""
        return [self.service(), *self.network_policies(), self.workers()]

    def all(self, given: Given) -> list[Manifest]:
        """Return all manifests in an order in which they can be created."""
        return [*self.before_head(given), self.head(), *self.after_head()]

    # -- one by one ---------------------------------------------------------------------------

    def secret(self, given: Given) -> Manifest:
        """Return the Secret: token, runtime, request, and a payload that fits."""
        data = {name: base64.b64encode(text).decode() for name, text in given.files().items()}
        body = {"type": "Opaque", "immutable": True, "data": data}
        return self._object("v1", "Secret", self.base, body)

    def volume_claim(self) -> Manifest:
        """Return the claim of the results' volume; nobody owns it, so that no TTL removes it."""
        spec: dict[str, Any] = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": quantity(self.settings.storage)}},
        }
        if self.settings.storage_class:
            spec["storageClassName"] = self.settings.storage_class
        claim = self._object("v1", "PersistentVolumeClaim", self.base, {"spec": spec})
        # With the labels, enough to find the run once its Jobs are gone.
        image = {
            names.IMAGE: self.settings.image,
            names.PULL_SECRETS: ",".join(self.settings.image_pull_secret),
        }
        claim["metadata"]["annotations"] = self._about() | self._outline() | image
        return claim

    def service(self) -> Manifest:
        """Return the headless Service by whose name agents find the head, ready or not."""
        spec = {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": self._selected("head"),
            "ports": [
                {"name": "agents", "port": AGENTS_PORT, "protocol": "TCP"},
                {"name": "files", "port": FILES_PORT, "protocol": "TCP"},
            ],
        }
        return self._object("v1", "Service", self.base, {"spec": spec})

    def network_policies(self) -> list[Manifest]:
        """Return who may connect: TensorFlow's own servers ask nobody for a password.

        Workers are reached by the run's own pods alone. The head's files are asked for by the API
        server, which is no pod; they ask for the token.
        """
        own = {"from": [{"podSelector": {"matchLabels": self._selected()}}]}
        agents = {**own, "ports": [{"protocol": "TCP", "port": AGENTS_PORT}]}
        files = {"ports": [{"protocol": "TCP", "port": FILES_PORT}]}
        return [self._policy("head", [agents, files]), self._policy("worker", [own])]

    def _policy(self, role: str, ingress: list[Manifest]) -> Manifest:
        spec = {
            "podSelector": {"matchLabels": self._selected(role)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        }
        name = f"{self.base}-{role}"
        return self._object("networking.k8s.io/v1", "NetworkPolicy", name, {"spec": spec})

    def head(self) -> Manifest:
        """Return the head's Job."""
        spec = {
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": HEAD_RETRIES,
            "ttlSecondsAfterFinished": TTL_S,
            "template": self._template("head", self._head_pod()),
        }
        job = self._job("head", spec)
        job["metadata"]["annotations"] |= self._outline()
        return job

    def workers(self) -> Manifest:
        """Return the workers' Job: identical pods, told apart by their index alone."""
        count = self.request.workers
        spec: dict[str, Any] = {
            "completionMode": "Indexed",
            "completions": count,
            "parallelism": count,
            "backoffLimitPerIndex": WORKER_RETRIES,
            # A pod of a node that died stays Terminating: its replacement must not wait for it.
            "podReplacementPolicy": "TerminatingOrFailed",
            "template": self._template("worker", self._worker_pod()),
        }
        if self.settings.max_time:
            # The head stops the run; this is for when it can't. Waiting for nodes counts here.
            spec["activeDeadlineSeconds"] = math.ceil(self.settings.max_time + PENDING_S) + GRACE_S
        return self._job("worker", spec)

    def server(self) -> Manifest:
        """Return the Job that serves the volume of a run whose head is gone; it has its own Secret.

        It is made suspended, ends when nobody asks any more, and removes itself.
        """
        spec = {
            "suspend": True,
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": 1,
            "ttlSecondsAfterFinished": 60,
            "template": self._template("server", self._server_pod()),
        }
        return self._job("server", spec)

    def server_secret(self, runtime: bytes, token: str) -> Manifest:
        """Return the Secret of the Job that serves the volume."""
        files = {"runtime.zip": runtime, "token": token.encode()}
        data = {name: base64.b64encode(text).decode() for name, text in files.items()}
        body = {"type": "Opaque", "immutable": True, "data": data}
        return self._object("v1", "Secret", f"{self.base}-server", body)

    # -- pods ---------------------------------------------------------------------------------

    def _head_pod(self) -> Manifest:
        linger = str(self.settings.linger)
        ports = ("--listen", f"0.0.0.0:{AGENTS_PORT}", "--serve", f"0.0.0.0:{FILES_PORT}")
        # A pod that is ended (a node is drained) is replaced, and the run goes on.
        arguments = ["head", RUN_FOLDER, "--given", GIVEN, *ports, "--linger", linger]
        arguments.append("--leave-on-sigterm")
        container = self._head_like("head", arguments)
        container["ports"] = [
            {"name": "agents", "containerPort": AGENTS_PORT},
            {"name": "files", "containerPort": FILES_PORT},
        ]
        if self.settings.volume:
            results: Manifest = {"persistentVolumeClaim": {"claimName": self.base}}
        else:
            results = {"emptyDir": {"sizeLimit": quantity(self.settings.storage)}}
        volumes = [self._given_volume(self.base), {"name": "run", **results}]
        pod = self._pod([container], volumes)
        pod["affinity"] = {"nodeAffinity": _not_on_spot()}
        return pod

    def _server_pod(self) -> Manifest:
        listen = f"0.0.0.0:{FILES_PORT}"
        container = self._head_like(
            "server", ["serve", RUN_FOLDER, "--given", GIVEN, "--listen", listen]
        )
        container["ports"] = [{"name": "files", "containerPort": FILES_PORT}]
        claim = {"persistentVolumeClaim": {"claimName": self.base}}
        volumes = [self._given_volume(f"{self.base}-server"), {"name": "run", **claim}]
        return self._pod([container], volumes)

    def _head_like(self, name: str, arguments: list[str]) -> Manifest:
        disk = DISK if self.settings.volume else DISK + self.settings.storage
        container = self._container(name, ["python3", "-I", RUNTIME], arguments)
        container["resources"] = {
            "requests": resources(HEAD_CPU, HEAD_MEMORY, disk),
            "limits": resources(HEAD_CPU_LIMIT, HEAD_MEMORY, disk),
        }
        container["volumeMounts"].append({"name": "run", "mountPath": RUN_FOLDER})
        if self.request.results:  # which the head writes, with credentials of the user's Secrets
            self._add_secrets(container)
        return container

    def _worker_pod(self) -> Manifest:
        settings = self.settings
        head = f"{self.base}:{AGENTS_PORT}"
        arguments = ["agent", "--given", GIVEN, "--head", head]
        arguments += ["--worker", "$(JOB_COMPLETION_INDEX)"]
        python = f"{PACKAGES}/bin/python3" if settings.wheels else "python3"
        container = self._container("worker", [python, "-I", RUNTIME], arguments)
        container["env"].append(
            {"name": "TF_NUM_INTRAOP_THREADS", "value": str(max(1, math.ceil(settings.cpu)))}
        )
        container["resources"] = self._worker_resources()
        self._add_data(container)
        volumes = [self._given_volume(self.base, FILES[:3]), *self._data_volumes()]
        pod = self._pod([container], volumes)
        if settings.wheels:
            packages = {"name": "packages", "mountPath": PACKAGES}
            container["volumeMounts"].append(packages)
            pod["initContainers"] = [self._installer(packages)]
            pod["volumes"].append({"name": "packages", "emptyDir": {}})
        if settings.gpus:
            toleration = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
            pod["tolerations"].append(toleration)
        return pod

    def _worker_resources(self) -> Manifest:
        settings = self.settings
        # The payload, checkpoints on their way, and what user code writes.
        disk = DISK + 3 * self.request.payload_bytes
        if settings.wheels:
            disk += GPU_WHEELS_DISK if settings.gpus else WHEELS_DISK
        needs = resources(settings.cpu, settings.memory, disk)
        if settings.gpus:
            needs["nvidia.com/gpu"] = str(settings.gpus)
        return {"requests": needs, "limits": dict(needs)}

    def _installer(self, packages: Manifest) -> Manifest:
        """Return the init container that makes a virtual environment, where the image has none."""
        # Debian's Python has no ensurepip, and its pip is not for the system's own folders.
        script = (
            f"python3 -m venv --without-pip {PACKAGES} && exec python3 -m pip"
            f" --python {PACKAGES}/bin/python3 --disable-pip-version-check --no-input install"
            ' --no-cache-dir --progress-bar off "$@"'
        )
        container = self._container("install", ["sh", "-ec", script, "install"], [])
        container["args"] = list(self.settings.wheels)
        container["resources"] = self._worker_resources()
        container["volumeMounts"] = [
            mount for mount in container["volumeMounts"] if mount["name"] != "given"
        ] + [packages]
        return container

    def _container(self, name: str, command: list[str], arguments: list[str]) -> Manifest:
        environment = {
            "HOME": SCRATCH,
            "TMPDIR": "/tmp",
            "KERAS_HOME": f"{SCRATCH}/keras",
            # The user id has no name in the image, and some libraries ask for one.
            "USER": "nbtrain",
            **self.settings.env,
        }
        return {
            "name": name,
            "image": self.settings.image,
            "command": command,
            "args": arguments,
            "workingDir": SCRATCH,
            "env": [{"name": key, "value": text} for key, text in environment.items()],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            },
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [
                {"name": "given", "mountPath": GIVEN, "readOnly": True},
                {"name": "scratch", "mountPath": SCRATCH},
                {"name": "tmp", "mountPath": "/tmp"},
                {"name": "shm", "mountPath": "/dev/shm"},
            ],
        }

    def _add_data(self, container: Manifest) -> None:
        """Have a worker's container see the Secrets and volumes that the user named."""
        self._add_secrets(container)
        for number, (_, path, read_only) in enumerate(self._data()):
            mount = {"name": f"data-{number}", "mountPath": path}
            container["volumeMounts"].append(mount | ({"readOnly": True} if read_only else {}))

    def _add_secrets(self, container: Manifest) -> None:
        """Have a container see the Secrets that are environment variables."""
        sources = [{"secretRef": {"name": n}} for n in self.settings.secret if ":" not in n]
        if sources:
            container["envFrom"] = sources

    def _data_volumes(self) -> list[Manifest]:
        return [
            {"name": f"data-{number}", **source}
            for number, (source, _, _) in enumerate(self._data())
        ]

    def _data(self) -> list[tuple[Manifest, str, bool]]:
        """Return what is mounted for the user: source, path, and whether it is only read."""
        found: list[tuple[Manifest, str, bool]] = []
        for text in self.settings.secret:
            name, colon, path = text.partition(":")
            if colon:
                source = {"secretName": name, "defaultMode": 0o440}
                found.append(({"secret": source}, path, True))
        for text in self.settings.volumes:
            name, path, *mode = text.split(":")
            found.append(({"persistentVolumeClaim": {"claimName": name}}, path, bool(mode)))
        return found

    def _pod(self, containers: list[Manifest], volumes: list[Manifest]) -> Manifest:
        settings = self.settings
        shm = max(64 * 2**20, settings.memory // 4)
        pod: Manifest = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": UID,
                "runAsGroup": UID,
                "fsGroup": UID,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": containers,
            "volumes": [
                *volumes,
                {"name": "scratch", "emptyDir": {}},
                {"name": "tmp", "emptyDir": {}},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": quantity(shm)}},
            ],
            "tolerations": [
                *(_lost_node(condition) for condition in ("not-ready", "unreachable")),
                *settings.tolerations,
            ],
        }
        asked = {
            "nodeSelector": settings.node_selector,
            "serviceAccountName": settings.service_account,
            "priorityClassName": settings.priority_class,
            "imagePullSecrets": [{"name": name} for name in settings.image_pull_secret],
        }
        return pod | {key: value for key, value in asked.items() if value}

    def _given_volume(self, secret: str, files: Iterable[str] = ()) -> Manifest:
        source: Manifest = {"secretName": secret, "defaultMode": 0o440}
        if items := [{"key": name, "path": name} for name in files]:
            source["items"] = items
        return {"name": "given", "secret": source}

    # -- what all have ------------------------------------------------------------------------

    def _template(self, role: str, pod: Manifest) -> Manifest:
        annotations = {
            **self.settings.annotations,
            **_NO_SIDECARS,
            **_NO_EVICTION,
            names.PAYLOAD_SHA256: self.request.payload_sha256,
        }
        labels = {**_NO_SIDECARS, **self._labels(role)}
        template = {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod}
        return merged(template, _for_role(self.settings.template, role))

    def _job(self, role: str, spec: Manifest) -> Manifest:
        name = f"{self.base}-{role}"
        job = self._object("batch/v1", "Job", name, {"spec": spec}, role)
        job["metadata"]["annotations"] = self._about()
        return job

    def _outline(self) -> dict[str, str]:
        """Return what a list of runs shows, and what a pod that serves the volume is like."""
        container = {k: v for k, v in self.request.container.items() if k not in _NOT_TOLD}
        told = dataclasses.replace(
            self.request, container=container, code={}, options={}, versions={}
        ).to_json()
        usual = TrainRequest(name="", id="", seed=-1).to_json()
        return {names.REQUEST: json.dumps({k: v for k, v in told.items() if v != usual[k]})}

    def _about(self) -> dict[str, str]:
        return {
            names.CREATED: f"{self.request.created:.3f}",
            names.WORKERS: str(self.request.workers),
            names.PAYLOAD_SHA256: self.request.payload_sha256,
        }

    def _object(
        self, version: str, kind: str, name: str, body: Mapping[str, Any], role: str = ""
    ) -> Manifest:
        metadata = {"name": name, "labels": self._labels(role)}
        return {"apiVersion": version, "kind": kind, "metadata": metadata, **body}

    def _labels(self, role: str = "") -> dict[str, str]:
        own = names.labels(self.request.id, self.owner, role)
        return {**self.settings.labels, **own}

    def _selected(self, role: str = "") -> dict[str, str]:
        found = {names.RUN: self.request.id}
        return found | ({names.ROLE: role} if role else {})


def owned(manifest: Manifest, head: Mapping[str, Any]) -> Manifest:
    """Return a manifest that is removed with the head's Job, given as the API returned it."""
    reference = owner_reference(head)
    return {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": [reference]}}


def owner_reference(job: Mapping[str, Any]) -> Manifest:
    """Return how an object names the Job that owns it; deleting the Job need not wait for it."""
    metadata = job["metadata"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": False,
        "blockOwnerDeletion": False,
    }


def quantity(size: int) -> str:
    """Return a number of bytes as Kubernetes writes it."""
    for unit, factor in (("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
        if size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def resources(cores: float, memory: int, disk: int) -> dict[str, str]:
    """Return resources as a container's requests or limits have them."""
    milli = round(cores * 1000)
    cpu = str(milli // 1000) if milli % 1000 == 0 else f"{milli}m"
    # Rounded up to what people can read.
    rounded = -(-disk // 2**20) * 2**20
    return {"cpu": cpu, "memory": quantity(memory), "ephemeral-storage": quantity(rounded)}


def _lost_node(condition: str) -> Manifest:
    return {
        "key": f"node.kubernetes.io/{condition}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": LOST_NODE_S,
    }


def _not_on_spot() -> Manifest:
    """Return a wish: the head is small, and without it nothing is written down."""
    expressions = [
        {"key": key, "operator": "NotIn", "values": [value]} for key, value in _SPOT.items()
    ]
    term = {"weight": 100, "preference": {"matchExpressions": expressions}}
    return {"preferredDuringSchedulingIgnoredDuringExecution": [term]}


def _for_role(template: Mapping[str, Any], role: str) -> Manifest:
    """Return the user's template without the containers that are meant for another role."""
    spec = template.get("spec", {})
    containers = spec.get("containers")
    if not containers:
        return dict(template)
    others = {"head", "worker", "server"} - {role}
    kept = [c for c in containers if c.get("name") not in others]
    return {**template, "spec": {**spec, "containers": kept}}
