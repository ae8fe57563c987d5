"""What the cluster knows of a pod or Job, in words: pure functions of its objects and Events.

Quota, LimitRange and PodSecurity rejections, pulling and scale-up exist only as Events.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ...backend import Placement
from . import names
from .errors import forbidden

Object = Mapping[str, Any]

PENDING, RUNNING, GONE = "pending", "running", "gone"

#: Why a container waits, where it will go on waiting until somebody mends something.
_PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
#: Conditions of a pod that was taken away, and who did it.
_DISRUPTIONS = {
    "PreemptionByScheduler": "a pod of a higher priority took its place",
    "DeletionByTaintManager": "its node is gone or does not answer",
    "EvictionByEvictionAPI": "its node is being drained",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "its node ran short of something, or was shut down",
}
_LESS = "Ask for less (--cpu, --memory, --gpus, --workers), or free some of the cluster."
#: What becomes of a pod that was taken away through no fault of its own.
_REPLACED = "It is replaced."
_EVICTED = "it was evicted: "


@dataclass(frozen=True)
class _Story:
    """What there is to say of a pod."""

    phase: str
    reason: str = ""
    fix: str = ""
    stuck: bool = False


_INSTALLING = _Story(
    PENDING, "installing packages (faster with an image that has them: %k8s_image build)"
)


def explain(pod: Object, events: Iterable[Object] = ()) -> Placement:
    """Return what a pod does, and if it can't, why and what to do.

    Parameters
    ----------
    pod
        As the API has it.
    events
        The Events of the namespace; those of other objects are left out here.
    """
    own = in_order(e for e in events if e["involvedObject"].get("uid") == pod["metadata"]["uid"])
    story = _story(pod, own)
    return Placement(
        worker_of(pod),
        story.phase,
        story.reason,
        host=pod.get("spec", {}).get("nodeName", ""),
        fix=story.fix,
        stuck=story.stuck,
    )


def worker_of(pod: Object) -> int | None:
    """Return the worker whose pod this is; None for the head's."""
    index = pod["metadata"].get("labels", {}).get(names.INDEX) or pod["metadata"].get(
        "annotations", {}
    ).get(names.INDEX)
    return int(index) if index is not None and index.isdecimal() else None


def node_is_lost(pod: Object) -> bool:
    """Tell whether a pod's node does not answer: the cluster then calls it not ready.

    Its containers were so when they were last heard of.
    """
    status = pod.get("status", {})
    ready, containers = (_condition(status, c) for c in ("Ready", "ContainersReady"))
    if ready is None or containers is None:
        return False
    return (ready.get("status"), containers.get("status")) == ("False", "True")


def in_order(events: Iterable[Object]) -> list[Object]:
    """Return Events from the oldest to the newest."""
    return sorted(events, key=_when)


def _when(event: Object) -> str:
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    # All are RFC 3339 in UTC, some with microseconds: their first 19 characters sort.
    return max((str(t)[:19] for t in times if t), default="")


def _story(pod: Object, events: Sequence[Object]) -> _Story:
    status = pod.get("status", {})
    phase = status.get("phase", "Pending")
    if phase == "Succeeded":
        return _Story(GONE, "done")
    if phase == "Failed":
        return _failed(pod, status)
    if pod["metadata"].get("deletionTimestamp"):
        return _Story(GONE, _disruption(status) or "it is being deleted")
    waiting = _first_waiting(status)
    if waiting is not None and (found := _cannot_start(pod, *waiting, events)):
        return found
    if phase == "Running":
        return _Story(GONE, "its node does not answer") if node_is_lost(pod) else _Story(RUNNING)
    return _pending(pod, status, events)


# -- pods that wait -------------------------------------------------------------------------------


