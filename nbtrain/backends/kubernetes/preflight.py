"""What a run needs of a cluster, looked at before the first object exists.

Every check is a function that returns a `Check`: one sentence, and what to do where it fails.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import yaml

from ...errors import BackendError
from ...runtime.request import TrainRequest
from ..together import together
from . import names
from .backend import check_pods, check_volume, has_storage, settings
from .client import KINDS, Client
from .errors import ApiError, NotFound, no_namespace
from .manifests import Manifests
from .quota import Amounts, added, of_pod, of_run, shortages
from .settings import PodSettings

OK, FAILED, WARNING, UNKNOWN = "ok", "failed", "warning", "unknown"

#: Every right that a run needs, by kind or part of one, and what for.
RIGHTS: dict[str, tuple[str, ...]] = {
    "Job": ("create", "get", "list", "watch", "patch", "delete"),
    "Pod": ("get", "list", "watch", "delete"),
    "Pod/exec": ("get", "create"),
    "Secret": ("create", "get", "list", "patch", "delete"),
    "Service": ("create", "list", "delete"),
    "PersistentVolumeClaim": ("create", "get", "list", "delete"),
    "NetworkPolicy": ("create", "list", "delete"),
    "Event": ("list", "watch"),
}
#: Those that a start insists on: without Events a run only says less of what keeps its pods.
NEEDED = {kind: verbs for kind, verbs in RIGHTS.items() if kind != "Event"}
#: What makes it faster or clearer, and can be done without.
WISHES: dict[str, tuple[str, ...]] = {
    "Pod": ("create",),  # to have the cluster check a pod before anything is made
    "Pod/proxy": ("get", "create", "update"),
}
#: So many questions are asked at a time.
AT_A_TIME = 4
#: How long a quota may take to count what has just been deleted, in seconds, and how often is
#: looked.
SETTLE_S, LOOK_S = 2.0, 0.2


@dataclass(frozen=True)
class Check:
    """The result of a check.

    `state` is "ok", "failed", "warning" where a run works and one should know, or "unknown" where
    one may not look.
    """

    name: str
    state: str
    sentence: str
    fix: str = ""


def checks(client: Client, request: TrainRequest) -> Iterator[Check]:
    """Yield the results of all checks; where the cluster can't be reached that is the only one."""
    first = reachable(client)
    yield first
    if first.state == FAILED:
        return
    yield namespace(client)
    yield rights(client)
    yield image(client, request)
    yield storage(client, request)
    yield admission(client, request)
    yield quota(client, Manifests(request, settings(client, request), names.user()))


def admitted(client: Client, request: TrainRequest) -> Manifests:
    """Return a run's manifests, once nothing is known that keeps the run from starting.

    All is asked at the same time, so that it takes as long as the slowest answer.

    Raises
    ------
    BackendError
        What is in the way; of several things that which has to be mended first.
    """

    def pods() -> Manifests:
        manifests = Manifests(request, settings(client, request), names.user())
        together(
            lambda: _insist(quota(client, manifests)),
            lambda: check_volume(client, manifests),
            lambda: check_pods(client, manifests),
        )
        return manifests

    manifests: Manifests = together(
        lambda: _insist(namespace(client)),
        lambda: _insist(needed_rights(client)),
        lambda: _insist(_named_class(client, request)),
        pods,
    )[-1]
    return manifests


def _insist(check: Check) -> None:
    if check.state == FAILED:
        raise BackendError(check.sentence, check.fix)


def reachable(client: Client) -> Check:
    """Check that the API server answers, and knows who asks."""
    try:
        version = client.reachable()
    except BackendError as error:
        return Check("cluster", FAILED, error.message, error.fix)
    said = f"{client.context} ({client.host}) answers, Kubernetes {version}."
    return Check("cluster", OK, said)


def namespace(client: Client) -> Check:
    """Check that the namespace is there; who may not look at it may still work in it."""
    name = client.namespace
    try:
        found = client.get("Namespace", name)
    except NotFound:
        return Check("namespace", FAILED, *no_namespace(name))
    except ApiError:
        return Check("namespace", UNKNOWN, f"{name}: you may not look at namespaces.")
    labels = found["metadata"].get("labels") or {}
    level = labels.get("pod-security.kubernetes.io/enforce", "")
    return Check("namespace", OK, f"{name} is there" + (f", and {level}." if level else "."))


# -- rights ---------------------------------------------------------------------------------------


