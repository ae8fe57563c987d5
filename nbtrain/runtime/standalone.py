"""A head whose agents are elsewhere: what a container or a pod of its own runs.

It is *given* a folder with the run's token, request and payload, keeps the run directory, and
listens for agents. When it dies, another one goes on with the directory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .agent import TOKEN
from .errors import Corrupt
from .head import Head
from .reading import take_lock
from .rundir import RunDir
from .serving import Server
from .wire import AsyncChannel, notice_loss

#: How often a head looks whether another one has taken its place, in seconds.
FENCE_S = 1.0
#: How often it looks whether the payload has come, in seconds.
ARRIVAL_S = 0.1


def main(argv: list[str]) -> int:
    """Train the run of a directory; the exit status tells whether it ended well."""
    options = _options(argv)
    os.umask(0o077)
    rundir = RunDir(options.rundir)
    rundir.create()
    lock = take_lock(rundir)
    if lock is None:
        print("head: another head is at work on this run", file=sys.stderr)
        return 1
    _take_over(rundir, options.given)
    token = (options.given / TOKEN).read_text("utf-8").strip()
    outcome = asyncio.run(_Standalone(rundir, token, options, lock).run())
    return 0 if options.ended_is_success or outcome in ("succeeded", "stopped") else 1


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="head")
    parser.add_argument("rundir", type=Path)
    parser.add_argument("--given", type=Path, required=True, help="folder with token and payload")
    parser.add_argument("--listen", default="127.0.0.1:0", help="host:port for agents")
    parser.add_argument("--serve", default="", help="host:port for readers, by HTTP")
    parser.add_argument(
        "--linger", type=float, default=0, help="seconds to serve on after the end, unless told"
    )
    parser.add_argument(
        "--ended-is-success",
        action="store_true",
        help="exit with 0 after a failed run too, where other codes start the head again",
    )
    parser.add_argument(
        "--leave-on-sigterm",
        action="store_true",
        help="take SIGTERM for the end of this machine, and not of the run",
    )
    return parser.parse_args(argv)


def _leave() -> None:
    """End at once: the directory is as it would be after a crash, and the next head goes on."""
    print("head: leaves; another one goes on with the run", file=sys.stderr, flush=True)
    os._exit(128 + signal.SIGTERM)


def _take_over(rundir: RunDir, given: Path) -> None:
    """Copy what was given into the run directory, where it is not there yet."""
    for name in (RunDir.PAYLOAD, RunDir.REQUEST):  # the request last: with it the run is there
        if not (rundir / name).exists() and (given / name).exists():
            with rundir.replacing(name) as target, (given / name).open("rb") as source:
                shutil.copyfileobj(source, target)


def _incarnation(rundir: RunDir) -> int:
    """Return how many heads have written that they are this run's."""
    with contextlib.suppress(FileNotFoundError, Corrupt, TypeError, ValueError):
        return int(rundir.read_json(RunDir.HEAD).get("incarnation", 0))
    return 0


class _Standalone:
    """The life of one head."""

    def __init__(self, rundir: RunDir, token: str, options: argparse.Namespace, lock: int) -> None:
        self._rundir, self._token, self._options, self._lock = rundir, token, options, lock
        self._incarnation = _incarnation(rundir) + 1
        self._head = Head(rundir, token, incarnation=self._incarnation, echo=True)
        self._quit = asyncio.Event()

    async def run(self) -> str:
        """Train, serve and return the outcome."""
        loop = asyncio.get_running_loop()
        on_sigterm = _leave if self._options.leave_on_sigterm else self._head.stop
        loop.add_signal_handler(signal.SIGTERM, on_sigterm)
        fence = asyncio.create_task(self._fence())
        serving = self._serving(loop)
        try:
            await self._arrival()
            async with await self._listening():
                outcome = await self._head.run()
                os.close(self._lock)  # the run has ended: whoever follows a file sees its end
                await self._linger(serving)
        finally:
            await self._head.close()
            fence.cancel()
            if serving is not None:
                serving.close()
        return outcome

    def _serving(self, loop: asyncio.AbstractEventLoop) -> Server | None:
        if not self._options.serve:
            return None
        host, _, port = self._options.serve.rpartition(":")

        def soon(call: Callable[[], None]) -> Callable[[], None]:
            def called() -> None:
                loop.call_soon_threadsafe(call)

            return called

        server = Server(
            self._rundir,
            self._token,
            host,
            int(port),
            sha256=self._head.sha256,
            on_stop=soon(self._head.stop),
            on_quit=soon(self._quit.set),
        )
        return server.start()

    async def _arrival(self) -> None:
        """Wait for a payload that was too big to be given: it comes through the server."""
        while not (self._rundir / RunDir.PAYLOAD).exists() and not self._head.stops:
            await asyncio.sleep(ARRIVAL_S)

    async def _listening(self) -> asyncio.Server:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            notice_loss(writer)
            await self._head.serve(AsyncChannel(reader, writer))

        address, _, port = self._options.listen.rpartition(":")
        server = await asyncio.start_server(accept, address, int(port))
        host, number = server.sockets[0].getsockname()[:2]
        about = {"pid": os.getpid(), "address": f"{host}:{number}"}
        self._rundir.write_json(RunDir.HEAD, {**about, "incarnation": self._incarnation})
        return server

    async def _linger(self, serving: Server | None) -> None:
        """Serve on after the end, until the results were fetched or nobody asks for them."""
        while serving is not None and not self._quit.is_set():
            left = self._options.linger - (time.monotonic() - serving.asked)
            if left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._quit.wait(), left)

    async def _fence(self) -> None:
        """End this process when another head has taken over: a lock holds on one node only."""
        while True:
            await asyncio.sleep(FENCE_S)
            if _incarnation(self._rundir) > self._incarnation:
                print("head: another head has taken over", file=sys.stderr, flush=True)
                os._exit(1)
