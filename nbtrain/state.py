"""What is known of a run: one state, made by a pure fold of its events and placements.

Report, widget, sidebar and command line draw this state and nothing else.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

from .backend import Placement
from .runtime.events import (
    OUTCOMES,
    Ended,
    EpochEnd,
    Event,
    Failed,
    Phase,
    Progress,
    Saved,
    Started,
    Usage,
    Warned,
)

#: All values of `RunState.status`, in the usual order.
STATUSES = (
    "packing",
    "starting",
    "training",
    "validating",
    "saving",
    "restarting",
    "stopping",
    "succeeded",
    "stopped",
    "failed",
    "lost",
    "stored",
)

#: The curve of the running loss has at most this many points, however long the run.
CURVE_POINTS = 200

#: At most this many warnings and failures are kept, the latest ones.
KEPT = 100

#: `Warned.code` by which a head tells that the run was asked to stop.
STOPPING = "stopping"

#: `Failed.cause` of a run whose container or pod can't be, of one that could not be started, and of
#: one whose functions failed when they were rehearsed.
PLACEMENT, START, REHEARSAL = "placement", "start", "rehearsal"

#: Where the length of an epoch isn't known yet, this many steps are drawn as half of it.
_HALF_EPOCH = 100

_TERMINAL = ("done", "failed", "lost", "stopped")


@dataclass(frozen=True)
class WorkerState:
    """One worker: what it says itself (`phase`), and where the infrastructure has it.

    `since` is the Unix time at which the phase began. `placement` is "", "pending", "running" or
    "gone", `placement_reason` the infrastructure's own words. `examples_per_s` and `memory`
    (resident, in bytes) are what was told last.
    """

    index: int
    phase: str = "waiting"
    reason: str = ""
    pid: int | None = None
    host: str = ""
    since: float = 0.0
    placement: str = ""
    placement_reason: str = ""
    examples_per_s: float | None = None
    memory: int | None = None

    @property
    def why(self) -> str:
        """What it waits for, in plain words; the infrastructure knows while it is not there."""
        if self.phase == "waiting":
            return self.reason or self.placement_reason
        return self.reason


@dataclass(frozen=True)
class Restart:
    """A failure that the run recovers from, or is recovering from.

    `epoch` is the one that ran when it happened (None: training had not begun), `resumed` the one
    that the training went on with (None: it has not yet), after `step` steps of it. Both count
    from 0.
    """

    failed: Failed
    epoch: int | None
    resumed: int | None = None
    step: int = 0


@dataclass(frozen=True)
class RunState:
    """All that is known of a run.

    Attributes
    ----------
    context : str
        The kubeconfig's name of the cluster, where the run was found on one.
    status : str
        One of `STATUSES`. A run is "stored" if it has ended and nobody has read how yet, since its
        directory is on a volume that no pod serves.
    epoch, step, steps
        The epoch that runs (from 0), the steps done in it, and how many it has, if known.
    epochs, first_epoch
        The epoch that training ends before, and the one that the first generation began with.
    logs : dict
        The latest values: running ones within an epoch, exact ones at its end.
    epoch_numbers, epoch_logs, epoch_seconds : tuple
        One entry for each epoch that is over: its number (from 0), Keras' logs, its duration.
    curve : tuple of (float, float)
        The running loss over the (fractional) epoch; finite values, at most `CURVE_POINTS`.
    saved : dict
        The latest file of each sort ("checkpoint", "weights", "model", "history").
    restarts : tuple of Restart
        The failures that did not end the run.
    head, head_reason : str
        Where the infrastructure has the head, as for `WorkerState.placement`.
    doing : str
        What the start is at, while this kernel starts the run.
    """

    name: str
    id: str = ""
    backend: str = ""
    context: str = ""
    created: float = 0.0
    status: str = "packing"
    workers: tuple[WorkerState, ...] = ()
    generation: int = 0
    epochs: int | None = None
    first_epoch: int = 0
    epoch: int = 0
    step: int = 0
    steps: int | None = None
    logs: Mapping[str, float] = field(default_factory=dict)
    examples_per_s: float | None = None
    step_rate: float | None = None
    slowest: int | None = None
    epoch_numbers: tuple[int, ...] = ()
    epoch_logs: tuple[Mapping[str, float], ...] = ()
    epoch_seconds: tuple[float, ...] = ()
    curve: tuple[tuple[float, float], ...] = ()
    warnings: tuple[Warned, ...] = ()
    failures: tuple[Failed, ...] = ()
    restarts: tuple[Restart, ...] = ()
    saved: Mapping[str, Saved] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    parameters: int | None = None
    seed: int | None = None
    global_batch: int | None = None
    shard: str = ""
    head: str = ""
    head_reason: str = ""
    doing: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    message: str = ""
    last_seq: int = -1
    last_time: float = 0.0
    # Time and step of the first progress of this epoch: the steps per second are counted from it.
    _mark: tuple[float, int] | None = None

    @property
    def ended(self) -> bool:
        """Whether the run's last event has come."""
        return self.status in OUTCOMES

    @property
    def live(self) -> bool:
        """Whether more is to be expected: not ended, and its head not dead."""
        return not self.ended and self.status not in ("lost", "stored")

    @property
    def eta_s(self) -> float | None:
        """Seconds left, estimated at `last_time`: by whole epochs, else by steps."""
        if self.status not in ("training", "validating") or self.epochs is None or not self.steps:
            return None
        left = self.epochs - self.epoch - _fraction(self.step, self.steps)
        if left <= 0:
            return 0.0
        # The first epoch traces and compiles, so it counts only where it is the only one.
        seconds = self.epoch_seconds[1:][-5:] or self.epoch_seconds
        if seconds:
            return left * statistics.median(seconds)
        return left * self.steps / self.step_rate if self.step_rate else None

    @property
    def history(self) -> dict[str, list[float]]:
        """Keras' `History.history`: exact values of each epoch, by name.

        As with Keras a list is shorter than others where its value didn't come in every epoch
        (``validation_freq=2``).
        """
        found: dict[str, list[float]] = {}
        for logs in self.epoch_logs:
            for name, value in logs.items():
                found.setdefault(name, []).append(value)
        return found

    @property
    def error(self) -> Failed | None:
        """The failure that ended the run."""
        if self.status != "failed" or not self.failures or self.failures[-1].will_retry:
            return None
        return self.failures[-1]


