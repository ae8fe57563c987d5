"""One measurement of nbtrain with workers in containers or pods, in a fresh process.

`python -m benchmarks.placed KIND OPTIONS` prints its numbers as JSON; the options, as JSON, are
those of `nbtrain.train`. Times of workers and of this process are compared: where both are not on
one machine, their clocks have to agree.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cell import first_step, noted_packing, rate, train, warm_up

if TYPE_CHECKING:
    import nbtrain

#: What a worker prints when its payload has come.
CAME = "payload came: "


def trained(options: dict[str, Any]) -> dict[str, float]:
    """Train the common program: when it began, how fast it was, what it cost this process.

    `warm` among the options has the spare process of `%load_ext nbtrain` be there, in which a
    rehearsal is made.
    """
    import nbtrain.training  # noqa: F401  the cell's own imports are part of %load_ext

    from . import programs  # noqa: F401  a notebook has Keras imported by now

    if options.pop("warm", False):
        warm_up()
    packed = noted_packing()
    began = time.time()
    run = train(**options)
    returned = time.time()
    first = first_step(run)
    used, since = time.process_time(), time.time()
    speed = rate(run)
    used, since = time.process_time() - used, time.time() - since
    run.wait().delete()
    return {
        "returned": returned - began,
        "after_packing": returned - packed[0],
        "first": first - began,
        "rate": speed,
        "kernel": used / since,
    }


def copied(options: dict[str, Any]) -> dict[str, float]:
    """Have an array of `bytes` captured by `dataset`, and a model of `model_bytes` come back."""
    size, model_bytes = options.pop("bytes"), options.pop("model_bytes")
    functions = _model_of(model_bytes), _dataset_of(size)
    began = time.time()
    run = train(functions=functions, epochs=1, batch=64, **options)
    returned = time.time() - began
    upload = _upload_time(run)
    run.wait().check()
    arrivals = [_arrival(run, worker) for worker in range(2)]
    handed_on = max(end for _, end in arrivals) - min(begin for begin, _ in arrivals)
    began = time.time()
    weights = len((run.files / "weights.safetensors").read_bytes())
    back = time.time() - began
    run.delete()
    return {
        "returned": returned,
        "upload": upload,
        "handed_on": handed_on,
        "there": size / (upload + handed_on) / 1e6,
        "back": weights / back / 1e6,
    }


def _model_of(size: int) -> Callable[[], Any]:
    """Return a function that returns a network with about `size` bytes of weights."""
    width = max(1, size // 4 // 4000)

    def model() -> Any:
        import keras

        layers = [keras.Input((4000,)), keras.layers.Dense(width), keras.layers.Dense(1)]
        network = keras.Sequential(layers)
        network.compile(keras.optimizers.SGD(1e-6), "mse")
        return network

    return model


def _dataset_of(size: int) -> Callable[[], Any]:
    """Return a function that captures an array of `size` bytes, and says when it has come."""
    import numpy as np

    data = np.ones((size // 4 // 4000, 4000), dtype="float32")

    def dataset() -> Any:
        # A worker's folder is below its agent's, which keeps there what it has fetched: it makes
        # the file when the first bytes come, and changes it for the last time with the last ones.
        folder = Path("..", "fetched")
        times = folder.stat().st_mtime, (folder / "payload.bin").stat().st_mtime
        print(CAME, *times, flush=True)
        return data[:64], np.zeros(64)

    return dataset


def _arrival(run: nbtrain.Run, worker: int) -> tuple[float, float]:
    """Return when a worker's payload began to come and had come."""
    (line,) = [line for line in str(run.logs(worker)).splitlines() if line.startswith(CAME)]
    began, ended = map(float, line.removeprefix(CAME).split())
    return began, ended


def _upload_time(run: nbtrain.Run) -> float:
    """Return the seconds that sending the payload takes; 0 if `train` has returned after that."""
    uploads: Mapping[str, Any] = getattr(run._backend, "_uploads", {})
    upload = uploads.get(run._ref.id)
    if upload is None:
        return 0.0
    while not upload.sent:
        time.sleep(0.005)
    began = time.time()
    upload.done.wait()
    return time.time() - began


KINDS: dict[str, Callable[[dict[str, Any]], dict[str, float]]] = {
    kind.__name__: kind for kind in (trained, copied)
}

if __name__ == "__main__":
    print(json.dumps(KINDS[sys.argv[1]](json.loads(sys.argv[2]))))
