"""One measurement of nbtrain in a fresh process, as a notebook's kernel would make it.

`python -m benchmarks.cell KIND` prints its numbers as JSON; it uses nbtrain's public interface
and reads the times from the run's events.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import nbtrain

#: Bytes that the large cell captures.
LARGE = 200_000_000


def first_step(run: nbtrain.Run, generation: int = 1) -> float:
    """Return the time at which a generation had made its first step."""
    for event in run.watch():
        if event.kind == "progress" and event.generation == generation and event.step > 0:
            return event.time
    raise RuntimeError(f"{run.name} has made no step: {run.status}\n{run.logs(0)}")


def rate(run: nbtrain.Run) -> float:
    """Return steps per second from the end of the first epoch to that of the last."""
    ends = [event for event in run.watch() if event.kind == "epoch_end"]
    return sum(e.steps for e in ends[1:]) / (ends[-1].time - ends[0].time)


def in_notebook() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return the common program's functions as a notebook has them: of `__main__`, in no module."""
    import __main__

    from . import programs

    if not hasattr(__main__, "model"):
        path = Path(programs.__file__)
        exec(compile(path.read_text("utf-8"), path, "exec"), vars(__main__))
    return __main__.model, __main__.dataset


def train(**options: Any) -> nbtrain.Run:
    """Train the common program on two workers."""
    import nbtrain

    from . import programs

    functions = options.pop("functions", None) or in_notebook()
    settings = {"epochs": programs.EPOCHS, "batch": programs.BATCH, "seed": programs.SEED}
    settings |= {"workers": 2, "backend": "local", "name": "bench", "live": False}
    return nbtrain.train(*functions, **settings | options)


def noted_packing() -> list[float]:
    """Return a list that gets the time at which packing ends."""
    from nbtrain import payload

    ended, pack = [], payload.pack

    def noted(*arguments: Any, **options: Any) -> payload.Packed:
        try:
            return pack(*arguments, **options)
        finally:
            ended.append(time.time())

    payload.pack = noted
    return ended


def cold() -> dict[str, float]:
    """Train where no process has been started beforehand."""
    import nbtrain.backends.local
    import nbtrain.training  # noqa: F401  the cell's own imports are part of %load_ext

    from . import programs  # noqa: F401  a notebook has Keras imported by now

    began = time.time()
    run = train()
    result = {"first": first_step(run) - began}
    run.stop(0)
    return result


def warm() -> dict[str, float]:
    """Train with the process that `%load_ext nbtrain` starts in the background."""
    warm_up()
    packed = noted_packing()
    began = time.time()
    run = train()
    returned = time.time() - packed[0]
    return {"returned": returned, "first": first_step(run) - began, "rate": rate(run)}


def large() -> dict[str, float]:
    """Capture 200 MB, and compare with writing and hashing them once."""
    import hashlib

    import numpy as np

    import nbtrain.backends.local as local

    data = np.random.default_rng(1).random((LARGE // 40_000, 100, 100), dtype="float32")

    def dataset() -> Any:
        return data[:64, :28, :28, None], np.zeros(64)

    warm_up()
    began = time.time()
    run = train(functions=(in_notebook()[0], dataset))
    returned = time.time() - began
    run.stop(0)
    target = local.home() / "written"
    began = time.time()
    with target.open("wb") as file:
        file.write(data.data)
    hashlib.sha256(data.data).hexdigest()
    once = time.time() - began
    target.unlink()
    return {"returned": returned, "once": once}


def killed() -> dict[str, float]:
    """Kill a trainer in the middle of the second epoch."""
    warm_up()
    run = train(epochs=50)
    state = run.wait_for(lambda state: len(state.epoch_numbers) >= 1 and state.step > 5, 120)
    began = time.time()
    os.kill(state.workers[1].pid, signal.SIGKILL)
    result = {"again": first_step(run, 2) - began}
    run.stop(0)
    return result


def imports() -> dict[str, float]:
    """Import nbtrain and load the extension."""
    began = time.perf_counter()
    import nbtrain  # noqa: F401

    imported = time.perf_counter() - began
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    began = time.perf_counter()
    shell.run_line_magic("load_ext", "nbtrain")
    return {"import": imported, "load_ext": time.perf_counter() - began}


KINDS: dict[str, Callable[[], dict[str, float]]] = {
    kind.__name__: kind for kind in (cold, warm, large, killed, imports)
}


def warm_up() -> None:
    """Start the spare process as `%load_ext nbtrain` does, and wait until it is at rest."""
    from nbtrain import backends

    from . import programs  # noqa: F401

    backends.get("local").warm_up()
    deadline = time.monotonic() + 60
    before, quiet_since = -1, time.monotonic()
    while time.monotonic() - quiet_since < 2:
        if (used := _cpu_of_descendants()) != before:
            before, quiet_since = used, time.monotonic()
        if time.monotonic() > deadline:
            raise RuntimeError("the spare process does not come to rest")
        time.sleep(0.05)


def _cpu_of_descendants() -> int:
    """Return the clock ticks that this process' descendants have used."""
    parents, used = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.name)] = int(fields[1])
        used[int(entry.name)] = int(fields[11]) + int(fields[12])
    ours = {os.getpid()}
    for pid in sorted(parents):  # parents come before their children, but for a wrap of pids
        if parents[pid] in ours:
            ours.add(pid)
    return sum(used[pid] for pid in ours - {os.getpid()})


if __name__ == "__main__":
    print(json.dumps(KINDS[sys.argv[1]]()))
