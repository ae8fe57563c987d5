"""What a run is asked to do: the contents of its `request.json`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

MULTI_WORKER_MIRRORED = "multi-worker-mirrored"


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """One run, as the head and the trainers read it.

    Parameters
    ----------
    name, id
        The name is the user's and a Python identifier; the id (name, time, a few letters) is
        unique and names the run directory.
    workers, epochs, batch
        `batch` is the global batch, in examples; None leaves it to the dataset (its own batch)
        or, for arrays, to Keras' default of 32.
    seed
        Given to `keras.utils.set_random_seed` in every worker before `model()`.
    fit
        Further arguments of `Model.fit` by their Keras names, JSON values only.
    resume_from, resume_state
        Id of the run whose weights this one starts with; with `resume_state` its optimizer
        state and epoch count as well.
    checkpoint_every
        "epoch"; "100 steps"; or a number of seconds. See `every_steps`, `every_seconds`.
    arrival_timeout_s
        How long the head waits for the workers' agents, where a scheduler may have them wait; 0 is
        `start_timeout_s`. Seconds.
    stall_timeout_s, start_timeout_s, stacks_after_s
        How long no worker may get on before the run ends; how long workers may take to meet;
        when the stacks of a run that does not get on are written down. Seconds.
    unresponsive_s
        After how many seconds a trainer that does not answer (it is stopped, or its machine
        hangs) is lost.
    min_workers
        With so many workers a run goes on when others are lost; 0 stands for all.
    memory
        Bytes that a worker may take, where no container or pod sets a limit; 0 for no limit.
    max_restarts
        How many generations may follow the first one without an epoch gained in between.
    container
        What was asked of the containers or pods, by the names of the options; what is not there
        is the backend's choice. The head reads "max_time", after how many seconds of training it
        stops the run; where a run is rehearsed, the trainer reads what may be missing here.
    results
        The address that the results are written to when the run has ended; "" for none.
    rehearses
        The number of workers of the run that is rehearsed: one worker makes all that they would
        make and one step on a few examples, and keeps nothing. 0 for a run.
    """

    name: str
    id: str
    seed: int
    workers: int = 2
    min_workers: int = 0
    memory: int = 0
    epochs: int = 1
    batch: int | None = None
    strategy: str = MULTI_WORKER_MIRRORED
    backend: str = "local"
    fit: dict[str, Any] = field(default_factory=dict)
    container: dict[str, Any] = field(default_factory=dict)
    shard: str = "example"
    resume_from: str = ""
    resume_state: bool = False
    checkpoint_every: str | float = "epoch"
    stall_timeout_s: float = 1800.0
    stacks_after_s: float = 60.0
    start_timeout_s: float = 120.0
    arrival_timeout_s: float = 0.0
    unresponsive_s: float = 20.0
    max_restarts: int = 5
    results: str = ""
    rehearses: int = 0
    created: float = 0.0
    payload_sha256: str = ""
    payload_bytes: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what `request.json` holds."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> TrainRequest:
        """Return the request of a `request.json`; fields of a newer version are left out."""
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in raw.items() if k in known})


def every_steps(every: str | float) -> int | None:
    """Return after how many steps a checkpoint is made; None if it is not by steps."""
    if isinstance(every, str) and every.endswith(" steps"):
        return int(every.removesuffix(" steps"))
    return None


def every_seconds(every: str | float) -> float | None:
    """Return after how many seconds a checkpoint is made; None if it is not by time."""
    return None if isinstance(every, str) else float(every)
