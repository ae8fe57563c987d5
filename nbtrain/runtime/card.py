"""The model card of a run, `run.json`: what was trained, how, on what, and how it went."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .events import Ended, EpochEnd, Event, Failed, Phase, Saved, Started, Warned
from .request import TrainRequest
from .rundir import RunDir


def write_card(rundir: RunDir, request: TrainRequest, history: Iterable[Event]) -> None:
    """Write the card from what is known at the run's end."""
    rundir.write_json(RunDir.CARD, card(request, list(history)))


def card(request: TrainRequest, history: list[Event]) -> dict[str, Any]:
    """Return the card's contents."""
    started = [e for e in history if isinstance(e, Started)]
    ended = next((e for e in reversed(history) if isinstance(e, Ended)), None)
    epochs = {e.epoch: e for e in history if isinstance(e, EpochEnd)}
    first = history[0].time if history else 0.0
    return {
        "name": request.name,
        "id": request.id,
        "outcome": ended.outcome if ended else "",
        "message": ended.message if ended else "",
        "code": request.code,
        "options": request.options,
        "workers": request.workers,
        "strategy": request.strategy,
        "seed": request.seed,
        "epochs": request.epochs,
        "global_batch": started[-1].global_batch if started else request.batch,
        "data": started[-1].data if started else {},
        "shard": started[-1].shard if started else "",
        "parameters": started[-1].parameters if started else None,
        "versions": {"notebook": request.versions, "workers": _versions(started)},
        "history": [{"epoch": e.epoch, **e.logs} for _, e in sorted(epochs.items())],
        "digest": epochs[max(epochs)].digest if epochs else "",
        "times": {
            "created": request.created,
            "started": first,
            "ended": ended.time if ended else None,
            "epoch_seconds": [e.seconds for _, e in sorted(epochs.items())],
        },
        "throughput": _throughput(history, request.workers),
        "trainers": _trainers(history),
        "generations": max((e.generation for e in history), default=0),
        "failures": [
            {"worker": e.worker, "cause": e.cause, "message": e.message, "retried": e.will_retry}
            for e in history
            if isinstance(e, Failed)
        ],
        "warnings": [e.message for e in history if isinstance(e, Warned)],
        "files": {
            e.path: {"bytes": e.bytes, "sha256": e.sha256} for e in history if isinstance(e, Saved)
        },
    }


def _versions(started: list[Started]) -> dict[str, str]:
    return started[-1].versions if started else {}


def _throughput(history: list[Event], workers: int) -> dict[str, float]:
    """Return examples per second, of the run and of each worker, over whole epochs."""
    batch = next((e.global_batch for e in history if isinstance(e, Started)), None)
    epochs = [e for e in history if isinstance(e, EpochEnd) and e.seconds > 0]
    seconds = sum(e.seconds for e in epochs)
    if not batch or not seconds:
        return {}
    rate = batch * sum(e.steps for e in epochs) / seconds
    return {"examples_per_s": round(rate, 1), "per_worker": round(rate / workers, 1)}


def _trainers(history: list[Event]) -> list[dict[str, Any]]:
    found = {
        (e.generation, e.worker): {
            "worker": e.worker,
            "generation": e.generation,
            "pid": e.pid,
            "host": e.host,
        }
        for e in history
        if isinstance(e, Phase) and e.pid is not None
    }
    return [found[key] for key in sorted(found)]