def initial(
    name: str,
    id: str = "",  # noqa: A002  the field's name
    backend: str = "",
    workers: int = 0,
    created: float = 0.0,
    epochs: int | None = None,
    context: str = "",
) -> RunState:
    """Return the state of a run of which no event has come yet."""
    return RunState(
        name=name,
        id=id,
        backend=backend,
        context=context,
        created=created,
        workers=_members((), workers, created),
        epochs=epochs,
        last_time=created,
    )


def fold(state: RunState, item: Event | Placement) -> RunState:
    """Return the state after one more event or placement.

    Events that were folded already (by `seq`) and events that never were in a log (no `seq`)
    change nothing. Events may be missing, and phases unknown.
    """
    if isinstance(item, Placement):
        return _placed(state, item)
    if item.seq <= state.last_seq:
        return state
    if state.error is not None and state.error.cause == PLACEMENT:
        return state  # given up; what its head still says is of how it was ended
    if state.status == "stored":
        state = dataclasses.replace(state, status="starting", message="")
    if state.status == "lost" and not isinstance(item, Ended):
        # A new head goes on with the run.
        state = dataclasses.replace(state, status="restarting", message="")
    known = dataclasses.replace(
        state,
        last_seq=item.seq,
        last_time=max(state.last_time, item.time),
        generation=max(state.generation, item.generation),
    )
    return _fold(item, known)


