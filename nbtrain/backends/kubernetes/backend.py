"""Runs as Jobs of a cluster. All that is known of a run is there: labels, and the run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ...backend import Placement, RunRef, Sent, untold
from ...errors import BackendError, NameInUse, NoSuchRun
from ...runtime.request import TrainRequest
from ...runtime.rundir import RunDir
from ...transfer import Transfer
from ..together import together
from . import names
from .client import Client, Object
from .errors import AlreadyExists, ApiError, NotFound, Unreachable
from .explain import GONE, PENDING, RUNNING, explain, node_is_lost
from .failing import Failing, head_shown
from .files import PodFiles
from .images import check_known, chosen_image
from .manifests import Given, Manifests, owned, owner_reference
from .places import Places
from .settings import PodSettings
from .watch import RunWatch, finished, without_pod

#: How often is looked for the head's pod, and whether a run has stopped, in seconds.
POLL_S = 0.5
#: How long the workers of a run that has ended may take to go by themselves, in seconds.
SEE_OFF_S = 10.0
#: How long a run's objects may take to go once they are deleted, in seconds.
DELETE_S = 90.0
#: A pod that is still there so long after it was deleted is on a node that does not answer. The
#: cluster waits for that node, and nothing that such a pod may still do counts in a run. Seconds.
SILENT_S = 15.0
#: How long a pod that serves a volume may wait for a node, in seconds: one may have to be made.
SERVED_S = 180.0
#: Everything a run consists of; Secret and volume last, since pods mount them.
KINDS = ("Job", "Pod", "Service", "NetworkPolicy", "Secret", "PersistentVolumeClaim")


class KubernetesBackend:
    """Trains on a cluster; a run goes on when the kernel that started it is gone."""

    name = "kubernetes"

    def __init__(self) -> None:
        self._places = Places()
        self._uploads: dict[str, _Upload] = {}
        self._files: dict[str, PodFiles] = {}
        self._asked_for: dict[str, float] = {}  # since when pods that serve volumes are waited for
        self._lock = threading.Lock()

    # -- starting -----------------------------------------------------------------------------

    def check(self, request: TrainRequest) -> None:
        """Raise if the cluster can't be reached, or does not admit the run; see `Backend.check`."""
        together(lambda: self._admitted(request), lambda: check_image(request))

    def _admitted(self, request: TrainRequest) -> tuple[Client, Manifests]:
        """Return where a run goes, and its objects, which the cluster has had a look at."""
        from .preflight import admitted  # which asks with this module's functions

        client = self._places.client(request.container)
        return client, admitted(client, request)

    def start(self, request: TrainRequest, payload: Path, sent: Sent = untold) -> RunRef:
        """Make the run's objects; see `Backend.start`.

        The payload is sent afterwards where it does not fit into a Secret.

        Raises
        ------
        BackendError
            If the cluster can't be reached, or does not admit the run; then nothing is left there.
        NameInUse
            If a head is at work on this run already.
        """
        from ...payload import runtime_zip

        (client, manifests), left, _ = together(
            lambda: self._admitted(request),
            lambda: _jobs(self._places.client(request.container), request.id),
            lambda: check_image(request),
        )
        given = Given.of(request, runtime_zip(), payload, secrets.token_urlsafe(32))
        self._make_room(client, request.id, left)
        made: list[str] = []
        try:
            head = create(client, manifests, given, made)
        except BaseException:
            # A volume that was there before holds what a run is gone on with.
            keep = "PersistentVolumeClaim" not in made
            with contextlib.suppress(BackendError):
                remove(client, _selector(request.id), keep_volume=keep)
            raise
        self._places.settle(request.id, client)
        # Where a run is gone on with, its directory has the payload already.
        if "payload.bin" not in given.files() and payload.is_file():
            files = self._waiting_files(client, request.id)
            self._uploads[request.id] = _Upload(files, payload, request.payload_sha256)
        lost = PodSettings.of(request, image="").volume and not manifests.settings.volume
        warnings = (_NO_VOLUME,) if lost else ()
        return dataclasses.replace(_ref([head]), request="", warnings=warnings)

    def _make_room(self, client: Client, run_id: str, jobs: list[Object]) -> None:
        """Remove what is left of a run that is gone on with: all but its volume."""
        if _live(jobs):
            raise NameInUse(f"the run {run_id} is at work already")
        if jobs:
            remove(client, _selector(run_id), keep_volume=True)

    # -- looking ------------------------------------------------------------------------------

    def runs(self) -> Iterator[RunRef]:
        """Yield the user's runs in the settings' namespace, and where others were started.

        They are newest first.

        Raises
        ------
        BackendError
            After all runs, if one of the clusters can't be reached.
        """
        yield from self._places.runs(lambda client: runs(client, names.user()))

    def placements(self, run: RunRef) -> Iterator[Placement]:
        """Yield where head and workers are, and what keeps them, until the run has ended."""
        client = self._places.of(run.id)
        watch = RunWatch(client, run.id, names.base(run.id, names.user()))
        upload = self._uploads.get(run.id)
        failing = Failing(lambda: self._head_files(client, run.id))

        def shown(placement: Placement) -> Placement:
            if placement.worker is None and upload:
                placement = upload.shown(placement)
            if placement.phase != GONE:
                return placement
            pods = watch.pods(placement.worker)
            if placement.worker is None:
                return head_shown(placement, pods)
            return failing.shown(placement, pods)

        yield from watch.placements(shown=shown)

    def read(
        self, run: RunRef, path: str, offset: int = 0, follow: bool = False
    ) -> Iterator[bytes]:
        """Yield a file of the run directory, from the head or, once it is gone, from its volume."""
        client = self._places.of(run.id)
        if path == RunDir.REQUEST and (request := _request(client, run.id)):
            yield request[offset:]
            return
        last = not follow  # whether what is read now is all that there will be
        while True:
            files = self._readable(client, run.id, follow)
            if files is None:
                yield b""
                time.sleep(POLL_S)
                continue
            try:
                for piece in files.read(path, offset, follow):
                    offset += len(piece)
                    yield piece
            except NotFound:
                continue  # the pod is gone; there may be another one
            except BackendError:
                if _running_pod(client, run.id, files.role) == files.pod:
                    raise
                continue  # it went while it was read from
            if last:
                break
            # To the reader in the pod a run whose head has not begun is one that has ended. What
            # was written before the end came is read once more.
            last = _has_ended(files) or not _live(_jobs(client, run.id))
            if not last:
                yield b""
                time.sleep(POLL_S)
        if follow:
            _in_background(lambda: see_off(client, run.id))

    def _readable(self, client: Client, run_id: str, follow: bool) -> PodFiles | None:
        """Return the run directory where it can be read; None if there will be a way soon."""
        files = self._head_files(client, run_id)
        if files is not None:
            return files
        if not _live(_jobs(client, run_id)):
            return self._served_files(client, run_id)
        if not follow:
            if lost := _lost_head(client, run_id):
                raise Unreachable(lost, _LOST_FIX)
            raise FileNotFoundError(f"{run_id}: its head has not begun yet")
        return None

    # -- ending -------------------------------------------------------------------------------

    def stop(self, run: RunRef, grace_s: float) -> None:
        """Ask the head to stop; after `grace_s` (0: at once) end all pods of the run."""
        client = self._places.of(run.id)
        self._require(client, run)
        deadline = time.monotonic() + grace_s
        asked = False
        while _live(_jobs(client, run.id)):
            if time.monotonic() >= deadline:
                kill(client, run.id)
                return
            files = None if asked else self._head_files(client, run.id)
            if files is not None:
                with contextlib.suppress(BackendError):  # the head may be on its way
                    files.ask("stop")
                    asked = True
            time.sleep(POLL_S)

    def delete(self, run: RunRef) -> None:
        """Remove all objects of the run, its volume too, and wait until they are gone."""
        client = self._places.of(run.id)
        self._require(client, run)
        remove(client, _selector(run.id))
        self._places.forget(run.id)
        for known in (self._uploads, self._files):
            known.pop(run.id, None)

    def _require(self, client: Client, run: RunRef) -> None:
        if not any(client.find(kind, labels=_selector(run.id))["items"] for kind in KINDS):
            raise NoSuchRun(f"the run {run.id} is gone from this namespace (deleted?)")

    # -- where things are ---------------------------------------------------------------------

    def _head_files(self, client: Client, run_id: str) -> PodFiles | None:
        """Return the run directory in the head's pod; None while there is none that runs."""
        return self._files_in(client, run_id, "head", names.base(run_id, names.user()))

    def _files_in(self, client: Client, run_id: str, role: str, secret: str) -> PodFiles | None:
        pod = _running_pod(client, run_id, role)
        if not pod:
            return None
        with self._lock:
            known = self._files.get(run_id)
        if known is None or known.pod != pod:
            known = PodFiles(client, pod, role, _token(client, secret))
            with self._lock:
                self._files[run_id] = known
        return known

    def _waiting_files(self, client: Client, run_id: str) -> Callable[[], PodFiles]:
        def wait() -> PodFiles:
            while (files := self._head_files(client, run_id)) is None:
                if not _live(_jobs(client, run_id)):
                    raise BackendError("the run ended before its payload was sent")
                time.sleep(POLL_S)
            return files

        return wait

    def _served_files(self, client: Client, run_id: str) -> PodFiles | None:
        """Return the run directory in a pod that serves the volume; one is started if need be."""
        base = names.base(run_id, names.user())
        try:
            claim = client.get("PersistentVolumeClaim", base)
        except NotFound:
            raise NoSuchRun(
                f"the results of {run_id} are gone: its head has ended, and it had no volume.",
                "--storage gives the next run one.",
            ) from None
        files = self._files_in(client, run_id, "server", f"{base}-server")
        if files is None:
            serve(client, run_id, claim)
            asked = self._asked_for.setdefault(run_id, time.monotonic())
            try:
                check_server(client, run_id, patient=time.monotonic() - asked < SERVED_S)
            except BackendError:
                del self._asked_for[run_id]
                raise
        else:
            self._asked_for.pop(run_id, None)
        return files


