"""An agent owns the trainer processes of one machine, container or pod; it keeps nothing else.

It does what the head says, forwards what its trainers say, and tells how they ended. No trainer
outlives its agent. When the head is gone the trainers go on for a while: it may come back.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
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

from . import fetching, memory
from .errors import Corrupt
from .launch import Begun, Launcher, LaunchError, Trainer, launcher
from .outbox import Outbox
from .process import describe_exit
from .versions import versions
from .wire import CHUNK, AsyncChannel, Header, ProtocolError, notice_loss

#: How long the pipes of a dead trainer are read on, in seconds: a process that it left behind
#: may hold them open.
DRAIN_S = 1.0
#: How long a trainer may take to write its stacks, in seconds; a stopped process never does.
STACKS_S = 2.0
#: How long an agent looks for its head (which may be moved to another machine), in seconds.
PATIENCE_S = 300.0
#: How long it waits before it looks again, in seconds: a little longer each time, since most heads
#: come soon, and every look is several questions to the cluster's name servers.
RETRY_S = (0.1, 0.5)
#: How long it waits for one to answer, in seconds.
CONNECT_S = 10.0
#: The address of workers that are all on this machine.
LOOPBACK = "127.0.0.1"
#: The file with the run's token, in the folder that agents and head are given.
TOKEN = "token"


@dataclass
class _Running:
    """A trainer that was started: its process, its channel and where its stacks are written."""

    generation: int
    trainer: Trainer
    channel: AsyncChannel
    stacks: Path
    phase: str = "starting"
    tail: memory.Tail = field(default_factory=memory.Tail)
    watching: asyncio.Task[None] | None = None

    def hear(self, message: Header) -> None:
        """Remember from what the trainer says where it is."""
        if message["say"] == "event" and message["event"].get("phase"):
            self.phase = message["event"]["phase"]


class Agent:
    """The trainers of `workers`, which do what one head after the other says.

    Parameters
    ----------
    scratch
        A folder of the agent's own, which it removes; trainers run in folders below it.
    rundir
        The run directory, where this machine has it: files are then not fetched but read.
    environment
        Environment variables of the notebook, where it is on this machine.
    """

    def __init__(
        self,
        start: Launcher,
        workers: list[int],
        scratch: Path,
        *,
        rundir: Path | None = None,
        token: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._launcher, self._workers = start, workers
        self._scratch, self._rundir, self._token = scratch, rundir, token
        self._host = LOOPBACK
        self._environment = dict(environment or {})
        self._running: dict[int, _Running] = {}
        self._fetches: dict[str, asyncio.Task[str]] = {}
        self._head: Any = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._outbox = Outbox()
        self._incarnation = 0
        self._logged: dict[int, int] = {}
        self._kills = memory.kills()  # before TensorFlow is imported, which may take too much

    async def serve(self, channel: AsyncChannel, host: str = LOOPBACK, head: Any = None) -> str:
        """Serve a head; return what it said last ("quit", "refused"), or "" if it is gone.

        `host` is the address at which the other workers reach this machine, `head` that of the
        head where it is another one.
        """
        self._host, self._head = host, head
        try:
            await channel.send(self._hello())
            async for header, _ in channel.receive():
                if header.get("do") in ("quit", "refused"):
                    return str(header["do"])
                await self._do(channel, header)
        except (ConnectionError, ProtocolError):
            pass
        finally:
            self._outbox.close()
            channel.close()
            self._break_off()
        return ""

    async def close(self) -> None:
        """End the trainers and leave nothing behind."""
        await self._kill()
        self._break_off()
        for task in self._tasks:
            task.cancel()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _hello(self) -> Header:
        going = {
            str(w): {"generation": r.generation, "phase": r.phase} for w, r in self._running.items()
        }
        about = {"token": self._token, "host": platform.node(), "versions": versions()}
        return {"is": "hello", "workers": self._workers, "going": going, **about}

    async def _do(self, channel: AsyncChannel, header: Header) -> None:
        match header.get("do"):
            case "welcome":
                await self._on_welcome(channel, header)
            case "go_on":
                self._spawn(self._outbox.open(channel))
            case "taken":
                self._outbox.taken(header["n"])
            case "prepare":
                addresses = {str(w): f"{self._host}:{free_port()}" for w in self._workers}
                await channel.send({"is": "prepared", "addresses": addresses})
            case "start":
                self._spawn(self._start(header["worker"], header["job"]))
            case "kill":
                self._spawn(self._kill_and_tell(channel, header["generation"]))
            case "tell":
                await self._tell(header["worker"], header["message"])
            case "stacks":
                self._spawn(self._send_stacks(header["generation"]))

    async def _on_welcome(self, channel: AsyncChannel, header: Header) -> None:
        if header["incarnation"] < self._incarnation:
            channel.close()  # of a head that has been replaced and does not know it
            return
        self._incarnation = header["incarnation"]
        for worker in self._workers:
            self._logged.setdefault(worker, header["logs"][str(worker)])
        if not self._running:
            self._spawn(self._outbox.open(channel))

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
            reason, cause = str(error), "lost"
            if isinstance(error, LaunchError) and memory.kills() > self._kills:
                reason, cause = f"out of memory ({reason})", "memory"
            await self._tell_exit(worker, generation, reason, cause)

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
            if message["say"] == "pong":
                await self._outbox.pass_on({**about, "message": message})
                continue
            running.hear(message)
            await self._outbox.put({**about, "message": message}, body)

    async def _forward_log(self, worker: int, running: _Running, log: int) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(log, "rb", buffering=0)
        )
        try:
            while data := await reader.read(65536):
                running.tail.add(data)
                header = {"is": "log", "worker": worker, "at": self._logged[worker]}
                self._logged[worker] += len(data)
                await self._outbox.put(header, data)
        finally:
            transport.close()

    async def _tell_exit(
        self, worker: int, generation: int, reason: str, cause: str = "lost"
    ) -> None:
        header = {"is": "exit", "worker": worker, "generation": generation}
        await self._outbox.put({**header, "reason": reason, "cause": cause})

    async def _tell(self, worker: int, message: Header) -> None:
        running = self._running.get(worker)
        if running is not None:
            with contextlib.suppress(ConnectionError):
                await running.channel.send(message)

    async def _kill_and_tell(self, channel: AsyncChannel, generation: int) -> None:
        await self._outbox.open(channel)
        await self._kill()
        await self._outbox.pass_on({"is": "killed", "generation": generation})

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
        await self._outbox.pass_on({"is": "stacks", "generation": generation, "stacks": found})

    async def _file(self, name: str, sha256: str) -> Path:
        """Return a file of the run directory; fetched from the head if it is on another machine."""
        if self._rundir is not None:
            return self._rundir / name
        path = self._scratch / "fetched" / name
        if name not in self._fetches:
            path.parent.mkdir(parents=True, exist_ok=True)
            fetching_it = fetching.fetch(self._head, self._token, name, path)
            self._fetches[name] = asyncio.create_task(fetching_it)
        task = self._fetches[name]
        await asyncio.wait([task])
        good = not task.cancelled() and not task.exception() and sha256 == task.result()
        if not good and self._fetches.get(name) is task:
            del self._fetches[name]  # what has no SHA-256, too, may be another one the next time
        if task.cancelled():
            raise OSError(f"the head went away while {name} was on its way")
        if sha256 not in ("", task.result()):
            raise Corrupt(f"{name} did not arrive as it was sent (its SHA-256 differs)")
        return path

    def _break_off(self) -> None:
        """Give up files that were on their way from the head."""
        for task in self._fetches.values():
            task.cancel()


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


def main(argv: list[str], zygote: Begun | None = None) -> int:
    """Run an agent that connects to a head over TCP."""
    parser = argparse.ArgumentParser(prog="agent")
    parser.add_argument("--given", type=Path, required=True, help="folder with the run's token")
    parser.add_argument("--head", required=True, help="host:port")
    parser.add_argument("--worker", type=int, action="append", required=True)
    parser.add_argument("--patience", type=float, default=PATIENCE_S, help="for the head; seconds")
    options = parser.parse_args(argv)
    token = (options.given / TOKEN).read_text("utf-8").strip()
    start = launcher(zygote)
    return asyncio.run(_seek(start, options.head, token, options.worker, options.patience))


async def _seek(start: Launcher, head: str, token: str, workers: list[int], patience: float) -> int:
    """Serve one head after the other: one that died may come back under the same name."""
    scratch = Path(tempfile.mkdtemp(prefix="nbtrain-agent-"))
    agent = Agent(start, workers, scratch, token=token)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _leave, asyncio.current_task())
    last, seen, pause = "", time.monotonic(), RETRY_S[0]
    try:
        while last not in ("quit", "refused") and time.monotonic() - seen < patience:
            try:
                last = await _serve_once(agent, head)
                seen, pause = time.monotonic(), RETRY_S[0]
            except OSError as error:
                last = f"no head at {head}: {error}"
            if not last or last.startswith("no head"):
                await asyncio.sleep(pause)
                pause = min(pause * 1.2, RETRY_S[1])
    except asyncio.CancelledError:
        last = "asked to leave"
    finally:
        await agent.close()
        await start.close()
        shutil.rmtree(scratch, ignore_errors=True)
    if last != "quit":
        print(f"agent: {last or 'the head is gone'}", file=sys.stderr)
    return 0 if last == "quit" else 1


def _leave(task: asyncio.Task[Any] | None) -> None:
    if task is not None:
        task.cancel()


async def _serve_once(agent: Agent, head: str) -> str:
    address, _, port = head.rpartition(":")
    # The name may stand for the machine of a dead head as well, which does not even refuse.
    connecting = asyncio.open_connection(
        address, int(port), limit=CHUNK * 2, happy_eyeballs_delay=RETRY_S[1]
    )
    reader, writer = await asyncio.wait_for(connecting, CONNECT_S)
    notice_loss(writer)
    # The address at which the head sees this machine is one at which the others do.
    host = writer.get_extra_info("sockname")[0]
    # Not its name, which may stand for the machine of a dead head as well.
    found = writer.get_extra_info("peername")
    return await agent.serve(AsyncChannel(reader, writer), host, found)