def rights(client: Client) -> Check:
    """Check every right that a run needs; the fix is the Role that is missing."""
    try:
        missing = missing_rights(client, RIGHTS)
        wishes = missing_rights(client, WISHES)
    except ApiError as error:
        return Check("rights", UNKNOWN, f"you may not ask for your rights: {error.message}")
    if missing:
        return _lacking(client, missing)
    less = ""
    if "Pod/proxy" in wishes:
        less = " Without a right to pods/proxy files come by exec, which is slower."
    return Check("rights", OK, f"you may do in {client.namespace} what a run needs.{less}")


def needed_rights(client: Client) -> Check:
    """Check the rights that a start can't do without, by one question where that is enough."""
    try:
        missing = missing_rights(client, _not_listed(client, NEEDED))
    except ApiError as error:
        return Check("rights", UNKNOWN, f"you may not ask for your rights: {error.message}")
    return _lacking(client, missing) if missing else Check("rights", OK, "")


def _lacking(client: Client, missing: dict[str, tuple[str, ...]]) -> Check:
    lacking = ", ".join(f"{verb} {kind}" for kind, verbs in missing.items() for verb in verbs)
    return Check(
        "rights",
        FAILED,
        f"you lack rights in {client.namespace}: {lacking}.",
        "If this is the right --namespace, ask the cluster's administrator for this Role, bound to"
        " you:\n" + role_yaml(client.namespace, missing),
    )


def _not_listed(client: Client, wanted: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return the rights that are not in the list of the user's, which need not be complete."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": client.namespace},
    }
    try:
        rules = client.create(review)["status"].get("resourceRules") or []
    except ApiError:
        return wanted
    found = {
        kind: tuple(v for v in verbs if not any(_gives(rule, kind, v) for rule in rules))
        for kind, verbs in wanted.items()
    }
    return {kind: verbs for kind, verbs in found.items() if verbs}


def _gives(rule: Mapping[str, Any], kind: str, verb: str) -> bool:
    """Tell whether a rule gives a right to all objects of a kind."""
    group, resource, part = _resource(kind)
    resources = {"*", f"{resource}/{part}", f"*/{part}"} if part else {"*", resource}
    return (
        not rule.get("resourceNames")
        and not {"*", verb}.isdisjoint(rule.get("verbs") or ())
        and not {"*", group}.isdisjoint(rule.get("apiGroups") or ())
        and not resources.isdisjoint(rule.get("resources") or ())
    )


