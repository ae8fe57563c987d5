"""The local head: head and agent in one process, which the kernel starts before it is needed.

The kernel holds the other end of a Unix socket. Through it come the run directory with the lock
on it, which this process then holds for as long as it lives, and the notebook's environment. A
spare that was never claimed ends when its kernel does; a run goes on without the kernel.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path

from .agent import Agent
from .head import Head
from .launch import Launcher, launcher
from .rundir import RunDir
from .wire import AsyncChannel


def main(argv: list[str]) -> int:
    """Wait for a run on the socket that is file descriptor `argv[0]`, and train it."""
    kernel = socket.socket(fileno=int(argv[0]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    start = launcher()  # from the main thread: see Forker
    data, fds, _, _ = socket.recv_fds(kernel, 1, 1)
    if not data:
        return 0
    with kernel, kernel.makefile("rb") as file:
        given = json.load(file)
    rundir = RunDir(given["rundir"])
    lock = fds[0]
    os.environ.update(given["environment"])  # the store of the results may need credentials
    os.chdir(rundir.path)
    os.set_inheritable(lock, False)
    _redirect(rundir / RunDir.HEAD_LOG)
    outcome = asyncio.run(_train(rundir, start, given["environment"]))
    print(f"head: {outcome}")
    return 0


def _redirect(log: Path) -> None:
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def empty_scratch(rundir: RunDir) -> Path:
    """Return a new folder for this head's trainers, and remove those of heads that were killed.

    It is no one else's: a killed head's trainers die a little later than it, and write until then.
    """
    scratch = rundir / RunDir.SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(exist_ok=True)
    return Path(tempfile.mkdtemp(dir=scratch))


async def _train(rundir: RunDir, start: Launcher, environment: dict[str, str]) -> str:
    head = Head(rundir)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, head.stop)
    rundir.write_json(RunDir.HEAD, {"pid": os.getpid()})  # from now on it can be signalled
    scratch = empty_scratch(rundir)
    ours, theirs = socket.socketpair()
    workers = list(range(head.request.workers))
    agent = Agent(start, workers, scratch, rundir=rundir.path, environment=environment)
    serving = asyncio.create_task(head.serve(await AsyncChannel.of(ours)))
    working = asyncio.create_task(agent.serve(await AsyncChannel.of(theirs)))
    try:
        return await head.run()
    finally:
        await head.close()
        await asyncio.wait([serving, working], timeout=10)
        await agent.close()
        await start.close()
        shutil.rmtree(rundir / RunDir.SCRATCH, ignore_errors=True)
