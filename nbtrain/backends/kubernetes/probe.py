"""What a cluster can only be asked by trying: pods of a run that trains nothing.

A head as runs have it, a worker that listens, a second worker that looks for both, and a stranger
that the run's NetworkPolicy does not admit. All they find out is in their containers' messages.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

from ...backend import Placement
from ...errors import BackendError
from ...runtime.request import TrainRequest
from ...runtime.rundir import RunDir
from ...runtime.versions import misfits
from . import names
from .backend import create, remove, settings
from .client import Client, Object
from .errors import ApiError
from .explain import GONE, PENDING, explain, explain_job
from .files import Exec, Proxy
from .manifests import AGENTS_PORT, Given, Manifest, Manifests, owned
from .merging import merged
from .preflight import FAILED, OK, WARNING, Check
from .settings import GIB, HEAD_CPU, HEAD_MEMORY

#: Where the worker listens: among the ports from which TensorFlow's servers are given theirs.
WORKER_PORT = 40000
#: How long pods may take to start, in seconds: a cluster may have to add a node for them.
START_S = 600.0
#: After how long pods end by themselves, and after how long all is removed by the cluster where
#: nbtrain was killed, in seconds.
LIFE_S, TTL_S = 1200, 60
#: How long the head's server may take to answer, in seconds, and how often is looked.
ANSWER_S, POLL_S = 10.0, 0.3

Tell = Callable[[str], None]


def checks(client: Client, request: TrainRequest, tell: Tell) -> Iterator[Check]:
    """Start pods, yield what they find out, and remove all that was made, whatever happens.

    Parameters
    ----------
    client, request
        Where, and of which run the pods are; see `preflight.example`.
    tell
        Gets in words what is waited for.
    """
    probe = _Probe(client, request, tell)
    try:
        yield from probe.checks()
    except _NotStarted as error:
        yield Check("start", FAILED, error.message, error.fix)
    except BackendError as error:
        yield Check("probe", FAILED, error.message, error.fix)
    finally:
        tell("removing the pods")
        remove(client, probe.selector)


class _NotStarted(BackendError):
    """A pod does not run, and will not soon."""


class _Manifests(Manifests):
    """The manifests of a run whose one worker only listens."""

    def head(self) -> Manifest:
        """Return the head's Job, which takes all with it where nbtrain can't."""
        return _short_lived(super().head())

    def workers(self) -> Manifest:
        """Return the Job of the worker that listens."""
        return self.worker("worker", ["listen", str(WORKER_PORT)])

    def worker(self, name: str, arguments: list[str]) -> Manifest:
        """Return the Job of a pod like a worker's that does something else."""
        job = _short_lived(super().workers())
        job["metadata"]["name"] = f"{self.base}-{name}"
        container = next(c for c in _pod(job)["containers"] if c["name"] == "worker")
        container["args"] = ["probe", *arguments]
        return job

    def stranger(self, arguments: list[str]) -> Manifest:
        """Return the Job of a pod that is none of the run's."""
        job = self.worker("stranger", arguments)
        for label in (names.RUN, names.ROLE):
            del job["spec"]["template"]["metadata"]["labels"][label]
        return job


