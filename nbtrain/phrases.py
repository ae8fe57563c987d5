"""What a run's state means in plain words; the same in HTML and in text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .formats import clean, duration, left, listed, number, one_line, plural, rate, size
from .runtime.events import Failed, Warned
from .state import REHEARSAL, START, Restart, RunState, WorkerState

#: A sign for each phase of a worker, so that it doesn't need colour.
SIGNS = {
    "waiting": "○",
    "starting": "◔",
    "loading": "◑",
    "meeting": "◑",
    "building": "◕",
    "training": "●",
    "validating": "◆",
    "saving": "▼",
    "done": "✓",
    "failed": "✕",
    "lost": "!",
    "stopped": "■",
}

#: What the signs' colours stand for.
TONES = {
    **dict.fromkeys(("waiting", "starting", "loading", "meeting", "building", "stopped"), "quiet"),
    **dict.fromkeys(("training", "validating", "saving"), "busy"),
    "done": "good",
    "failed": "bad",
    "lost": "bad",
}

#: The phases in which a worker's rate and memory mean something.
_AT_WORK = ("training", "validating", "saving")

#: At most this many workers are told by their numbers.
_NAMED = 8

_STATUS_TONES = {"succeeded": "good", "failed": "bad", "lost": "bad", "stopped": "quiet",
                 "stored": "quiet", "restarting": "warn", "stopping": "warn"}  # fmt: skip

_DOING = {
    "waiting": "waiting",
    "starting": "starting",
    "loading": "unpacking the functions and data",
    "meeting": "waiting for the others",
    "building": "building model and dataset",
    "training": "training",
    "validating": "validating",
    "saving": "saving",
    "done": "done",
    "failed": "failed",
    "lost": "lost",
    "stopped": "stopped",
}

_UNSTARTED = (START, REHEARSAL)

_CELL = re.compile(r'File "(?:[^"]*[/\\]ipykernel_\d+[/\\]\d+\.py|<ipython-input-[^"]*>)", ')
_FRAME = re.compile(r'^  (?:File "|Cell, )')


def tone(state: RunState) -> str:
    """Return "busy", "good", "bad", "warn" or "quiet"."""
    return _STATUS_TONES.get(state.status, "busy")


def sign(worker: WorkerState) -> str:
    """Return the sign of a worker's phase; a letter for a phase that is not known here."""
    return SIGNS.get(worker.phase, clean(worker.phase)[:1] or "?")


def title(state: RunState, now: float) -> list[str]:
    """Return the parts of the title after the name, the most important ones first."""
    parts = [_status(state, now)]
    if state.live and state.status != "packing":
        parts.append(where(state))
        if state.status in ("training", "validating") and state.eta_s is not None:
            parts.append(f"{left(state.eta_s - _since(state.last_time, now))} left")
    elif state.status == "stored":
        parts.append("its results are on a volume")
    elif not state.live:
        parts.append(summary(state))
    return [part for part in parts if part]


def _status(state: RunState, now: float) -> str:
    if state.live and state.generation and state.head in ("gone", "pending"):
        return f"the head is away{_because(state.head_reason)}"
    match state.status:
        case "packing":
            return "packing functions and data"
        case "starting":
            return one_line(state.doing) or waiting_for(state, now) or "starting"
        case "saving":
            return "saving the model"
        case "restarting":
            return _restarting(state, now)
        case "stopping":
            return "stopping at the next step"
        case "succeeded":
            return "trained"
        case "lost":
            return "interrupted"
        case "stored":
            return "ended"
        case other:
            return clean(other)


def _restarting(state: RunState, now: float) -> str:
    if not state.restarts or state.restarts[-1].resumed is not None:
        return "going on from the last checkpoint"
    who = _who(state.restarts[-1].failed)
    doing = waiting_for(state, now)
    return f"starting again: {who} was lost" + (f"; {doing}" if doing else "")