def fold_all(state: RunState, items: Iterable[Event | Placement]) -> RunState:
    """Return the state after all of `items`."""
    for item in items:
        state = fold(state, item)
    return state


def mark_lost(state: RunState, message: str) -> RunState:
    """Return the state of a run whose head is dead; one that has ended stays as it is."""
    if state.ended:
        return state
    return dataclasses.replace(state, status="lost", message=message)


def mark_stored(state: RunState, message: str = "") -> RunState:
    """Return the state of a run that has ended, of which nothing has been read; or why not."""
    return dataclasses.replace(state, status="stored", message=message)


def mark_stuck(state: RunState, placement: Placement) -> RunState:
    """Return the state of a run that can't begin, or go on, until somebody mends what it says."""
    if state.ended:
        return state
    what = "\n".join(text for text in (placement.reason, placement.fix) if text)
    failed = Failed(worker=placement.worker, cause=PLACEMENT, message=what)
    who = "the head" if placement.worker is None else f"worker {placement.worker}"
    return dataclasses.replace(
        state,
        status="failed",
        message=f"{who}: {what}",
        failures=(*state.failures, failed)[-KEPT:],
        ended_at=time.time(),
    )


def mark_starting(state: RunState, doing: str, warnings: Iterable[str] = ()) -> RunState:
    """Return the state of a run that is being started; `doing` is "" once it has been."""
    status = "starting" if state.status == "packing" else state.status
    said = tuple(Warned(code="start", message=message) for message in warnings)
    return dataclasses.replace(state, status=status, doing=doing, warnings=said)


def mark_unstarted(state: RunState, message: str, cause: str = START, trace: str = "") -> RunState:
    """Return the state of a run that could not be started, or failed when it was rehearsed."""
    failed = Failed(worker=None, cause=cause, message=message, traceback=trace)
    return dataclasses.replace(
        state,
        status="failed",
        doing="",
        message=message,
        failures=(*state.failures, failed)[-KEPT:],
        ended_at=time.time(),
    )


def mark_called_off(state: RunState) -> RunState:
    """Return the state of a run that was stopped while it was being started."""
    return dataclasses.replace(
        state,
        status="stopped",
        doing="",
        message="stopped before it had been started; nothing is left of it",
        ended_at=time.time(),
    )


def mark_stopping(state: RunState) -> RunState:
    """Return the state of a run that was asked to stop just now."""
    return dataclasses.replace(state, status="stopping") if state.live else state


# -- one function for each kind of event --------------------------------------------------------


@singledispatch
def _fold(_event: Event, state: RunState) -> RunState:
    return state  # a kind that this version does not draw


@_fold.register
def _(event: Started, state: RunState) -> RunState:
    restarts = tuple(
        r
        if r.resumed is not None
        else dataclasses.replace(r, resumed=event.first_epoch, step=event.first_step)
        for r in state.restarts
    )
    first = state.started_at is None
    state = _cut(state, event.first_epoch)
    return dataclasses.replace(
        state,
        status="stopping" if state.status == "stopping" else "training",
        workers=_members(state.workers, event.workers, event.time),
        epochs=event.epochs,
        first_epoch=event.first_epoch if first else min(state.first_epoch, event.first_epoch),
        epoch=event.first_epoch,
        step=event.first_step,
        steps=event.steps if event.steps is not None else state.steps,
        restarts=restarts,
        global_batch=event.global_batch,
        seed=event.seed,
        shard=event.shard,
        versions=event.versions,
        data=event.data,
        parameters=event.parameters if event.parameters is not None else state.parameters,
        started_at=event.time if first else state.started_at,
        ended_at=None,
        message="",
        _mark=None,
    )


@_fold.register
def _(event: Phase, state: RunState) -> RunState:
    if not 0 <= event.worker < len(state.workers):
        return state
    old = state.workers[event.worker]
    new = dataclasses.replace(
        old,
        phase=event.phase,
        reason=event.reason,
        pid=event.pid if event.pid is not None else old.pid,
        host=event.host or old.host,
        since=old.since if event.phase == old.phase else event.time,
    )
    status = state.status
    if status == "packing":
        status = "starting"
    elif status in ("training", "validating") and event.phase == "saving":
        status = "saving"
    return dataclasses.replace(state, workers=_with(state.workers, new), status=status)


