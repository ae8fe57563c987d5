"""What the cluster says of a run, as it changes: pods, Jobs and the Events about them.

Each kind is mirrored by one list and one watch that goes on from it, whatever the number of
workers. A watch that breaks off goes on from the last version seen; where that is too long ago all
is listed anew. What is kept is the newest of every object, so that nothing counts twice.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ...backend import Placement
from ...errors import BackendError
from . import names
from .client import Client, hang_up
from .errors import ApiError, Gone, Unreachable
from .explain import GONE, PENDING, explain, explain_job, worker_of

Object = Mapping[str, Any]

#: How long until a connection that was refused is tried again, in seconds: at first, at most.
RETRY_S = (0.2, 5.0)
#: A watch that can't be had (of Events, without the right to) is asked for so rarely, in seconds.
FORBIDDEN_S = 60.0
#: What was allowed once may be refused for so long before that counts, in seconds.
REFUSED_S = 15.0


class Mirror:
    """The objects of one kind, as they are now.

    Parameters
    ----------
    client, kind, labels
        What is mirrored.
    changed
        Gets the kind after every change.
    prefix
        Objects that belong to others (Events have no labels) are left out by their name.
    """

    def __init__(
        self,
        client: Client,
        kind: str,
        changed: queue.SimpleQueue[str],
        *,
        labels: str = "",
        prefix: str = "",
    ) -> None:
        self.kind = kind
        self.objects: dict[str, Object] = {}
        self.error: BackendError | None = None
        self.listed = threading.Event()
        self._client, self._labels, self._prefix = client, labels, prefix
        self._changed = changed
        self._stopped = threading.Event()
        self._refused = 0.0  # since when it is
        self._response: Any = None
        self._thread = threading.Thread(
            target=self._run, name=f"nbtrain-watch-{kind.lower()}", daemon=True
        )

    def start(self) -> Mirror:
        """Begin to list and watch."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End; returns when the thread has."""
        self._stopped.set()
        while self._thread.is_alive():
            response = self._response
            if response is not None:
                hang_up(response)
            self._thread.join(0.05)

    def _run(self) -> None:
        since, pause = "", RETRY_S[0]
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                since = self._watch(since or self._list())
            except Gone:
                since = ""
            except Unreachable as error:
                self._tell(error)
            except ApiError as error:
                self._tell(error)
                since = ""
                if error.status in (401, 403) and not self.listed.is_set():
                    self._stopped.wait(FORBIDDEN_S)
            if time.monotonic() - began > RETRY_S[1]:
                pause = RETRY_S[0]  # it went well for a while
            self._stopped.wait(pause)
            pause = min(pause * 2, RETRY_S[1])

    def refusal(self) -> ApiError | None:
        """Return why the cluster says no, if that counts.

        What it has allowed before it may refuse for moments: an API server that has just started
        does not know all rights yet.
        """
        error = self.error
        if not isinstance(error, ApiError):
            return None
        passes = self.listed.is_set() and time.monotonic() - self._refused < REFUSED_S
        return None if passes else error

    def _tell(self, error: BackendError) -> None:
        if isinstance(error, ApiError) and not isinstance(self.error, ApiError):
            self._refused = time.monotonic()
        self.error = error
        self._changed.put(self.kind)

    def _list(self) -> str:
        """Take all there is in place of what was known; return the version to go on from."""
        found = self._client.find(self.kind, labels=self._labels)
        self.objects = {item["metadata"]["uid"]: item for item in found["items"] if self._own(item)}
        self.error = None
        self.listed.set()
        self._changed.put(self.kind)
        return str(found["metadata"]["resourceVersion"])

    def _watch(self, since: str) -> str:
        """Take changes until the server ends the watch or it breaks off; return where to go on."""
        with contextlib.suppress(Unreachable):
            for change in self._client.watch(
                self.kind, since, labels=self._labels, opened=self._opened
            ):
                if self._stopped.is_set():
                    break
                self.error = None
                since = change["object"]["metadata"]["resourceVersion"]
                self._take(change["type"], change["object"])
            return since
        # It broke off. If the server is not there, asking for a list says so, and waits.
        if not self._stopped.is_set():
            self._client.reachable()
        return since

    def _opened(self, response: Any) -> None:
        self._response = response

    def _take(self, change: str, item: Object) -> None:
        if change == "BOOKMARK" or not self._own(item):
            return
        objects = dict(self.objects)  # a reader may be looking at the old one
        if change == "DELETED":
            objects.pop(item["metadata"]["uid"], None)
        else:
            objects[item["metadata"]["uid"]] = item
        self.objects = objects
        self._changed.put(self.kind)

    def _own(self, item: Object) -> bool:
        about = item.get("involvedObject") or item["metadata"]
        return str(about.get("name", "")).startswith(self._prefix)


def _as_it_is(placement: Placement) -> Placement:
    return placement