def missing_rights(
    client: Client, wanted: dict[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Return those of the rights that the user has not got, in the client's namespace."""
    asked = [(kind, verb) for kind, verbs in wanted.items() for verb in verbs]
    parts = [asked[first::AT_A_TIME] for first in range(AT_A_TIME)]
    answers = together(*(partial(_those_allowed, client, part) for part in parts))
    has = {right for part in answers for right in part}
    found = {
        kind: tuple(verb for verb in verbs if (kind, verb) not in has)
        for kind, verbs in wanted.items()
    }
    return {kind: verbs for kind, verbs in found.items() if verbs}


def _those_allowed(client: Client, asked: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [right for right in asked if allowed(client, *right)]


def allowed(client: Client, kind: str, verb: str) -> bool:
    """Tell whether the user may do this, as the API server sees it (SelfSubjectAccessReview)."""
    group, resource, part = _resource(kind)
    attributes = {
        "namespace": client.namespace,
        "verb": verb,
        "group": group,
        "resource": resource,
        "subresource": part,
    }
    review = client.create(
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
    )
    return bool(review["status"]["allowed"])


def role_yaml(namespace: str, rights: dict[str, tuple[str, ...]]) -> str:
    """Return the Role that gives these rights, as YAML."""
    rules = []
    for kind, verbs in rights.items():
        group, resource, part = _resource(kind)
        name = f"{resource}/{part}" if part else resource
        rules.append({"apiGroups": [group], "resources": [name], "verbs": list(verbs)})
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "nbtrain", "namespace": namespace},
        "rules": rules,
    }
    text: str = yaml.safe_dump(role, sort_keys=False)
    return text


def _resource(kind: str) -> tuple[str, str, str]:
    """Return group, resource and subresource of "Job" or "Pod/exec"."""
    name, _, part = kind.partition("/")
    path, plural = KINDS[name]
    group = path.split("/")[1] if path.startswith("apis/") else ""
    return group, plural, part


# -- what the pods need ---------------------------------------------------------------------------


def image(client: Client, request: TrainRequest) -> Check:
    """Tell which image the pods run in."""
    found = settings(client, request)
    if not found.wheels:
        return Check("image", OK, f"pods run in {found.image} (--probe tries to pull it).")
    packages = ", ".join(found.wheels)
    return Check(
        "image",
        OK,
        f"no image is configured: pods run in {found.image} and install {packages} first, which"
        " takes a minute or more each time.",
        "%k8s_image build and push make one that has them; %k8s_config image=… keeps it.",
    )


def storage(client: Client, request: TrainRequest) -> Check:
    """Check that the results' volume can be had."""
    asked = PodSettings.of(request, image="")
    if not asked.volume:
        return Check("storage", OK, "no volume is asked for: results live and die with the head.")
    if asked.storage_class:
        return _named_class(client, request)
    there = has_storage(client)
    if there is None:
        said = "you may not look at storage classes; results go to a volume of the default one."
        return Check("storage", UNKNOWN, said, "--storage-class names another.")
    if there:
        return Check("storage", OK, "results go to a volume of the cluster's default class.")
    return Check(
        "storage",
        OK,
        "the cluster has no default storage class: results live and die with the head, which"
        " serves them for a day.",
        "--storage-class names a class (kubectl get storageclass).",
    )


def _named_class(client: Client, request: TrainRequest) -> Check:
    """Check that the storage class that is asked for is there, if one is."""
    asked = PodSettings.of(request, image="")
    name = asked.storage_class
    if not name or not asked.volume:
        return Check("storage", OK, "no class is asked for.")
    try:
        client.get("StorageClass", name)
    except NotFound:
        fix = "kubectl get storageclass lists them."
        return Check("storage", FAILED, f"there is no storage class {name}.", fix)
    except ApiError:
        return Check("storage", UNKNOWN, f"{name}: you may not look at storage classes.")
    return Check("storage", OK, f"results go to a volume of the class {name}.")


def admission(client: Client, request: TrainRequest) -> Check:
    """Check that the namespace admits the pods: PodSecurity, LimitRange, quota, webhooks."""
    if not allowed(client, "Pod", "create"):
        return Check("pods", UNKNOWN, "you may not create pods, so this can't be tried beforehand.")
    try:
        check_pods(client, Manifests(request, settings(client, request), names.user()))
    except ApiError as error:
        return Check("pods", FAILED, error.message, error.fix)
    return Check("pods", OK, "the namespace admits the head's and the workers' pods.")


def quota(client: Client, manifests: Manifests) -> Check:
    """Check that the namespace's quota has room for all pods of a run, and tell what is left."""
    try:
        found = client.find("ResourceQuota")["items"]
        if short := _short_of(client, found, manifests):
            workers = manifests.request.workers
            return Check(
                "quota",
                FAILED,
                f"the namespace's quota has no room for a head and {workers} worker"
                f"{'' if workers == 1 else 's'}: {'; '.join(short)}.",
                "Ask for less (--cpu, --memory, --workers), or delete old runs (%k8s_runs).",
            )
    except ApiError:
        return Check("quota", UNKNOWN, "you may not look at quotas.")
    if not found:
        return Check("quota", OK, "the namespace has no quota.")
    shown = []
    for item in found:
        status = item.get("status", {})
        used, hard = status.get("used", {}), status.get("hard", {})
        parts = ", ".join(f"{key} {used.get(key, '0')} of {limit}" for key, limit in hard.items())
        shown.append(f"{item['metadata']['name']}: {parts}")
    return Check("quota", OK, f"used of the quota {'; '.join(shown)}.")


def _short_of(client: Client, quotas: list[Any], manifests: Manifests) -> list[str]:
    """Return what the quotas lack for a run.

    What is there of an earlier run of its name makes room for it (--replace), or is this very run,
    which is gone on with. What has just been deleted is counted for a moment still.
    """
    needed = of_run(manifests)
    short = shortages(quotas, needed, {})
    deadline = time.monotonic() + SETTLE_S
    while short and time.monotonic() < deadline:
        short = shortages(quotas, needed, _held(client, manifests))
        if short:
            time.sleep(LOOK_S)
            quotas = client.find("ResourceQuota")["items"]
    return short


def _held(client: Client, manifests: Manifests) -> Amounts:
    """Return what pods of runs of this name and user take of a quota."""
    own = names.labels(manifests.request.id, manifests.owner)
    labels = names.selector({key: own[key] for key in (names.NAME, names.USER)})
    return added(
        of_pod(pod["spec"])
        for pod in client.find("Pod", labels=labels)["items"]
        if pod["status"].get("phase") not in ("Succeeded", "Failed")
    )


def example(options: dict[str, object], versions: dict[str, str]) -> TrainRequest:
    """Return a request as a cell with these settings would make it, to check its pods."""
    from ...request import make_request

    taken = {k: v for k, v in options.items() if k not in ("keep", "live", "warm")}
    request = make_request("doctor", {**taken, "seed": 0})
    values = {**request.to_json(), "versions": versions, "id": f"doctor-0-0-{secrets.token_hex(2)}"}
    return TrainRequest.from_json(values)