class _Probe:
    def __init__(self, client: Client, request: TrainRequest, tell: Tell) -> None:
        self._client, self._tell = client, tell
        self._request = dataclasses.replace(request, workers=1)
        chosen = settings(client, request)
        self._packages = chosen.wheels
        labels = {**chosen.labels, names.PROBE: request.id}
        # Its results are not worth a volume, and installing packages takes minutes.
        whole = dataclasses.replace(chosen, labels=labels, wheels=(), volume=False, storage=GIB)
        small = dataclasses.replace(whole, cpu=HEAD_CPU, memory=HEAD_MEMORY, gpus=0)
        owner = names.user()
        self._whole = _Manifests(self._request, whole, owner)
        self._small = _Manifests(self._request, small, owner)
        self._image = chosen.image
        self._token = secrets.token_urlsafe(32)
        self.selector = names.selector({names.PROBE: request.id})

    def checks(self) -> Iterator[Check]:
        began = time.monotonic()
        base = self._whole.base
        head_job = create(self._client, self._whole, self._given())
        pods = self._wait(f"{base}-head", f"{base}-worker")
        head, worker = pods.values()
        yield self._started(time.monotonic() - began, pods)
        yield from self._ways(head)
        targets = [f"{base}:{AGENTS_PORT}", f"{_ip(head)}:{AGENTS_PORT}"]
        targets.append(f"{_ip(worker)}:{WORKER_PORT}")
        asked = ["--package", self._packages[-1]] if self._packages else []
        for job in (
            self._small.worker("caller", ["connect", *targets, *asked]),
            self._small.stranger(["connect", "--refused", targets[-1]]),
        ):
            self._client.create(owned(merged(job, _elsewhere(self._request.id)), head_job))
        callers = self._wait(f"{base}-caller", f"{base}-stranger", ended=True)
        caller, stranger = callers.values()
        yield from self._found(_message(caller), _nodes(caller, worker))
        yield _enforced(_message(caller)["tries"][-1], _message(stranger)["tries"][-1])

    def _given(self) -> Given:
        from ...payload import runtime_zip

        raw = json.dumps(self._request.to_json(), default=str).encode()
        # A head with no payload waits for one, and does not listen for agents before.
        return Given(runtime_zip().read_bytes(), self._token, raw, b"none")

    # -- waiting ------------------------------------------------------------------------------

    def _wait(self, *jobs: str, ended: bool = False) -> dict[str, Object]:
        """Return the pods of Jobs once they run, or have `ended`; by the Jobs' names."""
        deadline = time.monotonic() + START_S
        while True:
            found = {job: self._look(job) for job in jobs}
            waiting = [p for p in (_not_yet(*one, ended) for one in found.values()) if p]
            if not waiting:
                return {job: pod for job, (pod, _) in found.items() if pod}
            if failed := next((p for p in waiting if p.stuck or p.phase == GONE), None):
                raise _NotStarted(f"a pod does not run: {failed.reason}.", failed.fix)
            reason = waiting[0].reason or "they look around"
            if time.monotonic() > deadline:
                late = f"the pods do not run after {START_S:g} s: {reason}."
                raise _NotStarted(late, waiting[0].fix)
            self._tell(f"waiting for pods: {reason}")
            time.sleep(POLL_S)

    def _look(self, job: str) -> tuple[Object | None, Placement]:
        """Return the pod of a Job, if it has one already, and what there is to say of it."""
        events = self._client.find("Event")["items"]
        for pod in self._client.find("Pod", labels=self.selector)["items"]:
            if any(o["name"] == job for o in pod["metadata"].get("ownerReferences", ())):
                return pod, explain(pod, events)
        reason, fix, stuck = explain_job(self._client.get("Job", job), events)
        return None, Placement(None, PENDING, reason or "they are made", fix=fix, stuck=stuck)

    # -- results ------------------------------------------------------------------------------

    def _started(self, seconds: float, pods: dict[str, Object]) -> Check:
        where = " and ".join(sorted({pod["spec"]["nodeName"] for pod in pods.values()}))
        return Check("start", OK, f"pods started on {where} with {self._image} in {seconds:.0f} s.")

    def _ways(self, head: Object) -> Iterator[Check]:
        """Check the two ways to a run's files; one that works is enough."""
        pod = head["metadata"]["name"]
        self._tell("asking the head for a file")
        slow = self._problem(lambda: self._by_exec(pod))
        fast = self._problem(lambda: Proxy(self._client, pod, self._token).works())
        neither = FAILED if slow and fast else WARNING
        if fast:
            said = f"the API server does not reach pods by HTTP ({fast}): files come by exec alone."
            fix = "It is slower and works; the right to pods/proxy, and a way from the control"
            yield Check("proxy", neither, said, f"{fix} plane to the pods' network, mend it.")
        else:
            yield Check("proxy", OK, "files come by HTTP through the API server's pod proxy.")
        if slow:
            said = f"a command in a pod can't be run ({slow}): files come by HTTP alone."
            fix = "Ask for the right to pods/exec; a webhook may forbid it too."
            yield Check("exec", neither, said, fix)
        else:
            yield Check("exec", OK, "commands run in pods, as by kubectl exec.")

    def _by_exec(self, pod: str) -> bool:
        return any(Exec(self._client, pod, "head").frames(RunDir.REQUEST, 0, False))

    def _problem(self, works: Callable[[], bool]) -> str:
        """Return why something does not work, also after a while; "" if it does."""
        deadline = time.monotonic() + ANSWER_S
        problem = ""
        while time.monotonic() < deadline:
            try:
                if works():
                    return ""
                problem = "no answer"
            except ApiError as error:
                return error.message.rstrip(".")
            except (BackendError, FileNotFoundError) as error:
                problem = str(error).rstrip(".")
            time.sleep(POLL_S)
        return problem

    def _found(self, message: dict[str, Any], nodes: str) -> Iterator[Check]:
        yield self._python(message["versions"])
        by_name, *by_address = message["tries"]
        yield _dns(self._whole.base, by_name)
        yield _network(by_address, nodes)
        if self._packages:
            yield _package(self._packages[-1], message["package"])

    def _python(self, versions: dict[str, str]) -> Check:
        name = "python"
        if self._packages:
            return Check(name, OK, f"Python {versions['python']} runs there.")
        has = ", ".join(f"{package} {version}" for package, version in versions.items())
        wrong = "; ".join(misfits(self._request.versions, versions))
        if "tensorflow" not in versions:
            wrong = "it has no TensorFlow"
        if wrong:
            said = f"{self._image} does not fit: {wrong}."
            return Check(name, FAILED, said, "%k8s_image build makes one that does.")
        return Check(name, OK, f"the image has what this environment has: {has}.")


