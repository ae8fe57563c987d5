"""An agent owns the trainer processes of one machine, container or pod; it keeps nothing else.

It does what the head says, forwards what its trainers say, and tells how they ended. When the
head is gone, or the agent, no trainer outlives it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import importlib.metadata
import os
import platform
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import memory
from .errors import Corrupt
from .launch import Launcher, LaunchError, Trainer, launcher
from .process import describe_exit
from .wire import AsyncChannel, Header, ProtocolError

#: How long the pipes of a dead trainer are read on, in seconds: a process that it left behind
#: may hold them open.
DRAIN_S = 1.0
#: How long a trainer may take to write its stacks, in seconds; a stopped process never does.
STACKS_S = 2.0
#: How long an agent looks for its head, and how often, in seconds.
PATIENCE_S = 60.0
RETRY_S = 0.5
#: The address of workers that are all on this machine.
LOOPBACK = "127.0.0.1"
_PACKAGES = ("tensorflow", "keras", "tf_keras", "numpy", "cloudpickle")


@dataclass
class _Running:
    """A trainer that was started: its process, its channel and where its stacks are written."""

    generation: int
    trainer: Trainer
    channel: AsyncChannel
    stacks: Path
    tail: memory.Tail = field(default_factory=memory.Tail)
    watching: asyncio.Task[None] | None = None


@dataclass
class _Fetch:
    """A file that is on its way from the head."""

    file: Any
    digest: Any = field(default_factory=hashlib.sha256)
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Agent:
    """The trainers of `workers`, at the head's other end of `channel`.

    Parameters
    ----------
    scratch
        A folder of the agent's own, which it removes; trainers run in folders below it.
    rundir
        The run directory, where this machine has it: files are then not fetched but read.
    host
        The address at which the other workers reach this machine.
    environment
        Environment variables of the notebook, where it is on this machine.
    """

    def __init__(
        self,
        channel: AsyncChannel,
        start: Launcher,
        workers: list[int],
        scratch: Path,
        *,
        rundir: Path | None = None,
        host: str = LOOPBACK,
        token: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._channel, self._launcher, self._workers = channel, start, workers
        self._scratch, self._rundir, self._host, self._token = scratch, rundir, host, token
        self._environment = dict(environment or {})
        self._running: dict[int, _Running] = {}
        self._fetches: dict[str, _Fetch] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> str:
        """Serve the head; return what it said last ("quit", "refused"), or "" if it is gone."""
        hello = {"token": self._token, "workers": self._workers, "host": platform.node()}
        try:
            await self._channel.send({"is": "hello", **hello, "versions": versions()})
            async for header, body in self._channel.receive():
                if header.get("do") in ("quit", "refused"):
                    return str(header["do"])
                await self._do(header, body)
        except (ConnectionError, ProtocolError):
            pass
        finally:
            await self._kill()
            for task in self._tasks:
                task.cancel()
            self._channel.close()
            shutil.rmtree(self._scratch, ignore_errors=True)
        return ""

    async def _do(self, header: Header, body: bytes) -> None:
        match header.get("do"):
            case "prepare":
                addresses = {str(w): f"{self._host}:{free_port()}" for w in self._workers}
                await self._channel.send({"is": "prepared", "addresses": addresses})
            case "start":
                self._spawn(self._start(header["worker"], header["job"]))
            case "kill":
                self._spawn(self._kill_and_tell(header["generation"]))
            case "tell":
                await self._tell(header["worker"], header["message"])
            case "stacks":
                self._spawn(self._send_stacks(header["generation"]))
            case "chunk":
                self._on_chunk(header, body)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, worker: int, job: Header) -> None:
        generation = job["generation"]
        try:
            payload = await self._file(job["payload"], job["payload_sha256"])
            resume = job["resume"] and await self._file(job["resume"], job["resume_sha256"])
            files = {name: str(await self._file(f"files/{name}", "")) for name in job["files"]}
            running = await self._launch(worker, generation)
            scratch = self._scratch / f"worker-{worker}-{generation}"
            paths = {"payload": str(payload), "resume": str(resume or ""), "scratch": str(scratch)}
            paths |= {"stacks": str(running.stacks)}
            here = {"files": files, "environment": self._environment}
            await running.channel.send({"do": "job", **job, **paths, **here})
        except (LaunchError, Corrupt, OSError) as error:
            await self._tell_exit(worker, generation, str(error))

    async def _launch(self, worker: int, generation: int) -> _Running:
        ours, theirs = socket.socketpair()
        log_in, log_out = os.pipe()
        try:
            trainer = await self._launcher.launch(
                theirs.fileno(), log_out, loopback=self._host == LOOPBACK
            )
        except BaseException:
            os.close(log_in)
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(log_out)
        channel = await AsyncChannel.of(ours)
        stacks = self._scratch / f"stacks-{worker}-{generation}"
        running = _Running(generation, trainer, channel, stacks)
        self._running[worker] = running
        running.watching = asyncio.get_running_loop().create_task(
            self._watch(worker, running, log_in)
        )
        return running

    async def _watch(self, worker: int, running: _Running, log: int) -> None:
        """Forward all that a trainer says and logs, then tell how it ended."""
        forwarding = [
            asyncio.create_task(self._forward(worker, running)),
            asyncio.create_task(self._forward_log(worker, running, log)),
        ]
        kills = memory.kills()
        code = await running.trainer.exited
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(running.trainer.pid, signal.SIGKILL)  # processes that user code left behind
        _, late = await asyncio.wait(forwarding, timeout=DRAIN_S)
        for task in late:
            task.cancel()
        running.channel.close()
        if self._running.get(worker) is running:
            del self._running[worker]
        reason, cause = describe_exit(code), "lost"
        if code < 0 and (running.tail.of_memory() or memory.kills() > kills):
            reason, cause = f"out of memory ({reason})", "memory"
        await self._tell_exit(worker, running.generation, reason, cause)

    async def _forward(self, worker: int, running: _Running) -> None:
        about = {"is": "trainer", "worker": worker, "generation": running.generation}
        async for message, body in running.channel.receive():
            await self._channel.send({**about, "message": message}, body)

    async def _forward_log(self, worker: int, running: _Running, log: int) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(log, "rb", buffering=0)
        )
        try:
            while data := await reader.read(65536):
                running.tail.add(data)
                header = {"is": "log", "worker": worker, "generation": running.generation}
                await self._channel.send(header, data)
        finally:
            transport.close()

    async def _tell_exit(
        self, worker: int, generation: int, reason: str, cause: str = "lost"
    ) -> None:
        header = {"is": "exit", "worker": worker, "generation": generation}
        with contextlib.suppress(ConnectionError):
            await self._channel.send({**header, "reason": reason, "cause": cause})

    async def _tell(self, worker: int, message: Header) -> None:
        running = self._running.get(worker)
        if running is not None:
            with contextlib.suppress(ConnectionError):
                await running.channel.send(message)

    async def _kill_and_tell(self, generation: int) -> None:
        await self._kill()
        await self._channel.send({"is": "killed", "generation": generation})

    async def _kill(self) -> None:
        running = list(self._running.values())
        for one in running:
            one.trainer.signal(signal.SIGKILL)
        await asyncio.gather(*(one.watching for one in running if one.watching))

    async def _send_stacks(self, generation: int) -> None:
        """Have every trainer write its stacks (faulthandler), and send them to the head."""
        running = {w: one for w, one in self._running.items() if one.generation == generation}
        waiting = [_written(one.stacks, _size(one.stacks)) for one in running.values()]
        for one in running.values():
            one.trainer.signal(signal.SIGUSR1)
        stacks = await asyncio.gather(*waiting)
        found = dict(zip(map(str, running), stacks, strict=True))
        await self._channel.send({"is": "stacks", "generation": generation, "stacks": found})

    async def _file(self, name: str, sha256: str) -> Path:
        """Return a file of the run directory; fetched from the head if it is on another machine."""
        if self._rundir is not None:
            return self._rundir / name
        path = self._scratch / "fetched" / name
        if name not in self._fetches:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fetches[name] = _Fetch(path.open("wb"))
            await self._channel.send({"is": "get", "path": name})
        fetch = self._fetches[name]
        await fetch.done.wait()
        if sha256 and fetch.digest.hexdigest() != sha256:
            del self._fetches[name]
            raise Corrupt(f"{name} did not arrive as it was sent (its SHA-256 differs)")
        return path

    def _on_chunk(self, header: Header, body: bytes) -> None:
        fetch = self._fetches[header["path"]]
        fetch.file.write(body)
        fetch.digest.update(body)
        if header["last"]:
            fetch.file.close()
            fetch.done.set()


async def _written(path: Path, start: int) -> str:
    """Return what faulthandler writes after `start`, once it has stopped growing; "" if nothing."""
    deadline = asyncio.get_running_loop().time() + STACKS_S
    size = start
    while asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.1)
        now = _size(path)
        if now > start and now == size:
            break
        size = now
    return path.read_bytes()[start:].decode("utf-8", "replace") if path.exists() else ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def free_port() -> int:
    """Return a TCP port that is free at the moment."""
    with socket.socket() as sock:
        sock.bind(("", 0))
        return int(sock.getsockname()[1])


def versions() -> dict[str, str]:
    """Return the versions that must fit the notebook's, without importing anything big."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def main(argv: list[str]) -> int:
    """Run an agent that connects to a head over TCP; the token comes by NBTRAIN_TOKEN."""
    parser = argparse.ArgumentParser(prog="agent")
    parser.add_argument("--head", required=True, help="host:port")
    parser.add_argument("--worker", type=int, action="append", required=True)
    options = parser.parse_args(argv)
    token = os.environ.pop("NBTRAIN_TOKEN", "")  # before the zygote could inherit it
    return asyncio.run(_serve(options.head, token, options.worker, launcher()))


async def _serve(head: str, token: str, workers: list[int], start: Launcher) -> int:
    """Serve one head after the other: one that died may come back at the same address."""
    began = time.monotonic()
    try:
        while time.monotonic() - began < PATIENCE_S:
            try:
                last = await _serve_once(head, token, workers, start)
            except OSError as error:
                last = f"no head at {head}: {error}"
                await asyncio.sleep(RETRY_S)
                continue
            if last == "quit":
                return 0
            if last == "refused":
                break
            began = time.monotonic()
    finally:
        await start.close()
    print(f"agent: {last}", file=sys.stderr)
    return 1


async def _serve_once(head: str, token: str, workers: list[int], start: Launcher) -> str:
    address, _, port = head.rpartition(":")
    reader, writer = await asyncio.open_connection(address, int(port))
    # The address at which the head sees this machine is one at which the others do.
    host = writer.get_extra_info("sockname")[0]
    scratch = Path(tempfile.mkdtemp(prefix="nbtrain-agent-"))
    agent = Agent(AsyncChannel(reader, writer), start, workers, scratch, host=host, token=token)
    return await agent.run()
