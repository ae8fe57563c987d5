"""One worker of the matrix: trains case after case under one strategy, as a trainer would.

Started as `python -m tests.matrix.worker INDEX ADDRESS...`; reads case names from its standard
input and answers each with one line of JSON.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import traceback
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from nbtrain.runtime import events, fit, keras_mwms, tensors
from nbtrain.runtime.errors import Refused
from nbtrain.runtime.events import EpochEnd, Warned
from nbtrain.runtime.request import TrainRequest

from .cases import CASES
from .plain import begin_anew


class Recorder:
    """Stands for `trainer.Control`: keeps what a trainer would send."""

    def __init__(self, job):
        self.job, self.events, self.files = job, [], {}

    def say(self, event):
        events.encode(event)
        self.events.append(event)

    def phase(self, phase, reason=""):
        pass

    def advance(self):
        pass

    def trained(self, examples):
        pass

    def stops_after(self, step):
        return False

    def send_file(self, what, path, pieces, **where):
        buffer = io.BytesIO()
        for piece in pieces:
            buffer.write(piece)
        self.files[path] = buffer.getvalue()


def job(index, workers, case, scratch):
    request = TrainRequest(
        name="case", id="case", seed=case.seed, workers=workers, epochs=case.epochs,
        batch=case.batch, shard=case.shard, fit=dict(case.fit), checkpoint_every=1e9,
    )  # fmt: skip
    return SimpleNamespace(
        worker=index, index=index, workers=workers, generation=1, cluster=[],
        request=request, resume=None, files={}, scratch=scratch, chief=index == 0,
    )  # fmt: skip


def train(case, index, workers, strategy, out):
    """Train one case; return what it gave, as JSON values."""
    begin_anew(case)
    with tempfile.TemporaryDirectory() as folder:
        control = Recorder(job(index, workers, case, Path(folder)))
        functions = {k: v for k, v in case.functions().items() if v is not None}
        training = fit._Training(control.job, control, functions, strategy, [])
        try:
            model, reporter = training.fitted()
        except Refused as refused:
            return {"refused": str(refused)}
        from nbtrain.runtime import checkpoint

        arrays = checkpoint.snapshot(model)
    with open(f"{out}.{index}", "wb") as file:
        for piece in tensors.chunks(arrays, {}):
            file.write(piece)
    return {
        "history": {k: np.ravel(v).tolist() for k, v in reporter.history.history.items()},
        "warned": [e.code for e in control.events if isinstance(e, Warned)],
        "digest": [e.digest for e in control.events if isinstance(e, EpochEnd)],
        "collectives": collectives(model),
    }


def collectives(model):
    """Return how many collective operations each trace of a training step of Keras 3 has."""
    found = []
    if not isinstance(model.train_function, keras_mwms._Function):
        return found
    for _, step in model.train_function._made.values():
        for trace in getattr(step, "_list_all_concrete_functions", list)():
            graph = trace.graph.as_graph_def()
            nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
            found.append(sum(node.op.startswith("CollectiveReduce") for node in nodes))
    return found


def main():
    index, *cluster = sys.argv[1:]
    index = int(index)
    request = TrainRequest(name="matrix", id="matrix", seed=0, workers=len(cluster))
    fit._set_threads(len(cluster))
    keras_mwms.check_versions()
    strategy = fit.meet(
        SimpleNamespace(
            worker=index, index=index, workers=len(cluster), cluster=cluster, request=request
        )
    )
    keras_mwms.install()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        name, out = json.loads(line)
        try:
            answer = train(CASES[name], index, len(cluster), strategy, out)
        except BaseException as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