def _pending(pod: Object, status: Object, events: Sequence[Object]) -> _Story:
    scheduled = _condition(status, "PodScheduled")
    if not pod.get("spec", {}).get("nodeName"):
        return _unscheduled(str(scheduled.get("message", "")) if scheduled else "", events)
    for event in reversed(events):
        match event.get("reason"):
            case "FailedMount" | "FailedAttachVolume":
                return _mount_failed(str(event.get("message", "")))
            case "FailedCreatePodSandBox":
                return _Story(PENDING, f"its network is not ready: {_short(event['message'])}")
            case "Pulling":
                return _Story(PENDING, f"pulling the image {_quoted(event)}".rstrip())
            case "Started" | "Created" if _init_running(status):
                return _INSTALLING
            case "Pulled":
                return _Story(PENDING, "starting")
    if _init_running(status):
        return _INSTALLING
    return _Story(PENDING, "starting")


def _unscheduled(message: str, events: Sequence[Object]) -> _Story:
    for event in reversed(events):
        if event.get("reason") == "TriggeredScaleUp":
            return _Story(PENDING, "the cluster adds a node for it")
        if event.get("reason") == "FailedScheduling" and not message:
            message = str(event.get("message", ""))
    # What follows tells of the attempt to make room by ending other pods.
    parts = re.split(r"\.? (?:preemption: |no new claims to deallocate)", message)
    said = _short(parts[0]).rstrip(". ,")
    if not said:
        return _Story(PENDING, "waits for the scheduler")
    if "PersistentVolume's node affinity" in said or "volume node affinity" in said:
        reason = "its volume is on a node that is away, and with that node it comes back"
        return _Story(PENDING, f"{reason}: {said}")
    fix = ""
    if "Insufficient" in said or "Too many pods" in said:
        fix = _LESS
    elif "unbound" in said or "persistentvolumeclaim" in said.lower():
        fix = "Mind --storage-class; --storage none does without a volume."
    elif "taint" in said or "affinity" in said or "selector" in said:
        fix = "Mind --node-selector and --tolerations; `kubectl describe nodes` shows the nodes'."
    return _Story(PENDING, f"no node takes it yet: {said}", fix)


def _mount_failed(message: str) -> _Story:
    said = _short(message.rpartition("rpc error: ")[2] or message)
    missing = re.search(r'(secret|configmap|persistentvolumeclaim) "([^"]+)" not found', message)
    if missing:
        return _Story(
            PENDING,
            f"there is no {missing[1]} {missing[2]} in the namespace",
            f"Create it, or correct --{'volume' if missing[1].startswith('p') else 'secret'}.",
            stuck=True,
        )
    if "Multi-Attach" in message:
        return _Story(PENDING, f"its volume is still attached to another node: {said}")
    return _Story(PENDING, f"a volume can't be mounted: {said}", "It is tried again.")


# -- containers that can't start ------------------------------------------------------------------


def _first_waiting(status: Object) -> tuple[Object, Object] | None:
    """Return the first container that waits, with why."""
    for container in _containers(status):
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return container, waiting
    return None


def _cannot_start(
    pod: Object, container: Object, waiting: Object, events: Sequence[Object]
) -> _Story | None:
    reason, message = waiting["reason"], str(waiting.get("message", ""))
    if reason in _PULL:
        return _not_pulled(_image(pod, container), reason, message, events)
    if reason in _CONFIG:
        return _not_created(message)
    return None


def _not_pulled(image: str, reason: str, message: str, events: Sequence[Object]) -> _Story:
    if reason == "InvalidImageName":
        return _Story(PENDING, f"{image} is not the name of an image", "Mind --image.", stuck=True)
    # "Back-off pulling image" says nothing; the Event before it does.
    texts = [message, *(str(e.get("message", "")) for e in events if e.get("reason") == "Failed")]
    said = " ".join(texts)
    if re.search(r"not found|manifest unknown|does not exist", said):
        return _Story(
            PENDING,
            f"there is no image {image}",
            "Mind --image; `%k8s_image push` brings one there.",
            stuck=True,
        )
    if re.search(r"unauthorized|denied|forbidden|authentication required|401|403", said):
        return _Story(
            PENDING,
            f"the registry does not give out {image}: it wants credentials",
            "--image-pull-secret names a Secret with them (`kubectl create secret"
            " docker-registry`).",
            stuck=True,
        )
    why = _short(next((t for t in reversed(texts) if "pull" in t and "Back-off" not in t), message))
    return _Story(
        PENDING,
        f"the image {image} can't be pulled: {why}",
        "The node tries again; is the registry reachable from the cluster?",
        # The first failure may be a moment's.
        stuck=reason == "ImagePullBackOff" and len(texts) > 2,
    )


