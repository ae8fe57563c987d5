"""A trainer: the process of one worker that runs TensorFlow, from its job to its last message."""

from __future__ import annotations

import faulthandler
import itertools
import os
import platform
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import elsewhere, events, memory, traces
from .events import Event, Failed, Phase, Warned
from .request import TrainRequest
from .wire import CHUNK, Channel, Header

_EXPOSED = (
    "TensorFlow's gRPC server, which asks for no password, listens on all addresses of this"
    " machine while the run trains, since it can't be kept to loopback here ({})"
)


@dataclass(frozen=True)
class Job:
    """What a trainer is to do in this generation.

    `worker` is the worker's number for as long as the run lasts, `index` its place among the
    `workers` that train in this generation and in `cluster`, which has their addresses.
    `resume` is the checkpoint to go on from (None: from the beginning) and `files` what callbacks
    had written until then, `scratch` the folder to run in, `stacks` the file for a hang's stacks.
    """

    worker: int
    index: int
    workers: int
    generation: int
    cluster: list[str]
    request: TrainRequest
    payload: Path
    resume: Path | None
    files: dict[str, Path]
    scratch: Path
    stacks: Path
    environment: dict[str, str]

    @classmethod
    def from_header(cls, header: Header) -> Job:
        """Return the job of the first frame that a trainer gets."""
        return cls(
            worker=header["worker"],
            index=header["index"],
            workers=header["workers"],
            generation=header["generation"],
            cluster=header["cluster"],
            request=TrainRequest.from_json(header["request"]),
            payload=Path(header["payload"]),
            resume=Path(header["resume"]) if header["resume"] else None,
            files={name: Path(path) for name, path in header["files"].items()},
            scratch=Path(header["scratch"]),
            stacks=Path(header["stacks"]),
            environment=header["environment"],
        )

    @property
    def chief(self) -> bool:
        """The first worker tells and saves what is the same on all."""
        return self.index == 0


class Control:
    """A trainer's line to its agent: what it says, and what it is told meanwhile."""

    def __init__(self, channel: Channel, frames: Iterator[tuple[Header, bytes]], job: Job) -> None:
        self._channel, self._frames, self.job = channel, frames, job
        self._changed = threading.Condition()
        self._count = 0
        self._examples = 0.0
        self._numbers = itertools.count(1)
        self._stopping = False
        self._target: int | None = None
        self._go = False
        threading.Thread(target=self._listen, name="nbtrain-control", daemon=True).start()

    def say(self, event: Event) -> None:
        """Send an event."""
        number = next(self._numbers)
        self._channel.send({"say": "event", "event": _fields(event), "number": number})

    def phase(self, phase: str, reason: str = "") -> None:
        """Say what this worker does now."""
        self.advance()
        self.say(
            Phase(
                worker=self.job.worker,
                phase=phase,
                reason=reason,
                pid=os.getpid(),
                host=platform.node(),
            )
        )

    def advance(self) -> None:
        """Count that the main thread got on; the head takes a count that stands for a hang."""
        self._count += 1

    def trained(self, examples: float) -> None:
        """Count examples that this worker has trained on; the head takes that count, too."""
        self._examples += examples

    def done(self) -> None:
        """Say that all is sent, and wait for the end.

        The head ends all trainers together: TensorFlow takes a worker that leaves for a failure.
        """
        self._channel.send({"say": "done"})
        threading.Event().wait()

    def send_file(
        self, what: str, path: str, pieces: Iterable[memoryview | bytes], **where: int
    ) -> None:
        """Send a file to be kept in the run directory as `path`."""
        header = {"say": "file", "what": what, "path": path, **where}
        for piece in pieces:
            view = memoryview(piece)
            for start in range(0, len(view), CHUNK):
                self._channel.send({**header, "last": False}, view[start : start + CHUNK])
                self.advance()
        self._channel.send({**header, "last": True})

    def stops_after(self, step: int) -> bool:
        """Tell whether to stop now that `step` steps are done; the same on all workers.

        The protocol is described at `head._Stop`.
        """
        if not self._stopping:
            return False
        with self._changed:
            if self._target is None:
                self._channel.send({"say": "paused", "step": step})
                self._changed.wait_for(lambda: self._go)
            return self._target is not None and step >= self._target

    def _listen(self) -> None:
        for message, _ in self._frames:
            match message["do"]:
                case "ping":
                    self._channel.send({"say": "pong", **self._about()})
                case "stop":
                    self._stopping = True
                case "stop_after":
                    with self._changed:
                        self._stopping, self._target = True, message["step"]
                    self._channel.send({"say": "heard"})
                case "go":
                    with self._changed:
                        self._go = True
                        self._changed.notify_all()
        os._exit(0)  # the agent is gone: nobody waits for this trainer any more

    def _about(self) -> Header:
        return {"count": self._count, "examples": self._examples, "memory": memory.resident()}


def main(fd: int, exposed: str = "it was not forked") -> int:
    """Do one job; returns the exit code.

    `exposed` says why TensorFlow's server could not be kept to this machine; empty if it is.
    """
    os.setpgid(0, 0)  # so that processes which user code starts end with this one
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what is printed comes
    channel = Channel(socket.socket(fileno=fd))
    frames = channel.receive()
    first = next(frames, None)
    if first is None:
        return 0
    job = Job.from_header(first[0])
    faulthandler.register(signal.SIGUSR1, file=job.stacks.open("w"), all_threads=True)
    job.scratch.mkdir(exist_ok=True)
    os.chdir(job.scratch)
    os.environ.update(job.environment)
    memory.limit(job.request.memory)
    control = Control(channel, frames, job)
    if exposed and job.chief and all(a.startswith("127.") for a in job.cluster):
        control.say(Warned(code="grpc-open", message=_EXPOSED.format(exposed), worker=0))
    try:
        from .fit import train

        train(job, control)
    except BaseException as error:  # all of them are told; also SystemExit in user code
        traceback.print_exc()
        control.say(_failed(job, error))
        return 1
    control.done()
    return 0


def _failed(job: Job, error: BaseException) -> Failed:
    worker, cause = job.worker, traces.cause(error)
    message = traces.message(error)
    if job.request.rehearses and elsewhere.may_work(error, job.request.container):
        return Failed(worker=worker, cause="elsewhere", message=message)
    if cause in ("refused", "version"):
        return Failed(worker=worker, cause=cause, message=str(error))
    text = traces.text(error) + _hint(error)
    return Failed(worker=worker, cause=cause, message=message, traceback=text)


def _hint(error: BaseException) -> str:
    """Return what to do about an error that comes from working in another process."""
    if isinstance(error, FileNotFoundError):
        return (
            "Workers run in a folder of their own: send data files with --files, or give an"
            " absolute path that every worker has.\n"
        )
    if isinstance(error, ModuleNotFoundError):
        return (
            f"The workers have no module {error.name!r}: install it where they run, or keep it"
            " beside the notebook as a .py file, so that it travels.\n"
        )
    if traces.cause(error) == "apart":
        return (
            "One worker computed something that all compute together, and the others did not: a"
            " callback that calls evaluate() or predict() has to do so on every worker.\n"
        )
    return ""


def _fields(event: Event) -> dict[str, Any]:
    import json

    fields: dict[str, Any] = json.loads(events.encode(event))
    return fields
