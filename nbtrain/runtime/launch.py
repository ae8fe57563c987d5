"""How an agent starts trainers: forked from a zygote, or spawned where fork is not safe."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from . import zygote_process
from .zygote_process import command

#: A zygote's process, and the socket that it is asked through.
Begun = tuple[subprocess.Popen[bytes], socket.socket]


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


def launcher(zygote: Begun | None = None) -> Launcher:
    """Return the launcher for this platform; `zygote` is one that has been begun already."""
    return Forker(zygote or zygote_process.begin()) if zygote_process.forks() else Spawner()


class Forker:
    """Forks trainers from one zygote, which imports TensorFlow in the background.

    Parameters
    ----------
    zygote
        What `zygote_process.begin` has returned.
    """

    def __init__(self, zygote: Begun) -> None:
        self._process, self._control = zygote
        self._control.setblocking(False)
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