def _not_created(message: str) -> _Story:
    said = _short(message)
    fix = "Mind --pod-template, --secret and --env."
    if missing := re.search(r'(secret|configmap) "([^"]+)" not found', message):
        said = f"there is no {missing[1]} {missing[2]} in the namespace"
        fix = "Create it, or correct --secret."
    elif "runAsNonRoot" in message:
        fix = "The image must not need root; `%k8s_image build` makes one that does not."
    elif "executable file not found" in message or "no such file" in message:
        said = "the image has no python3"
        fix = "Take an image with Python; `%k8s_image build` makes one."
    return _Story(PENDING, f"its container can't be made: {said}", fix, stuck=True)


# -- pods that ended ------------------------------------------------------------------------------


def _failed(pod: Object, status: Object) -> _Story:
    if status.get("reason") == "DeadlineExceeded":
        return _Story(GONE, "its time was over (--max-time)")
    ended = _first_failed(status)
    if ended is not None and ended[1].get("reason") == "OOMKilled":
        return _out_of_memory(pod, ended[0])
    if status.get("reason") == "Evicted":
        return _Story(
            GONE,
            f"{_EVICTED}{_short(str(status.get('message', '')))}",
            _REPLACED,
        )
    if disruption := _disruption(status):
        return _Story(GONE, disruption, _REPLACED)
    if ended is None:
        return _Story(GONE, _short(str(status.get("message") or status.get("reason") or "failed")))
    container, state = ended
    if container["name"] == "install":
        return _Story(
            GONE,
            f"the packages could not be installed: {_last_line(state)}",
            "--env PIP_INDEX_URL=… names an index that pods reach; an image that has the packages"
            " needs none (`%k8s_image build` makes one).",
            stuck=True,
        )
    return _Story(GONE, f"{_exit(state)}: {_last_line(state)}".removesuffix(": "))


def _out_of_memory(pod: Object, container: Object) -> _Story:
    limits = _container_spec(pod, container).get("resources", {}).get("limits", {})
    limit = limits.get("memory", "")
    has = f" (it has {limit})" if limit else ""
    return _Story(GONE, f"out of memory{has}", "Ask for more with --memory.")


def _exit(state: Object) -> str:
    code = int(state.get("exitCode", 0))
    if code > 128:
        return f"killed by signal {code - 128}"
    return f"exit code {code}"


def _last_line(state: Object) -> str:
    lines = str(state.get("message", "")).strip().splitlines()
    return _short(lines[-1]) if lines else ""


def _disruption(status: Object) -> str:
    condition = _condition(status, "DisruptionTarget")
    if condition is None or condition.get("status") != "True":
        return ""
    reason = str(condition.get("reason", ""))
    return _DISRUPTIONS.get(reason, str(condition.get("message", reason)))


# -- pods that fail again and again ---------------------------------------------------------------


def failures(pods: Iterable[Object], since: float = -math.inf) -> int:
    """Return how many pods failed by themselves.

    Those that were preempted, drained or lost with their node say nothing of the next one. Of those
    that looked for the head in vain the ones count that went on doing so after `since` (Unix time).
    """
    failed = (pod for pod in pods if _failed_by_itself(pod.get("status", {})))
    return sum(not _lacked_head(pod) or _ended_at(pod) >= since for pod in failed)


