"""What an agent tells of trainers that can't be started."""

from __future__ import annotations

import asyncio

import pytest

from nbtrain.runtime import memory
from nbtrain.runtime.agent import Agent
from nbtrain.runtime.launch import LaunchError

JOB = {
    "generation": 1, "payload": "payload.bin", "payload_sha256": "", "resume": "",
    "resume_sha256": "", "files": [],
}  # fmt: skip


class Broken:
    """A launcher whose zygote has ended."""

    async def launch(self, channel, log, *, loopback):
        raise LaunchError("the process that starts trainers ended")


@pytest.mark.parametrize(
    ("kills", "reason", "cause"),
    [
        (3, "the process that starts trainers ended", "lost"),
        (4, "out of memory (the process that starts trainers ended)", "memory"),
    ],
)
def test_a_zygote_that_the_kernel_killed_for_its_memory_is_told_so(
    tmp_path, monkeypatch, kills, reason, cause
):
    counts = iter([3, kills])
    monkeypatch.setattr(memory, "kills", lambda: next(counts))
    told = []

    async def put(header):
        told.append(header)

    async def start():
        agent = Agent(Broken(), [0], tmp_path, rundir=tmp_path)
        monkeypatch.setattr(agent._outbox, "put", put)
        await agent._start(0, JOB)

    asyncio.run(start())
    assert told == [{"is": "exit", "worker": 0, "generation": 1, "reason": reason, "cause": cause}]
