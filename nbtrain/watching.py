"""One look at all runs, shared by all who want to see them: what Jupyter's server keeps."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Callable

from .run import Run, Runs
from .state import RunState

#: How often the list of runs is made anew, and how often known runs are looked at, in seconds.
LIST_S, LOOK_S = 2.0, 0.2
#: The list is not made anew more often than this, in seconds, however many ask.
FRESH_S = 0.5


class Watcher:
    """Knows all runs and their states, and tells of changes; looks only while somebody listens.

    Parameters
    ----------
    runs
        Returns all runs (`nbtrain.runs`); may take its time, so it is called in a thread.
    clock
        Gives seconds.

    Attributes
    ----------
    states
        Those of all runs, by their ids.
    problems : list of str
        Which backends could not be asked, and why.
    """

    def __init__(
        self, runs: Callable[[], Runs], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._list, self._clock = runs, clock
        self._runs: dict[str, Run] = {}
        self.states: dict[str, RunState] = {}
        self.problems: list[str] = []
        self._listed = -math.inf
        self._listeners = 0
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._looking = asyncio.Lock()

    async def find(self, run_id: str) -> Run | None:
        """Return the run of an id; None if there is none.

        The run may have begun just now: that there is none is said by a list that was begun after
        the question.
        """
        asked = self._clock()
        while run_id not in self._runs and self._listed < asked:
            await asyncio.sleep(self._listed + FRESH_S - asked)
            await self.refresh(FRESH_S)
        return self._runs.get(run_id)

    async def refresh(self, older_than: float = 0.0) -> None:
        """Make the list of runs anew, if it is older than so many seconds.

        However many ask for that, the backends are asked once.
        """
        async with self._looking:
            if self._clock() - self._listed < older_than:
                return
            began = self._clock()
            self._runs, problems = await asyncio.to_thread(self._look, dict(self._runs))
            self._listed = began
        self._compare(problems)

    async def changes(self, at_least_every: float = 1.0) -> AsyncGenerator[None]:
        """Yield now, then after every change and at least every so many seconds."""
        self._listeners += 1
        try:
            if self._task is None:
                self._task = asyncio.create_task(self._watch())
            await self.refresh(LIST_S)
            while True:
                yield
                changed = self._changed
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), at_least_every)
        finally:
            self._listeners -= 1
            if self._listeners == 0:
                self.close()

    def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _watch(self) -> None:
        while True:
            for _ in range(round(LIST_S / LOOK_S)):
                await asyncio.sleep(LOOK_S)
                self._compare()
            with contextlib.suppress(Exception):  # a cluster that is away: the next look may do
                await self.refresh()

    def _look(self, known: dict[str, Run]) -> tuple[dict[str, Run], list[str]]:
        """Return the runs there are, and what could not be asked.

        Known ones stay, but for those that may go on again.
        """
        found = {}
        listed = self._list()
        for run in listed:
            before = known.get(run.id)
            kept = run if before is None or _is_to_be_tried_again(before.outline) else before
            kept.outline  # noqa: B018  reads the events of a run that is over, here in the thread
            found[run.id] = kept
        return found, listed.problems

    def _compare(self, problems: list[str] | None = None) -> None:
        states = {run_id: run.outline for run_id, run in self._runs.items()}
        # States are never changed but replaced: another one is another object.
        same = states.keys() == self.states.keys() and all(
            states[run_id] is self.states[run_id] for run_id in states
        )
        if problems is not None:
            same = same and problems == self.problems
            self.problems = problems
        self.states = states
        if not same:
            self._changed.set()
            self._changed = asyncio.Event()


def _is_to_be_tried_again(state: RunState) -> bool:
    """Tell whether a run may go on again, or may be readable by now."""
    return state.status == "lost" or (state.status == "stored" and bool(state.message))