def waiting_for(state: RunState, now: float) -> str:
    """Return what the run waits for before it trains: the worker that is furthest behind."""
    phases = ("waiting", "starting", "loading", "meeting", "building")
    behind = [w for w in state.workers if w.phase in phases]
    if state.head == "pending" and all(w.phase == "waiting" for w in state.workers):
        return f"waiting for the head{_because(state.head_reason)}"
    if not behind:
        return ""
    last = min(phases.index(w.phase) for w in behind)
    members = [w for w in behind if phases.index(w.phase) == last]
    if phases[last] == "meeting" and len(members) == len(state.workers):
        return "the workers are meeting"
    who = "" if len(members) == len(state.workers) else f"{_some(w.index for w in members)}: "
    why = next((one_line(w.why) for w in members if w.why), "") or _DOING[phases[last]]
    seconds = _since(min(w.since for w in members), now)
    # Only what is slow is counted, so that a normal start doesn't flicker.
    return f"{who}{why}" + (f", {duration(int(seconds))}" if seconds >= 5 else "")


def where(state: RunState) -> str:
    """Return "epoch 3/5, step 12/45"; nothing before the training has begun."""
    if state.started_at is None and not state.epoch_numbers and not state.step:
        return ""
    of = "" if state.epochs is None else f"/{state.epochs}"
    steps = "" if state.steps is None else f"/{state.steps}"
    return f"epoch {state.epoch + 1}{of}, step {state.step}{steps}"


def summary(state: RunState) -> str:
    """Return what was trained and in what time: "5 epochs in 12 s"."""
    done = len(state.epoch_numbers)
    asked = (state.epochs or 0) - state.first_epoch
    epochs = plural(done, "epoch")
    if state.status in ("stopped", "failed", "lost") and asked > done:
        epochs = f"{done} of {plural(asked, 'epoch')} done"
    elif asked > done > 0:
        epochs += f" of {asked}"
    if state.ended_at is None or state.started_at is None:
        return epochs if state.started_at is not None else ""
    return f"{epochs} in {duration(state.ended_at - state.started_at)}"


def facts(state: RunState) -> list[str]:
    """Return what is to be known besides: backend, batch, sharding, parameters, seed, speed."""
    found = [clean(state.backend)]
    if state.global_batch:
        found.append(f"global batch {state.global_batch:,}")
    if state.shard:
        found.append(f"shared out by {state.shard}")
    if state.parameters:
        found.append(f"{state.parameters:,} parameters")
    if state.seed is not None:
        found.append(f"seed {state.seed}")
    if state.ended:
        found.append(speed(state))
    return [part for part in found if part]


def speed(state: RunState) -> str:
    """Return "1,240 examples/s", or steps per second where the batch is not known.

    That of a live run is what its workers have together, as far as they have told it: those are
    seen beside it, and have the pauses between epochs in them.
    """
    told = [w.examples_per_s for w in state.workers if w.phase in _AT_WORK]
    together = sum(one or 0 for one in told)
    if state.live and told and all(told):
        return f"{rate(together)} examples/s"
    if state.examples_per_s is not None:
        return f"{rate(state.examples_per_s)} examples/s"
    return f"{rate(state.step_rate)} steps/s" if state.step_rate else ""


def memory(state: RunState) -> str:
    """Return "1.1 GB to 1.3 GB a worker", of those that train."""
    found = [w.memory for w in state.workers if w.phase in _AT_WORK and w.memory]
    if not found:
        return ""
    least, most = size(min(found)), size(max(found))
    return f"{least} a worker" if least == most else f"{least} to {most} a worker"


def figures(worker: WorkerState) -> tuple[str, str]:
    """Return a training worker's examples/s and memory; "" for what is not known."""
    if worker.phase not in _AT_WORK:
        return "", ""
    # Nothing is counted yet where it is 0: the steps of an epoch's beginning are on their way.
    speed = f"{rate(worker.examples_per_s)} examples/s" if worker.examples_per_s else ""
    return speed, size(worker.memory) if worker.memory else ""


def tooltip(worker: WorkerState) -> str:
    """Return all there is to say of a worker."""
    return " · ".join(part for part in (describe(worker), *figures(worker)) if part)


def describe(worker: WorkerState) -> str:
    """Return what a worker does, and where."""
    doing = _DOING.get(worker.phase, worker.phase)
    parts = [f"worker {worker.index}: {doing}"]
    if worker.why:
        parts.append(worker.why)
    if worker.host:
        parts.append(f"on {worker.host}")
    if worker.pid is not None:
        parts.append(f"pid {worker.pid}")
    if worker.placement == "gone" and worker.phase not in ("done", "stopped"):
        parts.append(f"gone {worker.placement_reason}".strip())
    return clean(" · ".join(parts))