def _dns(name: str, tried: dict[str, str]) -> Check:
    if tried["ip"]:
        return Check("dns", OK, f"in a pod the head's name {name} is {tried['ip']}.")
    return Check(
        "dns",
        FAILED,
        f"the head's name {name} is not known in a pod: {tried['problem']}.",
        "Is the cluster's DNS up (kubectl -n kube-system get pods), and may pods of this namespace"
        " ask it, if it has a NetworkPolicy for what goes out?",
    )


def _network(tries: list[dict[str, str]], nodes: str) -> Check:
    for tried, whom in zip(tries, ("the head", "another worker"), strict=True):
        if tried["problem"]:
            return Check(
                "network",
                FAILED,
                f"a worker's pod does not reach {whom} ({nodes}): {tried['problem']}.",
                "Does a NetworkPolicy of this namespace, or a firewall between the nodes, keep"
                " pods from each other? Workers need all ports.",
            )
    return Check("network", OK, f"pods reach each other on the ports of a run ({nodes}).")


def _package(requirement: str, problem: str) -> Check:
    if not problem:
        return Check("packages", OK, f"pods can install packages ({requirement} came).")
    return Check(
        "packages",
        FAILED,
        f"pods can't install packages: {problem}.",
        "--env PIP_INDEX_URL=… names an index that pods reach; an image (%k8s_image build) needs"
        " none.",
    )


def _enforced(admitted: dict[str, str], refused: dict[str, str]) -> Check:
    """Tell whether a pod that the NetworkPolicy does not admit was kept out."""
    if admitted["problem"]:
        said = "whether NetworkPolicies are enforced can't be told: no pod reached the worker."
        return Check("policy", WARNING, said)
    if refused["problem"]:
        said = "NetworkPolicies are enforced: only the run's own pods reach its workers."
        return Check("policy", OK, said)
    return Check(
        "policy",
        WARNING,
        "NetworkPolicies are not enforced: a pod that is none of the run's reached a worker."
        " TensorFlow asks for no password, so whatever runs in this cluster could have workers"
        " compute something else.",
        "A network with NetworkPolicy (Calico, Cilium, ...) keeps others out; without one, train"
        " where you trust all that runs there.",
    )


def _short_lived(job: Manifest) -> Manifest:
    life = {"activeDeadlineSeconds": LIFE_S, "ttlSecondsAfterFinished": TTL_S}
    return merged(job, {"spec": {**life, "backoffLimitPerIndex": None, "backoffLimit": 0}})


def _elsewhere(run_id: str) -> Manifest:
    """Return what has a pod prefer another node than the worker's: networks break between nodes."""
    worker = {"matchLabels": {names.RUN: run_id, names.ROLE: "worker"}}
    term = {"labelSelector": worker, "topologyKey": "kubernetes.io/hostname"}
    wish = {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 100, "podAffinityTerm": term}
    ]}  # fmt: skip
    return {"spec": {"template": {"spec": {"affinity": {"podAntiAffinity": wish}}}}}


def _not_yet(pod: Object | None, placement: Placement, ended: bool) -> Placement | None:
    """Return the placement of a pod that is not as far as it has to be."""
    phase = pod["status"].get("phase") if pod else ""
    return None if phase == ("Succeeded" if ended else "Running") else placement


def _pod(job: Manifest) -> Manifest:
    spec: Manifest = job["spec"]["template"]["spec"]
    return spec


def _ip(pod: Object) -> str:
    return str(pod["status"]["podIP"])


def _nodes(*pods: Object) -> str:
    nodes = [pod["spec"]["nodeName"] for pod in pods]
    return f"both on {nodes[0]}" if len(set(nodes)) == 1 else f"from {nodes[0]} to {nodes[1]}"


def _message(pod: Object) -> dict[str, Any]:
    """Return what a pod has found out."""
    (status,) = (c for c in pod["status"]["containerStatuses"] if c["name"] == "worker")
    found: dict[str, Any] = json.loads(status["state"]["terminated"]["message"])
    return found
