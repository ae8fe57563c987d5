"""The look at all runs that all clients of Jupyter's server share."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from nbtrain.backend import RunRef
from nbtrain.errors import BackendError
from nbtrain.run import Run, Runs
from nbtrain.runtime.events import encode
from nbtrain.runtime.request import TrainRequest
from nbtrain.runtime.rundir import RunDir
from nbtrain.watching import FRESH_S, LIST_S, Watcher

from .event_streams import whole


class Looks:
    """Counts how often all runs are asked for."""

    def __init__(self, *problems: str) -> None:
        self.count, self.now, self.problems = 0, 0.0, list(problems)

    def __call__(self) -> Runs:
        self.count += 1
        found = Runs()
        found.problems = list(self.problems)
        return found

    def clock(self) -> float:
        return self.now


@pytest.fixture
def looks():
    return Looks()


def test_many_who_ask_at_once_have_the_backends_asked_once(looks):
    watcher = Watcher(looks, looks.clock)

    async def ask():
        await asyncio.gather(*(watcher.refresh(LIST_S) for _ in range(20)))
        return looks.count

    async def asked():
        before = await ask()
        looks.now += LIST_S
        return before, await ask()

    assert asyncio.run(asked()) == (1, 2)


def test_a_run_that_is_nowhere_is_looked_for_now_and_then_however_many_ask(looks):
    watcher = Watcher(looks)

    async def asked():
        began = time.monotonic()
        for count in range(1, 4):
            found = await asyncio.gather(*(watcher.find("nowhere") for _ in range(20)))
            assert set(found) == {None}
            assert looks.count == count
        return time.monotonic() - began

    assert asyncio.run(asked()) >= 2 * FRESH_S


def test_a_run_that_has_begun_since_the_last_list_is_found():
    ref = RunRef("kubernetes", "digits", "digits-1", 1.0, stored=True, request="{}")
    request = TrainRequest(name="digits", id="digits-1", seed=1)
    lists = [Runs(), Runs([Run(Stored(), ref, request)])]
    watcher = Watcher(lambda: lists.pop(0))

    async def asked():
        await watcher.refresh()
        return await watcher.find("digits-1")

    assert asyncio.run(asked()).id == "digits-1"


def test_listeners_share_one_look_and_none_is_left_when_they_go(looks, monkeypatch):
    monkeypatch.setattr("nbtrain.watching.LIST_S", 0.05)
    monkeypatch.setattr("nbtrain.watching.LOOK_S", 0.05)
    watcher = Watcher(looks)

    async def listen(ends):
        async with contextlib.aclosing(watcher.changes(0.01)) as changes:
            async for _ in changes:
                if looks.count >= ends:
                    return

    async def five():
        await asyncio.gather(*(listen(4) for _ in range(5)))
        while len(asyncio.all_tasks()) > 1:  # this one
            await asyncio.sleep(0)

    asyncio.run(five())
    # Each of five listeners having its own look would make five of each.
    assert looks.count < 10


def test_what_could_not_be_asked_is_a_change(looks):
    watcher = Watcher(looks, looks.clock)

    async def news():
        changes = watcher.changes(60)
        await anext(changes)
        looks.problems = ["kubernetes: no answer"]
        told = asyncio.create_task(anext(changes))
        await asyncio.sleep(0)
        await watcher.refresh()
        await asyncio.wait_for(told, 10)
        await changes.aclose()

    asyncio.run(news())
    assert watcher.problems == ["kubernetes: no answer"]


class Stored:
    """A backend that has one run, on a volume that nobody serves; it counts what is read."""

    name = "kubernetes"

    def __init__(self) -> None:
        self.reads: list[str] = []
        self.fails = True

    def placements(self, run):
        yield from ()

    def read(self, run, path, offset=0, follow=False):
        self.reads.append(path)
        if self.fails:
            raise BackendError("the results can't be read: no node has room")
        yield b"".join(encode(event).encode() + b"\n" for event in whole())


def test_a_stored_run_is_read_when_it_is_opened_and_again_where_that_failed(looks):
    backend = Stored()
    ref = RunRef("kubernetes", "digits", "digits-1", 1.0, stored=True, request="{}")
    request = TrainRequest(name="digits", id="digits-1", seed=1)
    looked = Watcher(lambda: Runs([Run(backend, ref, request)]), looks.clock)

    async def opened():
        await looked.refresh()
        (state,) = looked.states.values()
        assert (state.status, state.live, backend.reads) == ("stored", False, [])
        run = await looked.find("digits-1")
        run.follow()
        assert "no node has room" in (await asyncio.to_thread(lambda: run.state)).message
        backend.fails = False
        await looked.refresh()
        again = await looked.find("digits-1")
        assert again is not run
        again.follow()
        await asyncio.to_thread(lambda: again.state)
        await looked.refresh()
        (state,) = looked.states.values()
        assert (state.status, backend.reads) == ("succeeded", [RunDir.EVENTS] * 2)

    asyncio.run(opened())