def crew(state: RunState) -> str:
    """Return what the workers do: "all training", "62 training, workers 3, 5 waiting"."""
    if state.status == "lost":
        return "not known while the head is gone"
    if state.status == "stored":
        return "not known until the results are read"
    phases: dict[str, list[int]] = {}
    for worker in state.workers:
        phases.setdefault(worker.phase, []).append(worker.index)
    parts = []
    for phase, members in sorted(phases.items(), key=lambda item: -len(item[1])):
        doing = clean(_DOING.get(phase, phase))
        if len(phases) == 1:
            parts.append(f"all {doing}" if len(members) > 1 else doing)
        elif len(members) <= _NAMED:
            parts.append(f"{_workers(members)} {doing}")
        else:
            parts.append(f"{len(members)} {doing}")
    if state.slowest is not None and state.live:
        parts.append(f"the others wait for worker {state.slowest}")
    return ", ".join(parts)


@dataclass(frozen=True)
class Bar:
    """A progress bar: which part of it is filled, and what is written beside it."""

    name: str
    part: float
    said: str


def bars(state: RunState) -> tuple[Bar, Bar]:
    """Return the bars of the epochs and of the steps in the running one."""
    done = len([n for n in state.epoch_numbers if n >= state.first_epoch])
    asked = max((state.epochs or 0) - state.first_epoch, 0)
    steps = state.steps or 0
    in_epoch = state.step / steps if steps > 0 else 0.0
    running = 0.0 if state.epoch in state.epoch_numbers else in_epoch
    return (
        Bar("epochs", _part((done + running) / asked if asked else 0.0), f"{done}/{asked or '?'}"),
        Bar("steps", _part(in_epoch), f"{state.step}/{steps}" if steps else f"{state.step or '–'}"),
    )


def _part(value: float) -> float:
    return min(max(value, 0.0), 1.0)


# -- numbers ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A loss or metric: its running value in this epoch, and the values of the last whole one."""

    name: str
    now: str = ""
    training: str = ""
    validation: str = ""


def rows(state: RunState) -> list[Row]:
    """Return loss and metrics, training beside validation."""
    last = state.epoch_logs[-1] if state.epoch_logs else {}
    # The columns must not come and go, so running values stay until the run has ended.
    running = state.logs if state.live else {}
    names = {n.removeprefix("val_") for n in (*last, *running)}
    found = []
    for name in sorted(names, key=lambda n: (n != "loss", n)):
        now = running.get(name)
        found.append(
            Row(
                clean(name),
                "" if now is None else number(now),
                number(last[name]) if name in last else "",
                number(last[f"val_{name}"]) if f"val_{name}" in last else "",
            )
        )
    return found


def columns(state: RunState, rows: Iterable[Row]) -> list[str]:
    """Return the columns of `Row` that have anything to show."""
    there = {"now": state.live}
    there |= {name: any(getattr(r, name) for r in rows) for name in ("training", "validation")}
    return [name for name, shown in there.items() if shown]


def metric(state: RunState) -> str:
    """Return the metric to draw beside the loss; an accuracy if there is one."""
    names = [
        n
        for n in (*state.logs, *state.history)
        if not n.startswith("val_") and n not in ("loss", "lr", "learning_rate")
    ]
    return next((n for n in names if "acc" in n), names[0] if names else "")


def series(state: RunState, name: str) -> list[tuple[float, float]]:
    """Return (epochs trained, value) of one value of Keras' history."""
    return [
        (epoch + 1.0, float(logs[name]))
        for epoch, logs in zip(state.epoch_numbers, state.epoch_logs, strict=True)
        if isinstance(logs.get(name), (int, float))
    ]


# -- trouble ------------------------------------------------------------------------------------


def alarms(state: RunState) -> list[str]:
    """Return what is wrong with the numbers."""
    values: Mapping[str, float] = state.logs
    loss = values.get("loss")
    if not isinstance(loss, float) or math.isfinite(loss):
        return []
    since = next((int(x) for x, y in series(state, "loss") if not math.isfinite(y)), None)
    when = f" since epoch {since}" if since is not None else ""
    return [f"The loss is {number(loss)}{when}: a smaller learning rate or clipnorm may help."]


def warning(warned: Warned) -> str:
    """Return a warning with the worker it came from."""
    who = "" if warned.worker is None else f"worker {warned.worker}: "
    return who + clean(warned.message).strip()


