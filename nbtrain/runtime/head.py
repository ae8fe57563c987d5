"""The head owns a run directory and supervises the workers; it is the only one to write.

It starts a *generation* of all workers at once. When one of them is lost it kills the others,
which could only wait for it, and starts the next generation from the last checkpoint. An error of
the user's own code ends the run: it would only happen again.

A head that dies and comes back finds its run in the directory. Trainers that went on meanwhile are
adopted: their agents tell again what the dead head had not written down.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import time
from dataclasses import dataclass, field
from typing import Any

from . import events, traces
from .agents import Agents, Connected, Going, Item
from .card import write_card
from .eventlog import EventLog
from .events import Ended, Event, Failed, Phase, Saved, Started, Warned
from .request import TrainRequest
from .results import Results, ResultsError
from .rundir import RunDir
from .store import Store
from .usage import Meter
from .versions import misfits
from .wire import AsyncChannel, Header

#: How often trainers are asked whether they are there, in seconds.
PING_S = 1.0
#: After the first failure of a generation, how long to wait for the one that explains it: the
#: survivors of a dead worker fail too, and often first.
EXPLAIN_S = 1.5
#: How long agents may take to kill their trainers before they count as gone, in seconds.
KILL_S = 10.0
#: How long an agent whose connection broke may take to come back with its trainers, in seconds.
REJOIN_S = 5.0
#: How long a head that came back waits for all agents before it goes on with some, in seconds.
RETURN_S = 10.0
#: How long stacks may take to come once they were asked for, in seconds.
STACKS_S = 5.0
#: One that does not answer for so long is the cause where others failed: of a machine that died
#: nothing is heard, and they may notice before it has been silent for too long. Seconds.
QUIET_S = 3.0
#: A head that did not get to look at its workers for so long was stopped itself, in seconds.
SUSPENDED_S = 5.0


#: What helps where workers' versions differ: only images bring others than the notebook's.
_FITTING = "Build an image that fits: nbtrain image build (in a notebook: %k8s_image build)"

_NOTHING: Item = (None, {"is": ""}, b"")


@dataclass
class _Member:
    """A worker in the running generation."""

    worker: int
    agent: Connected
    phase: str = "starting"
    count: int = 0  # grows whenever its main thread gets on
    advanced: float = field(default_factory=time.monotonic)
    answered: float = field(default_factory=time.monotonic)
    done: bool = False
    away: float | None = None  # since when its agent is not connected
    exited: str = ""
    cause: str = "lost"  # of its exit
    failure: Failed | None = None

    def met(self) -> bool:
        """Tell whether it has found the other workers."""
        return events.PHASES.index(self.phase) > events.PHASES.index("meeting")


class _Stop:
    """Brings all workers to a stop after the same step, without a collective in every step.

    A trainer that hears of the stop waits after its step s and says so. None can finish s + 1
    without it, so s + 1 is a step that all can stop after; once all have heard that number, the
    waiting ones go on.
    """

    def __init__(self) -> None:
        self.sent = False
        self.target: int | None = None
        self.unheard: set[int] = set()


@dataclass(frozen=True)
class _Verdict:
    """How a generation ended: with an `Ended`, or to be followed by another one (None)."""

    ended: Ended | None
    failed: Failed | None = None


class Head:
    """Supervises the run of one directory.

    Parameters
    ----------
    rundir
        The run directory; its `request.json` says what to do.
    token, incarnation
        See `Agents`.
    echo
        Whether events are printed as well.
    """

    def __init__(
        self, rundir: RunDir, token: str = "", *, incarnation: int = 1, echo: bool = False
    ) -> None:
        self.rundir = rundir
        self.request = TrainRequest.from_json(rundir.read_json(RunDir.REQUEST))
        self._log = EventLog(rundir / RunDir.EVENTS, echo=echo)
        self._store = Store(rundir, self._log.past)
        asked = self.request.results
        self._results = Results(asked, self.request.id) if asked else None
        self._agents = Agents(rundir, token, incarnation, self._store.logged)
        self._generation = max((e.generation for e in self._log.past), default=0)
        self._said: dict[int, int] = {}  # of each worker, the last event of this generation
        self._members: dict[int, _Member] = {}
        self._chief = 0
        self._addresses: dict[int, str] = {}
        self._fruitless = 0  # generations that ended with no epoch gained
        self._gained = False
        self._losses: dict[int, int] = {}  # of each worker, since an epoch was gained
        self._stop_asked = False
        self._stop = _Stop()
        self._meter = Meter()
        self._trouble: float | None = None
        self._watched = 0.0
        self._ticked = time.monotonic()
        self._stacks_asked: float | None = None
        self._stacks: dict[str, str] = {}
        self._killed: set[int] = set()
        self._began = time.monotonic()
        self._history: list[Event] = list(self._log.past)

    def sha256(self, name: str, stat: os.stat_result) -> bytes | None:
        """Return that of a file of the run as it came, if this is its state still."""
        return self._store.sha256(name, stat)

    async def serve(self, channel: AsyncChannel) -> None:
        """Serve one agent until its connection ends."""
        await self._agents.serve(channel)

    def stop(self) -> None:
        """Stop the run at its next step; what there is is saved."""
        self._stop_asked = True
        self._agents.post({"is": "stop"})

    @property
    def stops(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop_asked

    # -- the run ----------------------------------------------------------------------------

    async def run(self) -> str:
        """Train to the end and return the outcome."""
        past = [e for e in self._log.past if isinstance(e, Ended)]
        if past:
            self._agents.over = True
            if not (self.rundir / RunDir.CARD).exists():  # a head died while it wrote the results
                await self._close_results()
            return past[-1].outcome
        try:
            ended = await self._check_results() or await self._train()
        except OSError as error:  # a full disk, say: told if it can be
            self._store.make_room()
            ended = self._failed(None, "data", f"the run directory can't be written: {error}")
        await self._dismiss()
        if not self._is_gone():
            with contextlib.suppress(OSError):
                await self._finish(ended)
        return ended.outcome

    def _is_gone(self) -> bool:
        """Tell whether somebody has removed the run directory: nobody could read of the run."""
        return not (self.rundir / RunDir.REQUEST).exists()

    async def close(self) -> None:
        """Part with the agents and close the files."""
        await self._agents.close()
        self._store.close()
        self._log.close()

    async def _dismiss(self) -> None:
        """Send the agents away; when the run's end is told, nothing of it is left."""
        self._agents.over = True
        await self._agents.tell_all({"do": "quit"})
        deadline = time.monotonic() + KILL_S
        while time.monotonic() < deadline and self._agents.here():
            await self._next()

    async def _train(self) -> Ended:
        while True:
            problem = await self._gather()
            verdict = _Verdict(problem) if problem else await self._run_generation()
            if verdict.ended is not None:
                return verdict.ended

    async def _finish(self, ended: Ended) -> None:
        if ended.outcome != "succeeded":
            saved = self._store.weights_from_checkpoint()
            if saved is not None:
                self._append(saved)
        self._append(ended)
        await self._close_results()

    async def _check_results(self) -> Ended | None:
        """See before the training whether the results can be written to their address."""
        if self._results is not None:
            try:
                await asyncio.to_thread(self._results.check, self.rundir)
            except ResultsError as error:
                return self._failed(None, "results", str(error))
        return None

    async def _close_results(self) -> None:
        """Write the results to their address, and the card, by which readers know the end."""
        files = await self._put_results()
        write_card(self.rundir, self.request, self._history)
        if self._results is not None and files:
            last = (RunDir.EVENTS, RunDir.CARD)
            try:
                await asyncio.to_thread(self._results.seal, self.rundir, files, last)
            except ResultsError as error:
                print(f"head: {error}")

    async def _put_results(self) -> list[dict[str, Any]]:
        """Write all but the last files; return what the manifest says of them."""
        if self._results is None:
            return []
        try:
            files = await asyncio.to_thread(self._results.put, self.rundir)
        except ResultsError as error:
            message = f"the results are in the run directory alone: {error}"
            self._append(Warned(code="results", message=message))
            return []
        size = sum(entry["bytes"] for entry in files)
        self._append(Saved(what="results", path=self._results.url, bytes=size))
        return files

    async def _gather(self) -> Ended | None:
        """Wait for the agents of all workers, or of as many as the run goes on with."""
        for worker in self._missing():
            self._append(Phase(worker=worker, phase="waiting"))
        limit = self.request.arrival_timeout_s or self.request.start_timeout_s
        deadline = time.monotonic() + limit
        while self._missing() and not self._stop_asked:
            if self._generation and self._enough() and not self._may_return():
                return None
            if time.monotonic() > deadline:
                return None if self._enough() else self._did_not_come(limit)
            await self._next()
        if self._stop_asked:
            return Ended(outcome="stopped", message="stopped before training began")
        return self._misfit()

    def _misfit(self) -> Ended | None:
        """Refuse workers whose Python or packages are not like the notebook's."""
        for agent in self._agents.here():
            if reasons := misfits(self.request.versions, agent.versions):
                message = f"its versions are not the notebook's: {'; '.join(reasons)}\n{_FITTING}"
                return self._failed(agent.workers[0], "version", message)
        return None

    def _did_not_come(self, limit: float) -> Ended:
        missing = self._missing()
        again = " back" if self._generation else ""
        message = f"{_workers(missing)} did not come{again} within"
        return self._failed(missing[0], "lost", f"{message} {limit:g} s")

    def _may_return(self) -> bool:
        """Tell whether this head has just come back, and agents may still be looking for it."""
        return not self._members and time.monotonic() - self._began < RETURN_S

    def _here(self, worker: int) -> bool:
        """Tell whether a worker's agent is connected."""
        return self._agents.get(worker) is not None

    def _missing(self) -> list[int]:
        return [w for w in range(self.request.workers) if not self._here(w)]

    def _enough(self) -> bool:
        """Tell whether the run goes on with the workers that are there."""
        here = self.request.workers - len(self._missing())
        return 0 < self.request.min_workers <= here

    def _chosen(self) -> list[int]:
        """Return the workers of the next generation.

        With `min_workers` those that are not there are left out, and so is one that was lost twice
        in a row; both are taken back at the end of an epoch.
        """
        here = [w for w in range(self.request.workers) if self._here(w)]
        steady = [w for w in here if self._losses.get(w, 0) < 2]
        return steady if 0 < self.request.min_workers <= len(steady) else here

    async def _run_generation(self) -> _Verdict:
        self._trouble, self._stop = None, _Stop()
        self._stacks_asked, self._stacks = None, {}
        self._gained = False
        self._meter.clear()
        going = {} if self._members else self._going()
        await (self._adopt(going) if going else self._begin())
        verdict = None
        while verdict is None:
            item = await self._next()
            if item is not None:
                verdict = await self._handle(*item)
            verdict = verdict or await self._tick()
        await self._kill_all()
        self._abandon()
        return self._conclude(verdict)

    async def _begin(self) -> None:
        """Start a new generation of trainers."""
        if any(agent.going for agent in self._agents.here()):  # of a head before this one
            await self._kill_all()
            self._abandon()
        self._generation += 1
        self._said.clear()
        chosen = self._chosen()
        self._members = {w: _Member(w, self._connected(w)) for w in chosen}
        self._chief = chosen[0]
        self._tell_fewer(chosen)
        if await self._prepare():
            await self._start_trainers()

    def _abandon(self) -> None:
        """Forget files that trainers which are gone had begun to send."""
        self._store.abandon()
        for agent in self._agents.here():
            agent.abandon()

    def _connected(self, worker: int) -> Connected:
        agent = self._agents.get(worker)
        assert agent is not None
        return agent

    # -- coming back ------------------------------------------------------------------------

    def _going(self) -> dict[int, Going]:
        """Return the trainers of the last generation, if all of them went on without a head."""
        past = [e for e in self._log.past if e.generation == self._generation]
        started = [e.worker for e in past if isinstance(e, Phase) and e.phase == "starting"]
        found = {}
        for worker in sorted(set(started)):
            agent = self._agents.get(worker)
            trainer = agent.going.get(worker) if agent else None
            if trainer is None or trainer.generation != self._generation:
                return {}
            found[worker] = trainer
        return found

    async def _adopt(self, going: dict[int, Going]) -> None:
        """Go on with trainers that an earlier head has started."""
        past = [e for e in self._log.past if e.generation == self._generation]
        # Only what was written down is done: the results of others may be still to be told.
        done = {e.worker for e in past if isinstance(e, Phase) and e.phase == "done"}
        self._members = {
            w: _Member(w, self._connected(w), phase=t.phase, done=w in done)
            for w, t in going.items()
        }
        self._chief = min(going)
        for event in past:
            if event.said is not None:
                worker, number = map(int, event.said.split("/"))
                self._said[worker] = max(number, self._said.get(worker, 0))
        # It was asked to stop by the user, and not to go on because the head died.
        self._stop_asked |= any(isinstance(e, Warned) and e.code == "stopping" for e in past)
        message = "the head is back; the workers went on meanwhile"
        self._append(Warned(code="head-back", message=message))
        await self._agents.tell_all({"do": "go_on"})

    async def _on_came(self, agent: Connected) -> None:
        """Take an agent in that connects while a generation trains."""
        ours = {w: m for w, m in self._members.items() if w in agent.workers}
        for worker, member in ours.items():
            trainer = agent.going.get(worker)
            member.agent, member.away = agent, None
            if trainer is None or trainer.generation != self._generation:
                self._on_exit(worker, "its agent is gone")
        if any(not member.exited for member in ours.values()):
            await self._agents.tell(agent, {"do": "go_on"})
        elif agent.going:
            await self._agents.tell(agent, {"do": "kill", "generation": self._generation})
        for worker in set(agent.workers) - ours.keys():
            reason = "is back, and trains with the others from the next epoch on"
            self._append(Phase(worker=worker, phase="waiting", reason=reason))

    def _tell_fewer(self, chosen: list[int]) -> None:
        left_out = [w for w in range(self.request.workers) if w not in chosen]
        if left_out:
            message = (
                f"goes on without {_workers(left_out)}, which it takes back at the end of an epoch;"
                " the global batch and the results stay the same"
            )
            self._append(Warned(code="fewer-workers", message=message))

    async def _prepare(self) -> bool:
        """Have the agents name the addresses at which their workers will listen."""
        self._addresses.clear()
        await self._agents.tell_all({"do": "prepare"})
        deadline = time.monotonic() + KILL_S
        while not self._addresses.keys() >= self._members.keys():
            item = await self._next()
            agent, header, _ = item or _NOTHING
            if header["is"] == "prepared":
                self._addresses |= {int(w): a for w, a in header["addresses"].items()}
            elif header["is"] == "gone" and agent is not None:
                for worker in self._of(agent):
                    self._on_exit(worker, "its agent is gone")
                return False
            if time.monotonic() > deadline:
                for worker in self._members.keys() - self._addresses.keys():
                    self._members[worker].agent.channel.close()
                    self._on_exit(worker, "its agent does not answer")
                return False
        return True

    async def _start_trainers(self) -> None:
        checkpoint, damaged = self._store.checkpoint()
        for bad in damaged:
            message = f"{bad.path} is damaged; the checkpoint before it is used"
            self._append(Warned(code="checkpoint-damaged", message=message))
        cluster = [self._addresses[w] for w in self._members]
        for index, (worker, member) in enumerate(self._members.items()):
            job = {
                "worker": worker,
                "index": index,
                "workers": len(cluster),
                "generation": self._generation,
                "cluster": cluster,
                "request": self.request.to_json(),
                "payload": RunDir.PAYLOAD,
                "payload_sha256": self.request.payload_sha256,
                "resume": checkpoint.path if checkpoint else "",
                "resume_sha256": checkpoint.sha256 if checkpoint else "",
                "files": self._store.files() if checkpoint and index == 0 else [],
            }
            self._append(Phase(worker=worker, phase="starting"))
            await self._agents.tell(member.agent, {"do": "start", "worker": worker, "job": job})

    async def _next(self) -> Item | None:
        limit = self.request.container.get("max_time")
        if limit and not self._stop_asked and self._trained_for() > limit:
            message = f"its time is over (--max-time, {limit:g} s)"
            self._append(Warned(code="max-time", message=message))
            self.stop()
        return await self._agents.next(PING_S / 2)

    def _trained_for(self) -> float:
        """Return the seconds since the training began for the first time.

        What a run waits for before that, a queue or whoever applies an export, is not its time.
        """
        began = next((e.time for e in self._history if isinstance(e, Started)), None)
        return 0.0 if began is None else time.time() - began

    async def _handle(
        self, agent: Connected | None, header: Header, body: bytes
    ) -> _Verdict | None:
        match header["is"]:
            case "stop":
                return await self._begin_stop()
            case "came":
                assert agent is not None
                await self._on_came(agent)
            case "gone":
                assert agent is not None
                for worker in self._of(agent):
                    self._members[worker].away = time.monotonic()
            case "log":
                self._store.log(header["worker"], body, header["at"])
            case "stacks":
                self._stacks |= header["stacks"]
                self._tell_stacks(header["stacks"])
            case "exit" if header["generation"] == self._generation:
                self._on_exit(header["worker"], header["reason"], header["cause"])
            case "trainer" if header["generation"] == self._generation:
                return await self._on_trainer(self._members[header["worker"]], header, body)
        return None

    def _of(self, agent: Connected) -> list[int]:
        """Return the members that an agent has."""
        return [worker for worker, member in self._members.items() if member.agent is agent]

    async def _on_trainer(self, member: _Member, header: Header, body: bytes) -> _Verdict | None:
        message = header["message"]
        member.answered = time.monotonic()
        match message["say"]:
            case "pong":
                self._on_count(member, message["count"])
                self._meter.heard(member.worker, message["examples"], message["memory"])
            case "event":
                self._on_count(member, member.count + 1)
                return self._on_event(member, message["event"], message["number"])
            case "file":
                return self._on_file(message, body)
            case "paused":
                await self._on_paused(message["step"])
            case "heard":
                await self._on_heard(member.worker)
            case "done" if not member.done:
                member.done = True
                self._append(Phase(worker=member.worker, phase="done"))
        return None

    def _on_file(self, message: dict[str, Any], body: bytes) -> _Verdict | None:
        try:
            saved = self._store.receive(message, body)
        except OSError as error:
            if message["what"] != "checkpoint":
                raise
            # A later one may do: there may be room again by then.
            text = f"a checkpoint could not be written, the run goes on without it: {error}"
            self._append(Warned(code="no-checkpoint", message=text))
            return None
        if saved is None or saved.what == "file":
            return None
        self._append(saved)
        self._gained = True
        self._losses.clear()
        if saved.what == "checkpoint" and not saved.step:
            return self._take_back()
        return None

    def _take_back(self) -> _Verdict | None:
        """Begin a generation with all workers, if some were left out that are there (again)."""
        back = [w for w in range(self.request.workers) if w not in self._members and self._here(w)]
        if not back:
            return None
        message = f"{_workers(back)} trains with the others again"
        self._append(Warned(code="worker-back", message=message))
        return _Verdict(None)

    def _on_count(self, member: _Member, count: int) -> None:
        if count != member.count:
            member.count, member.advanced = count, time.monotonic()

    def _on_event(self, member: _Member, raw: dict[str, Any], number: int) -> _Verdict | None:
        if number <= self._said.get(member.worker, 0):
            return None  # told once more after a connection broke
        self._said[member.worker] = number
        event = events.decode(json.dumps({**raw, "said": f"{member.worker}/{number}"}))
        if isinstance(event, Failed):
            member.failure = event
            self._trouble = self._trouble or time.monotonic()
            if event.cause not in ("lost", "preempted", "apart"):
                return _Verdict(self._failed_by(event))
            return None
        if isinstance(event, Phase):
            member.phase, member.advanced = event.phase, time.monotonic()
        if event is not None:
            self._append(event)
        return None

    def _on_exit(self, worker: int, reason: str, cause: str = "lost") -> None:
        member = self._members.get(worker)
        if member is None:
            return
        member.exited, member.cause = reason, cause
        if not member.done:
            # One that ended without a word is the cause itself; one that failed may be a victim.
            explained = time.monotonic() - (0 if member.failure else EXPLAIN_S)
            self._trouble = min(self._trouble or explained, explained)

    # -- judging ----------------------------------------------------------------------------

    async def _tick(self) -> _Verdict | None:
        members = self._members.values()
        if all(m.done for m in members) or (self._members[self._chief].done and self._trouble):
            return _Verdict(self._success())
        if self._stop_asked and not self._stop.sent:  # asked between two generations
            return await self._begin_stop()
        now = time.monotonic()
        self._forgive(now)
        for member in self._live():
            if member.away is not None and now - member.away >= REJOIN_S:
                self._on_exit(member.worker, "its agent is gone")
        if self._trouble is not None and now - self._trouble >= EXPLAIN_S:
            return self._lost()
        if now - self._watched < PING_S:
            return None
        self._watched = now
        return await self._watch(now)

    def _forgive(self, now: float) -> None:
        """After a pause of this process (its container was frozen) count all silence anew."""
        if now - self._ticked > SUSPENDED_S:
            for member in self._members.values():
                member.answered = member.advanced = now
                member.away = member.away and now
        self._ticked = now

    def _success(self) -> Ended:
        if self._stop_asked and self._stop.target is not None:
            return Ended(outcome="stopped", message="stopped as asked")
        return Ended(outcome="succeeded")

    def _lost(self) -> _Verdict:
        """Name the worker that was lost and decide whether to try again."""
        if apart := self._apart():
            return _Verdict(self._failed_by(apart))
        now = time.monotonic()
        first = min(self._members.values(), key=lambda member: _guilt(member, now))
        reason = first.exited or ("its agent is gone" if first.away else "")
        reason = reason or f"it does not answer {_DEAD}"
        if first.failure is not None:
            reason = first.failure.message
        traceback = first.failure.traceback if first.failure else ""
        cause = first.cause if first.exited and not first.away else "lost"
        failed = Failed(worker=first.worker, cause=cause, message=reason, traceback=traceback)
        return self._retry_or_end(failed)

    def _apart(self) -> Failed | None:
        """Return the error of the worker that did what the others did not, if that was it.

        All that met there fail alike; the one whose user's code stands in its traceback shows what.
        """
        failures = [m.failure for m in self._members.values() if m.failure]
        apart = [failure for failure in failures if failure.cause == "apart"]
        apart.sort(key=lambda failure: not traces.has_own_frames(failure.traceback))
        return dataclasses.replace(apart[0], cause="user") if apart else None

    def _retry_or_end(self, failed: Failed) -> _Verdict:
        self._fruitless = 0 if self._gained else self._fruitless + 1
        if failed.worker is not None:
            self._losses[failed.worker] = self._losses.get(failed.worker, 0) + 1
        again = self._fruitless <= self.request.max_restarts and not self._stop_asked
        self._append(dataclasses.replace(failed, will_retry=again))
        if again:
            return _Verdict(None, failed)
        if self._stop_asked:
            return _Verdict(Ended(outcome="stopped", message="stopped while a worker was lost"))
        message = f"worker {failed.worker}: {failed.message}"
        return _Verdict(
            Ended(
                outcome="failed",
                message=f"{message}; tried {self._fruitless} times with no checkpoint gained",
            )
        )

    def _failed_by(self, failed: Failed) -> Ended:
        self._append(failed)
        where = f"worker {failed.worker}: " if failed.worker is not None else ""
        return Ended(outcome="failed", message=f"{where}{failed.message}")

    def _failed(self, worker: int | None, cause: str, message: str, traceback: str = "") -> Ended:
        return self._failed_by(
            Failed(worker=worker, cause=cause, message=message, traceback=traceback)
        )

    async def _watch(self, now: float) -> _Verdict | None:
        """Look for workers that do not answer, do not meet or do not get on."""
        if self._is_gone():
            return _Verdict(Ended(outcome="stopped", message="its run directory was removed"))
        await self._agents.acknowledge()
        if usage := self._meter.told():
            self._append(usage)
        for member in self._members.values():
            if not member.exited:
                message = {"do": "tell", "worker": member.worker, "message": {"do": "ping"}}
                await self._agents.tell(member.agent, message)
        limit = self.request.unresponsive_s
        silent = [m for m in self._live() if now - m.answered > limit and m.met()]
        if silent:
            reason = f"it has not answered for {limit:g} s {_DEAD}"
            silent[0].exited = reason
            return self._retry_or_end(Failed(worker=silent[0].worker, cause="lost", message=reason))
        last = max((m.advanced for m in self._live()), default=now)
        return await self._watch_meeting(now, last) or await self._watch_stall(now - last)

    async def _watch_meeting(self, now: float, last: float) -> _Verdict | None:
        late = [m for m in self._live() if not m.met()]
        limit = self.request.start_timeout_s
        if not late or now - min(m.advanced for m in late) < limit:
            return None
        names = _workers([m.worker for m in late])
        reason = f"{names} did not start within {limit:g} s (was {late[0].phase})"
        return self._retry_or_end(Failed(worker=late[0].worker, cause="lost", message=reason))

    async def _watch_stall(self, idle: float) -> _Verdict | None:
        if idle < min(self.request.stacks_after_s, self.request.stall_timeout_s / 2):
            self._stacks_asked, self._stacks = None, {}
            return None
        if self._stacks_asked is None:
            self._stacks_asked = time.monotonic()
            await self._agents.tell_all({"do": "stacks", "generation": self._generation})
        if idle < self.request.stall_timeout_s or not self._have_stacks():
            return None
        if not all(member.met() for member in self._live()):
            return None  # those that have not met yet have `start_timeout_s`
        message = (
            f"no worker got on for {self.request.stall_timeout_s:g} s"
            " (--stall-timeout); the stacks of all workers are in the warning before"
        )
        return _Verdict(self._failed(None, "stalled", message, _joined(self._stacks)))

    def _have_stacks(self) -> bool:
        """Tell whether the stacks that were asked for are all here, or will not come any more."""
        assert self._stacks_asked is not None
        here = all(str(member.worker) in self._stacks for member in self._live())
        return here or time.monotonic() - self._stacks_asked > STACKS_S

    def _tell_stacks(self, stacks: dict[str, str]) -> None:
        positions = ", ".join(f"worker {m.worker} is {m.phase}" for m in self._members.values())
        message = f"no worker has got on for a while ({positions})\n{_joined(stacks)}"
        self._append(Warned(code="stalled", message=message))

    # -- stopping ---------------------------------------------------------------------------

    async def _begin_stop(self) -> _Verdict | None:
        if self._stop.sent:
            return None
        self._stop.sent = True
        self._append(Warned(code="stopping", message="stops after the next step, as asked"))
        if any(m.phase in ("training", "validating", "saving", "done") for m in self._live()):
            await self._to_trainers({"do": "stop"})
            return None
        return _Verdict(Ended(outcome="stopped", message="stopped before its first step"))

    async def _on_paused(self, step: int) -> None:
        if self._stop.target is not None:
            return
        self._stop.target = step + 1
        self._stop.unheard = {m.worker for m in self._live() if not m.done}
        await self._to_trainers({"do": "stop_after", "step": self._stop.target})

    async def _on_heard(self, worker: int) -> None:
        self._stop.unheard.discard(worker)
        if not self._stop.unheard:
            await self._to_trainers({"do": "go"})

    # -- small things -----------------------------------------------------------------------

    def _live(self) -> list[_Member]:
        return [m for m in self._members.values() if not m.exited]

    async def _kill_all(self) -> None:
        self._killed = set()
        here = {id(a): a for a in self._agents.here()}
        await self._agents.tell_all({"do": "kill", "generation": self._generation})
        deadline = time.monotonic() + KILL_S
        while len(self._killed) < len(here) and time.monotonic() < deadline:
            item = await self._next()
            agent, header, body = item or _NOTHING
            if agent is None:
                continue
            if header["is"] in ("killed", "gone"):
                agent.going = {}
                self._killed.add(id(agent))
            elif header["is"] == "log":
                self._store.log(header["worker"], body, header["at"])
        for key, silent in here.items():
            if key not in self._killed:
                silent.channel.close()  # frozen; if it comes back, it comes as a new one

    def _conclude(self, verdict: _Verdict) -> _Verdict:
        if verdict.ended is None:
            lost = verdict.failed.worker if verdict.failed else None
            for worker in self._members:
                phase = "lost" if worker == lost else "waiting"
                self._append(Phase(worker=worker, phase=phase, reason="starts again"))
        return verdict

    async def _to_trainers(self, message: Header) -> None:
        for member in self._live():
            wrapped = {"do": "tell", "worker": member.worker, "message": message}
            await self._agents.tell(member.agent, wrapped)

    def _append(self, event: Event) -> None:
        self._history.append(self._log.append(event, self._generation))


_DEAD = "(stopped, or its machine hangs or is gone)"


def _guilt(member: _Member, now: float) -> tuple[bool, bool, float, int]:
    """Order members by how likely they are the cause: those gone without a word come first."""
    is_quiet = member.met() and now - member.answered > QUIET_S
    is_gone = bool(member.exited) or member.away is not None or is_quiet
    return (not is_gone, member.failure is not None, member.advanced, member.worker)


def _workers(numbers: list[int]) -> str:
    names = ", ".join(map(str, numbers))
    return f"worker {names}" if len(numbers) == 1 else f"workers {names}"


def _joined(stacks: dict[str, str]) -> str:
    parts = (
        f"--- worker {worker}\n{text.strip() or 'no answer: the process is stopped'}"
        for worker, text in sorted(stacks.items())
    )
    return "\n".join(parts)