class RunWatch:
    """The placements of one run's head and workers.

    Parameters
    ----------
    base
        What the names of the run's objects begin with.
    """

    def __init__(self, client: Client, run_id: str, base: str) -> None:
        self._changes: queue.SimpleQueue[str] = queue.SimpleQueue()
        labels = names.selector({names.RUN: run_id})
        self._jobs = Mirror(client, "Job", self._changes, labels=labels)
        self._pods = Mirror(client, "Pod", self._changes, labels=labels)
        self._events = Mirror(client, "Event", self._changes, prefix=base)
        self._told: dict[int | None, Placement] = {}

    def placements(
        self, tick_s: float = 1.0, shown: Callable[[Placement], Placement] = _as_it_is
    ) -> Iterator[Placement]:
        """Yield every placement that is new, until the run's Jobs have ended or are gone.

        Parameters
        ----------
        tick_s
            So often all is looked at again, also where the cluster has nothing new. Seconds.
        shown
            Returns a placement with what others than the cluster know of it.

        Raises
        ------
        BackendError
            If Jobs or pods can't be looked at.
        """
        mirrors = (self._jobs, self._pods, self._events)
        for mirror in mirrors:
            mirror.start()
        try:
            while True:
                yield from self._news(shown)
                if self._over():
                    return
                self._wait(tick_s)
        finally:
            for mirror in mirrors:
                mirror.stop()

    def pods(self, worker: int | None) -> list[Object]:
        """Return the pods of a worker or, for None, of the head, those that have ended too."""
        return [pod for pod in _at_work(self._pods.objects.values()) if worker_of(pod) == worker]

    def _wait(self, tick_s: float) -> None:
        """Wait for a change; several at once are looked at together."""
        with contextlib.suppress(queue.Empty):
            self._changes.get(timeout=tick_s)
            while True:
                self._changes.get_nowait()

    def _news(self, shown: Callable[[Placement], Placement]) -> Iterator[Placement]:
        for mirror in (self._jobs, self._pods):
            if refusal := mirror.refusal():
                raise refusal
        if not (self._jobs.listed.is_set() and self._pods.listed.is_set()):
            return
        found = placed(
            list(self._jobs.objects.values()),
            list(self._pods.objects.values()),
            list(self._events.objects.values()),
        )
        for placement in map(shown, found):
            if self._told.get(placement.worker) != placement:
                self._told[placement.worker] = placement
                yield placement

    def _over(self) -> bool:
        if not self._jobs.listed.is_set():
            return False
        by_role = _by_role(self._jobs.objects.values())
        return not by_role or any(finished(job) for job in by_role.values())


def placed(jobs: list[Object], pods: list[Object], events: list[Object]) -> Iterator[Placement]:
    """Yield the placements of a run: of each worker's newest pod, or why it has none."""
    newest: dict[int | None, Object] = {}
    for pod in sorted(_at_work(pods), key=_made_at):
        newest[worker_of(pod)] = pod
    for role, job in sorted(_by_role(jobs).items()):
        count = int(job.get("spec", {}).get("completions") or 1)
        workers: list[int | None] = [None] if role == "head" else list(range(count))
        for worker in workers:
            if worker in newest:
                yield _with_job(explain(newest[worker], events), job, events)
            else:
                yield without_pod(worker, job, events)


def _at_work(pods: Iterable[Object]) -> list[Object]:
    """Return the pods that train; others may serve the results."""
    roles = ("head", "worker")
    return [pod for pod in pods if pod["metadata"].get("labels", {}).get(names.ROLE) in roles]


def _made_at(pod: Object) -> str:
    return str(pod["metadata"].get("creationTimestamp", ""))


def finished(job: Object) -> bool:
    """Tell whether a Job has ended, well or not."""
    conditions = job.get("status", {}).get("conditions") or ()
    return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions)


def without_pod(worker: int | None, job: Object, events: list[Object]) -> Placement:
    """Return where a Job's pod is that is not there, and why."""
    reason, fix, stuck = explain_job(job, events)
    if finished(job):
        return Placement(worker, GONE, reason or "done", fix=fix, stuck=stuck)
    return Placement(worker, PENDING, reason or "waits for its pod", fix=fix, stuck=stuck)


def _with_job(placement: Placement, job: Object, events: list[Object]) -> Placement:
    """Return a placement; of a pod that is gone and can't be replaced, why it can't."""
    if placement.phase != GONE or placement.reason == "done":
        return placement
    reason, fix, stuck = explain_job(job, events)
    if not reason:
        return placement
    both = f"{placement.reason}; it can't be replaced: {reason}"
    return Placement(placement.worker, GONE, both, placement.host, fix, stuck)


def _by_role(jobs: Any) -> dict[str, Object]:
    found = {job["metadata"].get("labels", {}).get(names.ROLE, ""): job for job in jobs}
    return {role: job for role, job in found.items() if role in ("head", "worker")}