def given_up(placement: Placement, count: int, despite: str) -> Placement:
    """Return the placement of a head or worker of which `count` pods failed, stuck.

    `despite` says what none of them has come to.
    """
    fix = placement.fix
    if placement.reason.startswith(_EVICTED):
        fix = "`kubectl describe nodes` shows what they lack; --node-selector names others."
    elif "agent: no head at" in placement.reason:
        fix = "`%k8s_doctor --probe` finds out why pods don't reach each other."
    elif not fix:
        fix = "Mind --image, --env and --pod-template."
    reason = f"{placement.reason}; {count} of its pods have failed, and {despite}"
    return dataclasses.replace(placement, reason=reason, fix=fix, stuck=True)


def _failed_by_itself(status: Object) -> bool:
    if status.get("phase") != "Failed":
        return False
    if why := status.get("reason"):  # said by the node, and not by a container's end
        return bool(why == "Evicted")
    return _first_failed(status) is not None and not _disruption(status)


def _lacked_head(pod: Object) -> bool:
    ended = _first_failed(pod["status"])
    return ended is not None and _last_line(ended[1]).startswith("agent: ")


def _ended_at(pod: Object) -> float:
    status = pod.get("status", {})
    ended = _first_failed(status)
    times = [c.get("lastTransitionTime") for c in status.get("conditions") or ()]
    times += [ended[1].get("finishedAt") if ended else None]
    # All are RFC 3339 in UTC, which sorts.
    last = max((t for t in times if t), default=pod["metadata"]["creationTimestamp"])
    return datetime.fromisoformat(last).timestamp()


def lasted(pod: Object) -> float:
    """Return for how long the container that failed was at work, in seconds; 0 if none was."""
    ended = _first_failed(pod.get("status", {}))
    began = ended[1].get("startedAt") if ended else None
    return _ended_at(pod) - datetime.fromisoformat(began).timestamp() if began else 0.0


# -- Jobs -----------------------------------------------------------------------------------------


def explain_job(job: Object, events: Iterable[Object]) -> tuple[str, str, bool]:
    """Return why a Job has no pods: reason, what to do, and whether it will stay so.

    Empty where nothing is wrong.
    """
    for condition in job.get("status", {}).get("conditions", ()):
        if condition.get("type") == "Failed" and condition.get("status") == "True":
            if condition.get("reason") == "DeadlineExceeded":
                return "its time was over (--max-time)", "", True
            return f"it was given up: {_short(str(condition.get('message', '')))}", "", True
    own = in_order(e for e in events if e["involvedObject"].get("uid") == job["metadata"]["uid"])
    for event in reversed(own):
        if event.get("reason") == "SuccessfulCreate":
            break
        if event.get("reason") == "FailedCreate":
            said = str(event.get("message", "")).removeprefix("Error creating: ")
            reason, fix = forbidden(said)
            # Room in a quota may come; a rule stays.
            return reason, fix, "exceeded quota" not in said
    return "", "", False


# -- small things ---------------------------------------------------------------------------------


def _containers(status: Object) -> list[Object]:
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]


def _first_failed(status: Object) -> tuple[Object, Object] | None:
    for container in _containers(status):
        state = container.get("state", {}).get("terminated")
        if state and (state.get("exitCode") or state.get("reason") == "OOMKilled"):
            return container, state
    return None


def _init_running(status: Object) -> bool:
    states = (c.get("state", {}) for c in status.get("initContainerStatuses", ()))
    return any("running" in state for state in states)


def _condition(status: Object, kind: str) -> Object | None:
    found: Iterable[Object] = status.get("conditions") or ()
    return next((c for c in found if c.get("type") == kind), None)


def _container_spec(pod: Object, container: Object) -> Object:
    spec = pod.get("spec", {})
    every = [*spec.get("initContainers", ()), *spec.get("containers", ())]
    return next((c for c in every if c.get("name") == container.get("name")), {})


def _image(pod: Object, container: Object) -> str:
    return str(_container_spec(pod, container).get("image") or container.get("image", ""))


def _quoted(event: Object) -> str:
    match = re.search(r'"([^"]+)"', str(event.get("message", "")))
    return match[1] if match else ""


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 240 else text[:239] + "…"
