"""What happens in a run, as the lines of its `events.jsonl`.

The head is the only writer. Readers ignore kinds and fields that they don't know, so an older
notebook can follow a newer head and the other way round.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

VERSION = 1

#: Why a worker or a run failed (`Failed.cause`).
CAUSES = (
    *("user", "refused", "memory", "preempted", "lost", "stalled", "version", "data"),
    "placement",  # its container or pod can't be: said by the notebook's side, not by a head
    "start",  # it could not be started: said by the notebook's side as well
    "rehearsal",  # its functions failed when they were rehearsed, likewise
    "results",  # they can't be written to their address
    "apart",  # the workers computed different things where all have to compute the same
    "elsewhere",  # of a rehearsal: it lacks what may well be there where the run trains
)

#: What a worker is doing (`Phase.phase`), in the usual order.
PHASES = (
    "waiting",  # not there yet (pending, pulling, connecting)
    "starting",  # the trainer process starts
    "loading",  # unpacks the payload
    "meeting",  # waits for the other workers
    "building",  # model() and dataset()
    "training",
    "validating",
    "saving",
    "done",
    "failed",
    "lost",
    "stopped",
)

#: How a run can end (`Ended.outcome`).
OUTCOMES = ("succeeded", "stopped", "failed")


@dataclass(frozen=True, kw_only=True)
class Event:
    """What all events carry; `seq` counts from 0 without a gap, `time` is Unix time in seconds.

    `said` is "worker/number" for what a trainer said: its events of a generation are numbered, so
    that none is written down twice when it is told again.
    """

    kind: ClassVar[str] = "event"
    seq: int = -1
    time: float = 0.0
    generation: int = 0
    said: str | None = None


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """A generation of all workers starts to train.

    `steps` is the number of steps of an epoch (None where it is not known beforehand),
    `first_epoch` the one that this generation begins with (counted from 0), after `first_step`
    steps of it. `workers` are those of the run, also where some are left out for a while. `shard`
    says how the data is shared out among several: by "example" or by "file".
    """

    kind: ClassVar[str] = "started"
    workers: int
    epochs: int
    first_epoch: int = 0
    first_step: int = 0
    global_batch: int | None = None
    steps: int | None = None
    seed: int = 0
    shard: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    parameters: int | None = None


@dataclass(frozen=True, kw_only=True)
class Phase(Event):
    """A worker enters a phase (one of `PHASES`); `reason` says in plain words what it waits for."""

    kind: ClassVar[str] = "phase"
    worker: int
    phase: str
    reason: str = ""
    pid: int | None = None
    host: str = ""


@dataclass(frozen=True, kw_only=True)
class Progress(Event):
    """Where the whole run is: `epoch` counts from 0, `step` is the number of steps done in it.

    `logs` are running values; they are worker 0's own shard's and become exact in `EpochEnd`.
    `slowest` is the worker that the others wait for, where that is known.
    """

    kind: ClassVar[str] = "progress"
    epoch: int
    step: int
    steps: int | None = None
    logs: dict[str, float] = field(default_factory=dict)
    examples_per_s: float | None = None
    validating: bool = False
    slowest: int | None = None


@dataclass(frozen=True, kw_only=True)
class Usage(Event):
    """How each of `workers` gets on: its share of the examples/s, its resident memory in bytes.

    One event for all; every 2 s at most, more seldom the longer the run, and only with news.
    """

    kind: ClassVar[str] = "usage"
    workers: list[int]
    examples_per_s: list[float | None]
    memory: list[int]


@dataclass(frozen=True, kw_only=True)
class EpochEnd(Event):
    """An epoch is over; `logs` are the values of Keras' own History, validation included."""

    kind: ClassVar[str] = "epoch_end"
    epoch: int
    steps: int
    logs: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    digest: str = ""


@dataclass(frozen=True, kw_only=True)
class Saved(Event):
    """A file of the run directory is complete: what is "checkpoint", "weights", "model", ..."""

    kind: ClassVar[str] = "saved"
    what: str
    path: str
    epoch: int | None = None
    step: int | None = None
    bytes: int = 0
    sha256: str = ""


#: The code of the one warning of a rehearsal that is told: the run itself can't give it, or later.
COUPLED = "coupled-step"


@dataclass(frozen=True, kw_only=True)
class Warned(Event):
    """Something that the user ought to know; `code` is stable, `message` is for reading."""

    kind: ClassVar[str] = "warned"
    code: str
    message: str
    worker: int | None = None


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    """A worker failed. `traceback` is the user's own (frames of nbtrain and Keras left out)."""

    kind: ClassVar[str] = "failed"
    worker: int | None
    cause: str
    message: str
    traceback: str = ""
    will_retry: bool = False


@dataclass(frozen=True, kw_only=True)
class Ended(Event):
    """The last event of a run; outcome is one of `OUTCOMES`."""

    kind: ClassVar[str] = "ended"
    outcome: str
    message: str = ""


KINDS: dict[str, type[Event]] = {
    cls.kind: cls
    for cls in (Started, Phase, Progress, Usage, EpochEnd, Saved, Warned, Failed, Ended)
}


def encode(event: Event) -> str:
    """Return the event as one line of JSON, without the line's end."""
    fields = {k: v for k, v in dataclasses.asdict(event).items() if v is not None}
    return json.dumps({"v": VERSION, "kind": event.kind} | _jsonable(fields), allow_nan=False)


def decode(line: str | bytes) -> Event | None:
    """Return the event of a line, or None for a kind that this version doesn't know.

    Raises
    ------
    ValueError
        If the line is not an event at all (a line cut short, say).
    """
    try:
        raw = json.loads(line, parse_constant=float)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not an event: {error}") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("kind"), str):
        raise ValueError("not an event: no kind")
    cls = KINDS.get(raw["kind"])
    if cls is None:
        return None
    known = {f.name: f for f in dataclasses.fields(cls)}
    given = {k: _restored(v) for k, v in raw.items() if k in known}
    missing = [
        name
        for name, f in known.items()
        if name not in given
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    # Encoding leaves out None; a required field that may be None comes back as None.
    fields: dict[str, Any] = given | dict.fromkeys(missing)
    return cls(**fields)


# JSON has no NaN and no infinities, and losses do: they travel as {"$float": "nan"}.
def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"$float"}:
            return float(value["$float"]) if value["$float"] in ("nan", "inf", "-inf") else None
        return {k: _restored(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_restored(v) for v in value]
    return value