class _Upload:
    """A payload on its way to a head, which may have to be waited for first."""

    def __init__(self, files: Callable[[], PodFiles], payload: Path, sha256: str) -> None:
        # Opened now: the file may be removed as soon as the run has been started.
        self._payload = payload.open("rb")
        self.total, self.sent = payload.stat().st_size, 0
        self.error: BackendError | None = None
        self.done = threading.Event()
        self._files, self._sha256 = files, sha256
        self._transfer = Transfer("gets the payload")
        threading.Thread(target=self._run, name="nbtrain-upload", daemon=True).start()

    def _run(self) -> None:
        try:
            files = self._files()
            self._transfer = Transfer("gets the payload")  # the head may have been long in coming
            files.put(self._payload, self._sha256, self._on_sent)
        except BackendError as error:
            self.error = error
        except OSError as error:
            self.error = BackendError(f"the payload can't be read: {error}")
        except Exception as error:  # the head would wait for ever
            self.error = BackendError(f"{type(error).__name__}: {error}")
        finally:
            self._payload.close()
            self.done.set()

    def _on_sent(self, sent: int) -> None:
        self.sent = sent

    def shown(self, head: Placement) -> Placement:
        """Return the placement of a head; if it runs, it waits for this payload."""
        if head.phase != RUNNING:
            return head
        if self.error is not None:
            reason = f"the payload could not be sent: {self.error.message}"
            return dataclasses.replace(
                head, phase=PENDING, reason=reason, fix=self.error.fix, stuck=True
            )
        if self.done.is_set():
            return head
        return dataclasses.replace(head, reason=self._transfer.said(self.sent, self.total))


