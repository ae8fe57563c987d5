"""Files of the run directory on their way to agents elsewhere: all of them, and no others."""

from __future__ import annotations

import asyncio

import pytest

from nbtrain.runtime import fetching
from nbtrain.runtime.agents import Agents
from nbtrain.runtime.rundir import RunDir, sha256
from nbtrain.runtime.wire import AsyncChannel


@pytest.fixture
def rundir(tmp_path):
    rundir = RunDir(tmp_path / "run")
    rundir.create()
    (tmp_path / "secret").write_text("secret")
    (rundir / "link").symlink_to(tmp_path / "secret")
    return rundir


def fetch(rundir, name, token="token"):
    """Fetch a file from a head that knows "token"; return where it came to, and its SHA-256."""
    target = rundir.path.parent / "fetched"

    async def both():
        agents = Agents(rundir, "token", 1, lambda worker: 0)

        async def accept(reader, writer):
            await agents.serve(AsyncChannel(reader, writer))

        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            return await fetching.fetch(server.sockets[0].getsockname(), token, name, target)

    return target, asyncio.run(both())


@pytest.mark.parametrize("size", [0, 1, 3 * 2**20 + 1])
def test_a_file_comes_whole(rundir, size):
    (rundir / "files" / "a").write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    target, digest = fetch(rundir, "files/a")
    assert target.read_bytes() == (rundir / "files" / "a").read_bytes()
    assert digest == sha256(target)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "link", "files/../../secret", "a\0b"])
def test_nothing_outside_the_run_directory_is_sent(rundir, name):
    with pytest.raises(OSError, match="does not send the file"):
        fetch(rundir, name)
    assert (rundir.path.parent / "fetched").read_bytes() == b""


def test_nothing_is_sent_without_the_token(rundir):
    (rundir / "files" / "a").write_bytes(b"a" * 10)
    with pytest.raises(OSError):  # noqa: PT011  the answer is a frame, read as a length
        fetch(rundir, "files/a", token="other")
    assert b"aaa" not in (rundir.path.parent / "fetched").read_bytes()