def restarted(restart: Restart) -> str:
    """Return "worker 1 was lost in epoch 3 (killed by SIGKILL); trained on from epoch 2"."""
    when = "before training" if restart.epoch is None else f"in epoch {restart.epoch + 1}"
    why = one_line(restart.failed.message)
    said = f"{_who(restart.failed)} was lost {when}" + (f" ({why})" if why else "")
    if restart.resumed is None:
        return said
    if restart.step:
        return f"{said}; trained on from step {restart.step} of epoch {restart.resumed + 1}"
    if restart.epoch is None or restart.resumed == 0:
        return f"{said}; started again" + (" from the beginning" if restart.epoch else "")
    return f"{said}; trained on from the end of epoch {restart.resumed}"


def headline(failed: Failed) -> str:
    """Return who failed, and why in a few words."""
    causes = {
        "user": "raised an error",
        "refused": "was refused",
        "memory": "ran out of memory",
        "preempted": "was preempted",
        "lost": "was lost",
        "stalled": "got stuck",
        "version": "has other versions",
        "data": "could not read the data",
        "placement": "can't start",
        "results": "can't write its results to their address",
        START: "could not be started",
        REHEARSAL: "failed in its rehearsal on this machine; nothing was started elsewhere",
    }
    if failed.cause == "refused":
        return "nbtrain refuses to train this"
    return f"{_who(failed)} {causes.get(failed.cause, 'failed')}"


def traceback_lines(failed: Failed) -> list[tuple[str, bool]]:
    """Return the lines of the user's traceback; True marks the line of the cell that failed."""
    lines = _CELL.sub("Cell, ", clean(failed.traceback)).rstrip().splitlines()
    frames = [i for i, line in enumerate(lines) if _FRAME.match(line)]
    cells = [i for i in frames if lines[i].startswith("  Cell, ")]
    marked = (cells or frames or [-2])[-1] + 1
    has_source = 0 < marked < len(lines) and lines[marked].startswith("    ")
    return [(line, has_source and i == marked) for i, line in enumerate(lines)]


def advice(failed: Failed) -> list[str]:
    """Return the lines of the message that the traceback doesn't have."""
    whole = clean(failed.traceback)
    lines = clean(failed.message).strip().splitlines()
    return [one for one in lines if not one.strip() or one.strip() not in whole]


def next_steps(state: RunState) -> list[tuple[str, str]]:
    """Return (code, what it does) for what a user may want to do now."""
    name = clean(state.name)
    if state.status == "succeeded":
        return [(f"{name}.model", "the trained model"), (f"{name}.history", "its history")]
    if state.status == "stored":
        return [(f"{name}.model", "reads it"), (f"{name}.wait()", "reads what became of it")]
    if state.live:
        return [
            (f"{name}.model", "waits for the model"),
            (f"{name}.stop()", "keeps what there is"),
        ]
    steps = []
    if state.status == "stopped" and "weights" in state.saved:
        steps.append((f"{name}.model", "the model as it was"))
    elif {"weights", "checkpoint"} & set(state.saved):
        steps.append((f"{name}.load()", "the model of the last checkpoint"))
    error = state.error
    if (state.status == "stopped" and state.last_seq < 0) or (error and error.cause in _UNSTARTED):
        return steps  # it has written nothing
    worker = error.worker if error and error.worker is not None else 0
    steps.append((f"{name}.logs({worker})", f"what worker {worker} printed"))
    return steps


def _who(failed: Failed) -> str:
    if failed.cause == "placement" and failed.worker is None:
        return "the head"
    return "the run" if failed.worker is None else f"worker {failed.worker}"


def _workers(indices: Iterable[int]) -> str:
    numbers = list(indices)
    return f"worker {numbers[0]}" if len(numbers) == 1 else f"workers {listed(numbers)}"


def _some(indices: Iterable[int]) -> str:
    """Return which workers, or of many how many."""
    numbers = list(indices)
    return _workers(numbers) if len(numbers) <= _NAMED else f"{len(numbers)} workers"


def _because(reason: str) -> str:
    return f": {one_line(reason)}" if reason else ""


def _since(then: float, now: float) -> float:
    """Return the seconds since then; clocks of two machines may disagree."""
    return max(now - then, 0.0) if then else 0.0