# -- what a cluster is asked ----------------------------------------------------------------------


def check_image(request: TrainRequest) -> None:
    """Refuse an image of the user's choice that is known here not to fit; see `check_known`."""
    if image := request.container.get("image"):
        check_known(str(image))


def settings(client: Client, request: TrainRequest) -> PodSettings:
    """Return what the pods will be like, with what only the cluster can say."""
    image, wheels = chosen_image(request)
    found = PodSettings.of(request, image=image, wheels=wheels)
    if found.volume and not found.storage_class:
        claim = Manifests(request, found, names.user()).volume_claim()
        if _gets_class(client, claim) is False:
            return PodSettings.of(request, image=image, wheels=wheels, volume=False)
    return found


def _gets_class(client: Client, claim: Object) -> bool | None:
    """Tell whether the cluster gives a claim its default storage class; None if it does not say.

    That can be tried by whoever may make the claim. Not everybody may look at storage classes.
    """
    try:
        return bool(client.create(claim, dry_run=True)["spec"].get("storageClassName"))
    except ApiError:  # what is in the way is said when the run is made
        return None


def has_storage(client: Client) -> bool | None:
    """Tell whether the cluster has a default storage class; None if one may not look."""
    mark = "storageclass.kubernetes.io/is-default-class"
    try:
        classes = client.find("StorageClass")["items"]
    except ApiError:
        return None
    return any((c["metadata"].get("annotations") or {}).get(mark) == "true" for c in classes)


