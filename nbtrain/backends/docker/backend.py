"""What every backend can do, for containers of a Docker engine."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...backend import Placement, RunRef, Sent, untold
from ...errors import BackendError, NameInUse, NoSuchRun
from ...images import choose
from ...images.client import connect, translated
from ...runtime.agent import TOKEN
from ...runtime.errors import Corrupt
from ...runtime.framing import Unframer
from ...runtime.request import TrainRequest
from ...runtime.rundir import RunDir
from ..together import together
from . import engine, specs, tars

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

#: How often the engine is asked how the containers are, in seconds.
POLL_S = 0.5
#: How often a file is asked for again that does not come.
ATTEMPTS = 20
#: States of a container in which it works, or will again by itself.
_LIVE = ("running", "restarting", "paused")


class DockerBackend:
    """Trains in containers; the run directory is a volume, which outlives them."""

    name = "docker"

    def __init__(self) -> None:
        self._connected: DockerClient | None = None

    @property
    def _client(self) -> DockerClient:
        if self._connected is None:
            self._connected = connect()
        return self._connected

    # -- starting -----------------------------------------------------------------------------

    def check(self, request: TrainRequest) -> None:
        """Raise if there is no engine, or no image that fits; see `Backend.check`."""
        with translated("train in containers"):
            self._image(request)

    def _image(self, request: TrainRequest) -> str:
        return choose(
            str(request.container.get("image", "")),
            gpu=bool(request.container.get("gpus")),
            client=self._client,
        )

    def start(self, request: TrainRequest, payload: Path, sent: Sent = untold) -> RunRef:
        """Start a head and workers; see `Backend.start`.

        Raises
        ------
        BackendError
            If there is no engine, or it can't do what is asked.
        ImageError
            If there is no image, or it does not fit the notebook.
        NameInUse
            If a head is at work on this run already.
        """
        with translated("train in containers"):
            if engine.volumes(self._client, request.id):
                self._start_again(request.id)
            else:
                self._start_new(request, payload, sent)
        return RunRef(self.name, request.name, request.id, request.created, live=True)

    def _start_new(self, request: TrainRequest, payload: Path, sent: Sent) -> None:
        image = self._image(request)
        try:
            self._make(request, payload, image, sent)
        except BaseException:
            engine.remove(self._client, request.id)
            raise

    def _make(self, request: TrainRequest, payload: Path, image: str, sent: Sent) -> None:
        from ...payload import runtime_zip

        client = self._client
        about = specs.labels(request, image)
        network = specs.object_name(request.id)
        # The volumes first: by them a run is found, also one whose kernel died just now.
        together(
            *(
                partial(client.volumes.create, name, labels=about)
                for name in (specs.object_name(request.id), specs.object_name(request.id, "given"))
            )
        )
        client.networks.create(network, driver="bridge", labels=about)
        wanted = [
            specs.head(request, image),
            *(specs.worker(request, image, number) for number in range(request.workers)),
        ]
        head, *workers = together(*(partial(engine.create, client, w, network) for w in wanted))
        together(
            partial(_put, head, specs.RUNDIR, {RunDir.REQUEST: _asked(request)}),
            partial(_put, head, specs.GIVEN, _given(runtime_zip())),
            *(partial(_put, container, specs.SCRATCH, {}) for container in workers),
        )
        # Workers import TensorFlow for seconds; the head is there before they look for it.
        together(
            *(container.start for container in workers),
            partial(_start_head, head, payload, sent),
        )

    def _start_again(self, run: str) -> None:
        """Start the containers again that are not running; they go on from the run directory."""
        found = engine.containers(self._client, run)
        roles = {engine.labels(c)[specs.ROLE]: c for c in found}
        head = roles.get(specs.HEAD_ROLE)
        if head is None or specs.WORKER_ROLE not in roles:
            raise BackendError(
                f"the containers of {run} have been removed: it can't go on",
                "Its checkpoints are still there: .load() gives the model of the last one.",
            )
        if engine.state(head) in _LIVE:
            raise NameInUse(f"the run {run} is at work already")
        if engine.state(head) == "created":
            raise BackendError(
                f"{run} was never started: its notebook ended before it had sent everything",
                "Delete it (%k8s_delete) and run its cell again.",
            )
        for container in found:
            is_reader = engine.labels(container)[specs.ROLE] == specs.READER_ROLE
            if not is_reader and engine.state(container) not in _LIVE:
                container.start()

    # -- looking ------------------------------------------------------------------------------

    def runs(self) -> Iterable[RunRef]:
        """Return the runs whose volumes the engine has, newest first; none without an engine."""
        try:
            with translated("look for runs"):
                volumes = engine.volumes(self._client)
                heads = engine.containers(self._client, role=specs.HEAD_ROLE)
        except BackendError:
            return []
        live = {engine.labels(c)[specs.RUN] for c in heads if engine.state(c) in _LIVE}
        found = {}
        for volume in volumes:
            about = volume.attrs["Labels"]
            run, created = about[specs.RUN], float(about[specs.CREATED])
            found[run] = RunRef(self.name, about[specs.NAME], run, created, run in live)
        return sorted(found.values(), key=lambda ref: ref.created, reverse=True)

    def placements(self, run: RunRef) -> Iterator[Placement]:
        """Yield what the engine says of the containers, whenever it changes, while the head is."""
        told: dict[int | None, Placement] = {}
        while True:
            now = {p.worker: p for p in self._placed(run)}
            for worker, placement in now.items():
                if told.get(worker) != placement:
                    yield placement
            told = now
            if None not in now or now[None].phase == "gone":
                return
            time.sleep(POLL_S)

    def _placed(self, run: RunRef) -> Iterator[Placement]:
        with translated("look at containers"):
            found = engine.containers(self._client, run.id)
        for container in found:
            about, state = engine.labels(container), engine.state(container)
            if about[specs.ROLE] == specs.READER_ROLE:
                continue
            worker = int(about[specs.WORKER]) if specs.WORKER in about else None
            phase = "running" if state in _LIVE else "pending" if state == "created" else "gone"
            reason = "" if state == "running" else f"its container is {state}"
            yield Placement(worker, phase, reason, container.short_id)

    # -- reading ------------------------------------------------------------------------------

    def read(
        self, run: RunRef, path: str, offset: int = 0, follow: bool = False
    ) -> Iterator[bytes]:
        """Yield a file of the run directory, read by a process beside the head.

        See `Backend.read`. What breaks off is gone on with where it broke off.
        """
        vain = 0
        while True:
            container = self._readable(run)
            unframer = Unframer()
            before = offset
            if container is not None:
                for piece in self._pieces(container, path, offset, follow, unframer):
                    offset += len(piece)
                    yield piece
            vain = vain + 1 if container is not None and offset == before else 0
            if vain > ATTEMPTS and not follow:
                raise BackendError(f"{path} can't be read from the containers of {run.name}.")
            # While its container lives there is more to come, from this head or the next one.
            if unframer.sealed and not (follow and self._live(run, specs.HEAD_ROLE)):
                return
            yield b""
            time.sleep(POLL_S / 5)

    def _pieces(
        self, container: Container, path: str, offset: int, follow: bool, unframer: Unframer
    ) -> Iterator[bytes]:
        from docker.errors import APIError

        command = ["python", "-I", specs.RUNTIME, "read", specs.RUNDIR, path, "--frames"]
        command += ["--offset", str(offset), *(["--follow"] if follow else [])]
        try:
            for data in engine.execute(self._client, container, command):
                yield from unframer.feed(data) if data else (b"",)
        except FileNotFoundError:
            raise FileNotFoundError(path) from None
        except Corrupt:
            return  # the container has died: what comes then is what the engine says of it
        except APIError as error:
            error.response.close()  # the SDK leaves the connection open
            # Gone; not running, or paused; "not running: Removal In Progress", which is a 500.
            if error.status_code not in (404, 409) and "not running" not in str(error):
                raise

    def _readable(self, run: RunRef) -> Container | None:
        """Return a running container that has the run directory; None if there will be one soon."""
        with translated("read the run"):
            found = engine.containers(self._client, run.id)
            by_role = {engine.labels(c)[specs.ROLE]: c for c in found}
            head = by_role.get(specs.HEAD_ROLE)
            if head is not None and engine.state(head) in _LIVE:
                return head if engine.state(head) == "running" else None
            reader = by_role.get(specs.READER_ROLE) or self._reader(run)
            if engine.state(reader) != "running":
                reader.start()
            return reader

    def _reader(self, run: RunRef) -> Container:
        volumes = engine.volumes(self._client, run.id)
        if not volumes:
            raise NoSuchRun(f"the run {run.id} is gone from this engine (deleted?)")
        about = volumes[0].attrs["Labels"]
        engine.create(self._client, specs.reader(run.id, about[specs.IMAGE], about), "")
        if not engine.volumes(self._client, run.id):
            # Deleted meanwhile: creating the container has made volumes again, with no labels.
            engine.remove(self._client, run.id)
            raise NoSuchRun(f"the run {run.id} is being deleted")
        (reader,) = engine.containers(self._client, run.id, specs.READER_ROLE)
        return reader

    # -- ending -------------------------------------------------------------------------------

    def stop(self, run: RunRef, grace_s: float) -> None:
        """Ask the head to stop; kill its containers after `grace_s`."""
        deadline = time.monotonic() + grace_s
        with translated("stop the run"):
            self._require(run)
            for head in self._live(run, specs.HEAD_ROLE) if grace_s > 0 else ():
                head.kill("SIGTERM")
            while self._live(run, specs.HEAD_ROLE) and time.monotonic() < deadline:
                time.sleep(POLL_S / 5)
            for container in self._live(run):
                with contextlib.suppress(*_gone()):
                    container.kill()

    def _live(self, run: RunRef, role: str = "") -> list[Container]:
        found = engine.containers(self._client, run.id, role)
        return [
            c
            for c in found
            if engine.state(c) in _LIVE and engine.labels(c)[specs.ROLE] != specs.READER_ROLE
        ]

    def delete(self, run: RunRef) -> None:
        """Remove the run's containers, volumes and network; a live one is killed first."""
        with translated("delete the run"):
            self._require(run)
            engine.remove(self._client, run.id)

    def _require(self, run: RunRef) -> None:
        if not engine.volumes(self._client, run.id):
            raise NoSuchRun(f"the run {run.id} is gone from this engine (deleted?)")


def _put(container: Container, path: str, files: dict[str, Any], sent: Sent = untold) -> None:
    """Put files into a folder, of a container that need not be running."""
    # What is given lies in the volume itself, all else in a folder that is the user's own.
    volume, _, folder = (path, "", "") if path == specs.GIVEN else path.rpartition("/")
    container.client.api.put_archive(container.id, volume, tars.packed(files, folder, sent))


def _asked(request: TrainRequest) -> bytes:
    """Return the request as the head reads it; the limit on memory is the container's."""
    return json.dumps(dataclasses.replace(request, memory=0).to_json(), default=str).encode()


def _given(runtime: Path) -> dict[str, Any]:
    """Return the files that the head and the workers are given."""
    return {"runtime.zip": runtime, TOKEN: secrets.token_hex(32).encode()}


def _start_head(head: Container, payload: Path, sent: Sent) -> None:
    """Put into the head's volumes what it alone is given, and start it."""
    _put(head, specs.SCRATCH, {})
    _put(head, specs.RUNDIR, {RunDir.PAYLOAD: payload}, sent)
    head.start()


def _gone() -> tuple[type[Exception], ...]:
    from docker.errors import APIError

    return (APIError,)  # it ended by itself meanwhile
