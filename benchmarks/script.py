"""What one would write by hand: two processes, MultiWorkerMirroredStrategy, an own training loop.

Keras 3's `fit` does not run under this strategy, so the step is written out. This is done as well
as we can: one tf.function per step, sharded by example, a prefetched pipeline, metrics kept on
the devices. `python -m benchmarks.script` is one worker; `start` runs both.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from typing import Any


def main() -> None:
    """Train as the worker that TF_CONFIG names; worker 0 prints the times as JSON."""
    import keras
    import tensorflow as tf

    from . import programs

    # As nbtrain does: two processes on one machine must not fight for its cores. In a container
    # the environment says how many it has.
    if "TF_NUM_INTRAOP_THREADS" not in os.environ:
        tf.config.threading.set_intra_op_parallelism_threads(max(1, (os.cpu_count() or 2) // 2))
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    keras.utils.set_random_seed(programs.SEED)
    with strategy.scope():
        model = programs.model()
        model.optimizer.build(model.trainable_variables)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
        means = [keras.metrics.Mean("loss"), keras.metrics.SparseCategoricalAccuracy("accuracy")]
    data = strategy.experimental_distribute_dataset(_pipeline(programs))
    step = _step(strategy, model, loss, means, programs.BATCH)
    first, ends = 0.0, []
    for _ in range(programs.EPOCHS):
        for metric in means:
            metric.reset_state()
        iterator = iter(data)
        for _ in range(programs.STEPS):
            step(iterator)
            first = first or time.time()
        _ = [float(metric.result()) for metric in means]
        ends.append(time.time())
    if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 0:
        rate = programs.STEPS * (programs.EPOCHS - 1) / (ends[-1] - ends[0])
        print(json.dumps({"first": first, "rate": rate}), flush=True)


def _pipeline(programs: Any) -> Any:
    import tensorflow as tf

    options = tf.data.Options()
    policy = tf.data.experimental.AutoShardPolicy.DATA
    options.experimental_distribute.auto_shard_policy = policy
    x, y = programs.dataset()
    pairs = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=programs.SEED)
    return pairs.batch(programs.BATCH).prefetch(tf.data.AUTOTUNE).with_options(options)


def _step(strategy: Any, model: Any, loss: Any, means: list[Any], batch: int) -> Any:
    import tensorflow as tf

    def replica(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            predicted = model(x, training=True)
            losses = loss(y, predicted)
            scaled = tf.reduce_sum(losses) / batch
        gradients = tape.gradient(scaled, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)
        means[0].update_state(losses)
        means[1].update_state(y, predicted)

    @tf.function
    def step(iterator: Any) -> None:
        strategy.run(replica, args=next(iterator))

    return step


def start() -> dict[str, float]:
    """Run both workers; return seconds to the end of the first step, and steps per second."""
    began = time.time()
    times = run_workers("benchmarks.script")
    return {"first": times["first"] - began, "rate": times["rate"]}


def run_workers(module: str, *arguments: str) -> dict[str, float]:
    """Run a module as two workers, and return what worker 0 prints last."""
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(2)]
    with contextlib.ExitStack() as stack:
        workers = []
        for index in range(2):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment = os.environ | {"TF_CONFIG": json.dumps(task), "TF_CPP_MIN_LOG_LEVEL": "3"}
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.kill)
            workers.append(process)
        printed, said = workers[0].communicate(timeout=300)
        workers[1].communicate(timeout=60)
    if not printed.strip():
        raise RuntimeError(f"{module} printed nothing\n{said}")
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    return found


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


if __name__ == "__main__":
    main()