def check_volume(client: Client, manifests: Manifests) -> None:
    """Have the cluster check the volume's claim before anything is made: quotas count it."""
    if not manifests.settings.volume:
        return
    claim = manifests.volume_claim()
    try:
        client.create(claim, dry_run=True)
    except ApiError:
        if not _is_there(client, claim):
            raise


def check_pods(client: Client, manifests: Manifests) -> None:
    """Have the cluster check a pod of each Job before anything is made.

    Quota, LimitRange, PodSecurity and webhooks look at pods; of a Job they would only be known by
    Events.
    """
    together(*(partial(_check_pod, client, job) for job in (manifests.head(), manifests.workers())))


def _check_pod(client: Client, job: Object) -> None:
    template = job["spec"]["template"]
    metadata = {**template["metadata"], "name": job["metadata"]["name"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    try:
        client.create(pod, dry_run=True)
    except ApiError as error:
        if "cannot create resource" not in error.message:
            raise  # who may only make Jobs learns of it by the Events


def create(
    client: Client, manifests: Manifests, given: Given, made: list[str] | None = None
) -> Object:
    """Make the objects of a run, the head's Job owning the rest; return that Job.

    What does not need one another is made at the same time: the workers' Job should not wait for
    ten answers. The kinds of those that it can't start without are added to `made` as they are
    made.
    """
    made = [] if made is None else made
    together(*(partial(_create, client, m, made) for m in manifests.before_head(given)))
    head = client.create(manifests.head())
    owner = {"metadata": {"ownerReferences": [owner_reference(head)]}}
    *others, workers = [owned(manifest, head) for manifest in manifests.after_head()]
    together(*(partial(client.create, manifest) for manifest in others))
    together(
        partial(client.create, workers),
        partial(client.patch, "Secret", manifests.base, owner),
    )
    return head


def _create(client: Client, manifest: Object, made: list[str]) -> None:
    try:
        client.create(manifest)
    except ApiError:
        # The run is gone on with. A quota refuses a claim before it is seen that it is there.
        if manifest["kind"] != "PersistentVolumeClaim" or not _is_there(client, manifest):
            raise
    else:
        made.append(manifest["kind"])


def _is_there(client: Client, manifest: Object) -> bool:
    try:
        client.get(manifest["kind"], manifest["metadata"]["name"])
    except ApiError:
        return False
    return True


def serve(client: Client, run_id: str, claim: Object) -> None:
    """Start the Job that serves a run's volume, unless it is there."""
    annotations = claim["metadata"].get("annotations") or {}
    plain = {"name": names.run_name(run_id), "id": run_id, "seed": 0}
    request = TrainRequest.from_json(json.loads(annotations.get(names.REQUEST, "null")) or plain)
    image, pull = _image_of(annotations)
    chosen = PodSettings.of(request, image=image, image_pull_secret=pull)
    manifests = Manifests(request, chosen, names.user())
    from ...payload import runtime_zip

    token = secrets.token_urlsafe(32)
    with contextlib.suppress(AlreadyExists):
        try:
            job = client.create(manifests.server())
        except AlreadyExists:
            name = manifests.server()["metadata"]["name"]
            if not finished(client.get("Job", name)):
                raise
            client.delete("Job", name)  # that of an earlier time; the next look makes another one
            return
        secret = manifests.server_secret(runtime_zip().read_bytes(), token)
        client.delete("Secret", secret["metadata"]["name"])
        client.create(owned(secret, job))
        # Not before: a pod whose Secret is not there yet looks like one that can't start.
        client.patch("Job", job["metadata"]["name"], {"spec": {"suspend": False}})


def check_server(client: Client, run_id: str, *, patient: bool = True) -> None:
    """Raise if the pod that serves a run's volume can't start, and remove it.

    Where its image is missing the run itself had no chance either, and whoever waits for it would
    wait for ever. Who is not `patient` any more does not wait for a node either.
    """
    label = _selector(run_id, "server")
    jobs, pods = (client.find(kind, labels=label)["items"] for kind in ("Job", "Pod"))
    events = client.find("Event")["items"]
    told = [explain(pod, events) for pod in pods]
    if not pods:
        told = [without_pod(None, job, events) for job in jobs]
    for found in told:
        if found.stuck or (found.phase == PENDING and not found.host and not patient):
            client.delete("Job", f"{names.base(run_id, names.user())}-server")
            why = f"the results of {run_id} can't be read from their volume: {found.reason}"
            raise BackendError(why, found.fix)


def _image_of(annotations: dict[str, str]) -> tuple[str, tuple[str, ...]]:
    pull = annotations.get(names.PULL_SECRETS, "")
    return annotations.get(names.IMAGE, ""), tuple(name for name in pull.split(",") if name)


def runs(client: Client, owner: str) -> Iterator[RunRef]:
    """Yield the runs of a user, also those of which only the volume is left."""
    labels = names.selector({names.MANAGED_BY: "nbtrain", names.USER: owner})
    labels += f",!{names.PROBE}"
    by_run: dict[str, list[Object]] = {}
    for kind in ("Job", "PersistentVolumeClaim"):
        for item in client.find(kind, labels=labels)["items"]:
            by_run.setdefault(item["metadata"]["labels"][names.RUN], []).append(item)
    for items in by_run.values():
        jobs = [item for item in items if "template" in item.get("spec", {})]
        yield dataclasses.replace(
            _ref(items), live=_live(jobs), stored=_stored(jobs, items), context=client.context
        )


def see_off(client: Client, run_id: str) -> None:
    """End the workers of a run that has ended, if they do not go by themselves.

    One that the head refused, or that came too late, would be started again and again; one whose
    node died is never heard of again, and until then the cluster does not call the Job complete.
    """
    deadline = time.monotonic() + SEE_OFF_S
    with contextlib.suppress(BackendError):
        while _live(_jobs(client, run_id)):
            if time.monotonic() > deadline:
                for pod in client.find("Pod", labels=_selector(run_id, "worker"))["items"]:
                    if "deletionTimestamp" in pod["metadata"]:
                        client.delete("Pod", pod["metadata"]["name"], grace_s=0)
                name = f"{names.base(run_id, names.user())}-worker"
                client.patch("Job", name, {"spec": {"suspend": True}})
                return
            time.sleep(POLL_S)


def kill(client: Client, run_id: str) -> None:
    """End all pods of a run; its Jobs stay, suspended, and with them the results."""
    for job in _jobs(client, run_id):
        client.patch("Job", job["metadata"]["name"], {"spec": {"suspend": True}})
    for pod in client.find("Pod", labels=_selector(run_id))["items"]:
        client.delete("Pod", pod["metadata"]["name"], grace_s=1)


def remove(client: Client, labels: str, *, keep_volume: bool = False) -> None:
    """Delete all objects with these labels and wait until they are gone.

    Raises
    ------
    BackendError
        If something is still there after a while.
    """
    kinds = KINDS[:-1] if keep_volume else KINDS
    deadline = time.monotonic() + DELETE_S
    asked: dict[str, float] = {}
    while True:
        left = [(k, item) for k in kinds for item in client.find(k, labels=labels)["items"]]
        if not left:
            return
        now = time.monotonic()
        for kind, item in left:
            since = asked.setdefault(item["metadata"]["uid"], now)
            if since == now:
                grace = 1 if kind == "Pod" else None
                client.delete(kind, item["metadata"]["name"], grace_s=grace)
            elif kind == "Pod" and now - since > SILENT_S:
                client.delete(kind, item["metadata"]["name"], grace_s=0)
        if now > deadline:
            shown = ", ".join(f"{kind} {item['metadata']['name']}" for kind, item in left)
            raise BackendError(f"not deleted within {DELETE_S:g} s: {shown}", "Try again later.")
        time.sleep(POLL_S / 5)


def _in_background(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="nbtrain-see-off", daemon=True).start()


def _has_ended(files: PodFiles) -> bool:
    """Tell whether a run has ended: its model card is the last thing that its head writes."""
    try:
        return any(files.read(RunDir.CARD))
    except FileNotFoundError:
        return False


def _jobs(client: Client, run_id: str) -> list[Object]:
    found: list[Object] = client.find("Job", labels=_selector(run_id))["items"]
    return [job for job in found if job["metadata"]["labels"].get(names.ROLE) != "server"]


def _live(jobs: list[Object]) -> bool:
    """Tell whether a run is at work: a head that lingers, its workers gone, is not."""
    by_role = {job["metadata"]["labels"].get(names.ROLE): job for job in jobs}
    return {"head", "worker"} <= set(by_role) and not any(
        finished(job) or job["spec"].get("suspend") for job in by_role.values()
    )


def _stored(jobs: list[Object], items: list[Object]) -> bool:
    """Tell whether what is left of a run is its volume, with no head that would serve it."""
    heads = [job for job in jobs if job["metadata"]["labels"].get(names.ROLE) == "head"]
    return len(items) > len(jobs) and all(
        finished(job) or job["spec"].get("suspend") for job in heads
    )


def _running_pod(client: Client, run_id: str, role: str) -> str:
    """Return the name of the newest running pod of a role whose node answers; "" if none is."""
    found = client.find("Pod", labels=_selector(run_id, role))["items"]
    running = [
        pod["metadata"]
        for pod in found
        if pod["status"].get("phase") == "Running"
        and "deletionTimestamp" not in pod["metadata"]
        and not node_is_lost(pod)
    ]
    newest = max(running, key=lambda m: str(m["creationTimestamp"]), default=None)
    return newest["name"] if newest else ""


_NO_VOLUME = (
    "the cluster has no default storage class, so the results have no volume: they live and die"
    " with the head's pod, which serves them for a day after the run; --storage-class names a class"
    " (kubectl get storageclass)"
)
_LOST_FIX = (
    "What it has written is on its volume: the run goes on when another head has that, or when the"
    " node is back."
)


def _lost_head(client: Client, run_id: str) -> str:
    """Return why a head that has begun can't be asked; "" if none has begun."""
    found = client.find("Pod", labels=_selector(run_id, "head"))["items"]
    pods = sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    told = [explain(pod) for pod in pods]
    gone = [placement for placement in told if placement.phase == GONE]
    if not gone:
        return ""
    now = f"; the next one: {told[-1].reason}" if told[-1].phase == PENDING else ""
    return f"the head on {gone[-1].host} can't be asked: {gone[-1].reason}{now}."


def _token(client: Client, secret: str) -> str:
    """Return a run's token; empty where Secrets may not be read, so that exec is the way."""
    try:
        return b64decode(client.get("Secret", secret)["data"]["token"]).decode()
    except (ApiError, KeyError, Unreachable):
        return ""


def _request(client: Client, run_id: str) -> bytes:
    """Return a run's request as its Secret has it; empty if there is none (any more)."""
    try:
        secret = client.get("Secret", names.base(run_id, names.user()))
        return b64decode(secret["data"][RunDir.REQUEST])
    except (ApiError, KeyError):
        return b""


def _selector(run_id: str, role: str = "") -> str:
    return names.selector({names.RUN: run_id} | ({names.ROLE: role} if role else {}))


def _ref(items: list[Object]) -> RunRef:
    """Return where a run is, as one of its objects or several tell it."""
    run_id = items[0]["metadata"]["labels"][names.RUN]
    told: dict[str, str] = {}
    for item in items:
        told |= item["metadata"].get("annotations") or {}
    created, request = float(told.get(names.CREATED, "0")), told.get(names.REQUEST, "")
    return RunRef("kubernetes", names.run_name(run_id), run_id, created, live=True, request=request)
