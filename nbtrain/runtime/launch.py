"""How an agent starts trainers: forked from a zygote, or spawned where fork is not safe."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .process import LINUX


class Trainer:
    """A trainer process, as its agent knows it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def signal(self, number: int) -> None:
        """Send a signal, unless the process is gone (its pid may be somebody else's by now)."""
        if not self.exited.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Launcher(Protocol):
    """Starts trainers; `channel` and `log` are file descriptors that the trainer gets.

    With `loopback` its servers are kept off the network where that can be.
    """

    async def launch(self, channel: int, log: int, *, loopback: bool) -> Trainer:
        """Start a trainer."""

    async def close(self) -> None:
        """End what is kept between trainers."""


class LaunchError(Exception):
    """No trainer can be started here; the message is for the user."""


def command(role: str, *arguments: object) -> list[str]:
    """Return the command line that runs a role of this runtime in a fresh interpreter.

    The runtime is run from where it is now: the zip it travels in, or its folder.
    """
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    isolated = ["-I"] if sys.flags.isolated else []
    return [sys.executable, *isolated, home, role, *map(str, arguments)]


def launcher() -> Launcher:
    """Return the launcher for this platform; NBTRAIN_START_METHOD=spawn asks for the slow one."""
    method = os.environ.get("NBTRAIN_START_METHOD", "fork" if LINUX else "spawn")
    return Forker() if method == "fork" else Spawner()


class Forker:
    """Forks trainers from one zygote, which imports TensorFlow in the background."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Started from the main thread: the kernel ties the parent-death signal to the thread.
        self._process = subprocess.Popen(
            command("zygote", theirs.fileno(), os.getpid()),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        ours.setblocking(False)
        self._control = ours
        self._ready: asyncio.Future[None] | None = None
        self._forks: dict[int, asyncio.Future[Trainer]] = {}
        self._trainers: dict[int, Trainer] = {}
        self._count = 0

    def watch(self) -> asyncio.Future[None]:
        """Begin to listen (in a running loop); the future is done when TensorFlow is imported."""
        if self._ready is None:
            loop = asyncio.get_running_loop()
            self._ready = loop.create_future()
            loop.add_reader(self._control, self._on_message)
        return self._ready

    async def launch(self, channel: int, log: int, *, loopback: bool) -> Trainer:
        """Fork a trainer; waits until the zygote is warm."""
        await asyncio.shield(self.watch())
        self._count += 1
        fork: asyncio.Future[Trainer] = asyncio.get_running_loop().create_future()
        self._forks[self._count] = fork
        request = json.dumps({"id": self._count, "loopback": loopback}).encode()
        socket.send_fds(self._control, [request], [channel, log])
        return await fork

    async def close(self) -> None:
        """End the zygote, and with it all trainers."""
        if self._ready is not None:
            asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        self._process.kill()
        await asyncio.to_thread(self._process.wait)
        for trainer in self._trainers.values():
            if not trainer.exited.done():
                trainer.exited.set_result(-signal.SIGKILL)

    def _on_message(self) -> None:
        assert self._ready is not None
        try:
            data = self._control.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._broken("the process that starts trainers ended")
            return
        message = json.loads(data)
        match message["is"]:
            case "ready":
                self._ready.set_result(None)
            case "broken":
                self._broken(f"TensorFlow can't be imported: {message['error']}")
            case "forked":
                trainer = self._trainers[message["pid"]] = Trainer(message["pid"])
                self._forks.pop(message["id"]).set_result(trainer)
            case "exit":
                exited = self._trainers.pop(message["pid"], None)
                if exited is not None:
                    exited.exited.set_result(message["code"])

    def _broken(self, reason: str) -> None:
        assert self._ready is not None
        asyncio.get_running_loop().remove_reader(self._control)
        error = LaunchError(reason)
        futures: list[asyncio.Future[Any]] = [self._ready, *self._forks.values()]
        for future in futures:
            if not future.done():
                future.set_exception(error)
        self._forks.clear()
        for trainer in self._trainers.values():
            if not trainer.exited.done():
                trainer.exited.set_result(-signal.SIGKILL)
        self._trainers.clear()


class Spawner:
    """Starts every trainer in a fresh interpreter."""

    async def launch(self, channel: int, log: int, *, loopback: bool) -> Trainer:
        """Spawn a trainer."""
        process = await asyncio.to_thread(self._spawn, command("trainer", channel), [channel], log)
        trainer = Trainer(process.pid)
        waiting = asyncio.get_running_loop().run_in_executor(None, process.wait)
        waiting.add_done_callback(_forward(trainer.exited))
        return trainer

    @staticmethod
    def _spawn(argv: Sequence[str], fds: Sequence[int], log: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv, pass_fds=list(fds), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )

    async def close(self) -> None:
        """Nothing is kept between trainers."""


def _forward(target: asyncio.Future[int]) -> Callable[[asyncio.Future[int]], None]:
    def done(source: asyncio.Future[int]) -> None:
        if not target.done() and not source.cancelled():
            target.set_result(source.result())

    return done