@_fold.register
def _(event: Progress, state: RunState) -> RunState:
    same = event.epoch == state.epoch and event.step >= state.step
    mark = state._mark if same and state._mark else (event.time, event.step)
    steps = event.steps if event.steps is not None else state.steps
    return dataclasses.replace(
        state,
        status=_busy(state.status, "validating" if event.validating else "training"),
        epoch=event.epoch,
        step=event.step,
        steps=steps,
        logs=event.logs or state.logs,
        examples_per_s=_or(event.examples_per_s, state.examples_per_s),
        step_rate=_rate(mark, event) or state.step_rate,
        slowest=event.slowest,
        curve=_curve(state, event.epoch + _fraction(event.step, steps), event.logs.get("loss")),
        _mark=mark,
    )


@_fold.register
def _(event: Usage, state: RunState) -> RunState:
    workers = list(state.workers)
    for number, rate, memory in zip(
        event.workers, event.examples_per_s, event.memory, strict=False
    ):
        if 0 <= number < len(workers):
            workers[number] = dataclasses.replace(
                workers[number], examples_per_s=rate, memory=memory
            )
    return dataclasses.replace(state, workers=tuple(workers))


@_fold.register
def _(event: EpochEnd, state: RunState) -> RunState:
    # An epoch that comes again replaces what followed from its first time.
    if state.epoch_numbers and state.epoch_numbers[-1] >= event.epoch:
        state = _cut(state, event.epoch)
    return dataclasses.replace(
        state,
        status=_busy(state.status, "training"),
        epoch=event.epoch,
        step=event.steps,
        steps=event.steps,
        logs=event.logs or state.logs,
        epoch_numbers=(*state.epoch_numbers, event.epoch),
        epoch_logs=(*state.epoch_logs, event.logs),
        epoch_seconds=(*state.epoch_seconds, event.seconds),
        curve=_curve(state, event.epoch + 1.0, event.logs.get("loss")),
        _mark=None,
    )


@_fold.register
def _(event: Saved, state: RunState) -> RunState:
    return dataclasses.replace(state, saved={**state.saved, event.what: event})


@_fold.register
def _(event: Warned, state: RunState) -> RunState:
    if event.code == STOPPING:
        return mark_stopping(state)
    said = {(w.code, w.message, w.worker) for w in state.warnings}
    if (event.code, event.message, event.worker) in said:
        return state
    return dataclasses.replace(state, warnings=(*state.warnings, event)[-KEPT:])


@_fold.register
def _(event: Failed, state: RunState) -> RunState:
    failures = (*state.failures, event)[-KEPT:]
    status, restarts = state.status, state.restarts
    if event.will_retry:
        status = _busy(status, "restarting")
        epoch = None if state.started_at is None else state.epoch
        restarts = (*restarts, Restart(event, epoch))[-KEPT:]
    workers = state.workers
    if event.worker is not None and 0 <= event.worker < len(workers):
        phase = "lost" if event.cause in ("lost", "preempted") else "failed"
        failed = dataclasses.replace(
            workers[event.worker], phase=phase, reason=_first_line(event), since=event.time
        )
        workers = _with(workers, failed)
    return dataclasses.replace(
        state,
        failures=failures,
        restarts=restarts,
        status=status,
        workers=workers,
        step_rate=None,
    )


@_fold.register
def _(event: Ended, state: RunState) -> RunState:
    outcome = event.outcome if event.outcome in OUTCOMES else "failed"
    last = "done" if outcome == "succeeded" else "stopped"
    workers = tuple(
        w
        if w.phase in _TERMINAL
        else dataclasses.replace(w, phase=last, reason="", since=event.time)
        for w in state.workers
    )
    return dataclasses.replace(
        state,
        status=outcome,
        workers=workers,
        message=event.message,
        ended_at=event.time,
        slowest=None,
    )


