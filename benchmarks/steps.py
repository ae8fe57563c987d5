"""Steps per second with nbtrain's exactness on, and by a hand-written loop, in the same processes.

`python -m benchmarks.steps PROGRAM` is one of two workers. The loop by hand comes first: nbtrain's
changes to Keras, once made, are there for good. What nbtrain adds at the end of an epoch (the
digest of all weights, the copy for a checkpoint) is timed as well.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SEED = 5


@dataclass(frozen=True)
class Program:
    """A dense network: its widths, its batch, and the steps of an epoch."""

    widths: tuple[int, ...]
    batch: int
    steps: int


#: A global batch of 63 gives one worker 32 examples and the other 31.
PROGRAMS = {
    "tiny_even": Program((8, 16, 10), 64, 150),
    "tiny_uneven": Program((8, 16, 10), 63, 150),
    "large_even": Program((784, 1024, 1024, 10), 64, 40),
    "large_uneven": Program((784, 1024, 1024, 10), 63, 40),
}
EPOCHS = 3


def model(program: Program) -> Any:
    """Return the compiled network."""
    import keras

    first, *hidden, last = program.widths
    layers = [keras.layers.Dense(width, activation="relu") for width in hidden]
    network = keras.Sequential([keras.Input((first,)), *layers, keras.layers.Dense(last)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return network


def dataset(program: Program) -> Any:
    """Return a prefetched pipeline of made-up rows."""
    import numpy as np
    import tensorflow as tf

    random = np.random.default_rng(SEED)
    rows = program.batch * program.steps
    x = random.random((rows, program.widths[0]), dtype="float32")
    pairs = (x, random.integers(0, program.widths[-1], rows))
    data = tf.data.Dataset.from_tensor_slices(pairs).shuffle(rows, seed=SEED)
    return data.batch(program.batch).prefetch(tf.data.AUTOTUNE)


def by_hand(program: Program, strategy: Any) -> float:
    """Return steps per second of the hand-written loop, after its first epoch."""
    import keras
    import tensorflow as tf

    from .script import _step

    with strategy.scope():
        network = model(program)
        network.optimizer.build(network.trainable_variables)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
        means = [keras.metrics.Mean("loss"), keras.metrics.SparseCategoricalAccuracy("accuracy")]
    options = tf.data.Options()
    policy = tf.data.experimental.AutoShardPolicy.DATA
    options.experimental_distribute.auto_shard_policy = policy
    data = strategy.experimental_distribute_dataset(dataset(program).with_options(options))
    step = _step(strategy, network, loss, means, program.batch)
    ends = []
    for _ in range(EPOCHS):
        for metric in means:
            metric.reset_state()
        iterator = iter(data)
        for _ in range(program.steps):
            step(iterator)
        _ = [float(metric.result()) for metric in means]
        ends.append(time.perf_counter())
    return program.steps * (EPOCHS - 1) / (ends[-1] - ends[0])


class _Line:
    """Stands for a trainer's line to its agent: keeps the times at which epochs ended."""

    def __init__(self, job: Any) -> None:
        self.job, self.ends = job, []

    def say(self, event: Any) -> None:
        if event.kind == "epoch_end":
            self.ends.append(time.perf_counter())

    def phase(self, phase: str, reason: str = "") -> None:
        pass

    def advance(self) -> None:
        pass

    def trained(self, examples: float) -> None:
        pass

    def stops_after(self, step: int) -> bool:
        return False


def by_nbtrain(program: Program, strategy: Any, index: int) -> dict[str, float]:
    """Return steps per second of `fit` as a trainer runs it, and milliseconds of an epoch's end."""
    from nbtrain.runtime import checkpoint, fit, replicas
    from nbtrain.runtime.request import TrainRequest

    request = TrainRequest(name="b", id="b", seed=SEED, epochs=EPOCHS, checkpoint_every=1e9)
    with tempfile.TemporaryDirectory() as folder:
        job = SimpleNamespace(
            worker=index, index=index, workers=2, generation=1, cluster=[], request=request,
            resume=None, files={}, scratch=Path(folder), chief=index == 0,
        )  # fmt: skip
        line = _Line(job)
        functions = {"model": lambda: model(program), "dataset": lambda: dataset(program)}
        trained, _ = fit._Training(job, line, functions, strategy, []).fitted()
    digest = _milliseconds(lambda: replicas.check_replicas(trained, strategy))
    copy = _milliseconds(lambda: checkpoint.snapshot(trained))
    ends = line.ends or [0.0, 1.0]
    rate = program.steps * (EPOCHS - 1) / (ends[-1] - ends[0])
    epoch = 1000 * program.steps / rate
    return {"rate": rate, "digest": digest, "copy": copy, "share": (digest + copy) / epoch}


def _milliseconds(work: Callable[[], object]) -> float:
    work()
    began = time.perf_counter()
    for _ in range(5):
        work()
    return (time.perf_counter() - began) / 5 * 1000


def main() -> None:
    """Measure as the worker that TF_CONFIG names; worker 0 prints what it found as JSON."""
    import keras

    from nbtrain.runtime import fit, keras_mwms

    program = PROGRAMS[sys.argv[1]]
    task = json.loads(os.environ["TF_CONFIG"])
    index, cluster = task["task"]["index"], task["cluster"]["worker"]
    fit._set_threads(2)
    job = SimpleNamespace(index=index, workers=2, cluster=cluster)
    strategy = fit.meet(job)  # type: ignore[arg-type]
    hand = _anew(keras, lambda: by_hand(program, strategy))
    keras_mwms.check_versions()
    keras_mwms.install()
    ours = _anew(keras, lambda: by_nbtrain(program, strategy, index))
    if index == 0:
        print(json.dumps({"hand": hand, **ours}), flush=True)


def _anew(keras: Any, measure: Callable[[], Any]) -> Any:
    keras.backend.clear_session()
    keras.utils.set_random_seed(SEED)
    return measure()


if __name__ == "__main__":
    main()