def _placed(state: RunState, item: Placement) -> RunState:
    if item.worker is None:
        if (state.head, state.head_reason) == (item.phase, item.reason):
            return state
        return dataclasses.replace(state, head=item.phase, head_reason=item.reason)
    if not 0 <= item.worker < len(state.workers):
        return state
    old = state.workers[item.worker]
    new = dataclasses.replace(
        old, placement=item.phase, placement_reason=item.reason, host=item.host or old.host
    )
    if new == old:
        return state
    return dataclasses.replace(state, workers=_with(state.workers, new))


# -- small things -------------------------------------------------------------------------------


def _members(workers: tuple[WorkerState, ...], count: int, since: float) -> tuple[WorkerState, ...]:
    """Return `count` workers, the known ones first."""
    new = (WorkerState(index, since=since) for index in range(len(workers), count))
    return (*workers[: max(count, 0)], *new)


def _with(workers: tuple[WorkerState, ...], new: WorkerState) -> tuple[WorkerState, ...]:
    return (*workers[: new.index], new, *workers[new.index + 1 :])


def _busy(status: str, now: str) -> str:
    """Return the status after a sign of training; what was decided about the end stays."""
    return status if status in ("stopping", *OUTCOMES) else now


def _cut(state: RunState, first: int) -> RunState:
    """Forget epoch `first` and what came after it: it is trained again."""
    kept = [i for i, number in enumerate(state.epoch_numbers) if number < first]
    return dataclasses.replace(
        state,
        epoch_numbers=tuple(state.epoch_numbers[i] for i in kept),
        epoch_logs=tuple(state.epoch_logs[i] for i in kept),
        epoch_seconds=tuple(state.epoch_seconds[i] for i in kept),
        logs=state.epoch_logs[kept[-1]] if kept else {},
        curve=tuple(p for p in state.curve if p[0] <= first),
    )


def _first_line(failed: Failed) -> str:
    return failed.message.split("\n", 1)[0]


def _or(value: float | None, other: float | None) -> float | None:
    return value if value is not None else other


def _fraction(step: int, steps: int | None) -> float:
    if steps is None or steps <= 0:
        return max(step, 0) / (max(step, 0) + _HALF_EPOCH)
    return min(max(step / steps, 0.0), 1.0)


def _rate(mark: tuple[float, int], event: Progress) -> float | None:
    """Return steps per second of this epoch, once there is enough of it to say."""
    seconds, steps = event.time - mark[0], event.step - mark[1]
    return steps / seconds if seconds >= 1.0 and steps > 0 else None


def _curve(state: RunState, x: float, loss: float | None) -> tuple[tuple[float, float], ...]:
    if loss is None or not math.isfinite(loss) or x < 0:
        return state.curve
    return _thinned(state.curve, (x, float(loss)))


def _thinned(
    curve: tuple[tuple[float, float], ...], point: tuple[float, float]
) -> tuple[tuple[float, float], ...]:
    """Return the curve with one more point, with one point for each `_gap` at most.

    Gaps are powers of two, so the points that are kept stay where they are as the curve grows.
    """
    x = point[0]
    gap = _gap(x)
    if curve and curve[-1][0] <= x and _gap(curve[-1][0]) == gap:
        same = math.floor(curve[-1][0] / gap) == math.floor(x / gap)
        return (*(curve[:-1] if same else curve), point)
    kept = {math.floor(p[0] / gap): p for p in curve if p[0] < x}
    return tuple((kept | {math.floor(x / gap): point}).values())


def _gap(x: float) -> float:
    """Return the largest gap that is needed for at most `CURVE_POINTS` points from 0 to x."""
    return float(2.0 ** math.ceil(math.log2(x / (CURVE_POINTS - 2)))) if x > 0 else 2.0**-30
