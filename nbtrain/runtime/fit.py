"""One worker's training: the user's functions, `Model.fit` under the strategy, and its results."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from . import checkpoint, framework, keras_mwms, memory, pipelines, rehearsal, same_data, shard
from . import data as data_module
from .errors import Refused
from .events import Started, Warned
from .keeper import Keeper, bring_back
from .keras_callbacks import may_stop_within_epoch
from .payload import Payload, call
from .reporter import Reporter, Stopped
from .rundir import RunDir
from .trainer import Control, Job
from .versions import versions

#: Stock callbacks that write below a path: other workers' files must not meet worker 0's.
_WRITERS = {"ModelCheckpoint": "filepath", "CSVLogger": "filename", "TensorBoard": "log_dir"}

#: Stock callbacks that several workers can't have, and why.
_UNSHARED = {
    "BackupAndRestore": "several workers can't share its folder.",
    "OrbaxCheckpoint": "it writes from several workers with Keras' JAX backend only.",
}

_BY_FILE = (
    "each worker reads files of its own, as asked: every example is seen once in an epoch, but the"
    " batches are other ones than in one process"
)


def train(job: Job, control: Control) -> None:
    """Train as the job says; the results are sent by worker 0."""
    control.phase("loading")
    payload = Payload.open(job.payload)
    payload.install(job.scratch)
    keras_mwms.check_versions()
    _set_threads(job.workers)
    control.phase("meeting", "waits for the other workers")
    strategy = meet(job)
    keras_mwms.install()
    payload.restore_keras()
    functions = payload.load()
    control.phase("building", "calls model() and dataset()")
    framework.set_random_seed(job.request.seed)
    training = _Training(job, control, functions, strategy, payload.files)
    if job.request.rehearses:
        rehearsal.rehearse(training)
    else:
        training.run()


def meet(job: Job) -> tf.distribute.Strategy:
    """Return the strategy; returns when all workers are there."""
    if job.workers > 1:
        os.environ["TF_CONFIG"] = json.dumps(
            {"cluster": {"worker": job.cluster}, "task": {"type": "worker", "index": job.index}}
        )
    return tf.distribute.MultiWorkerMirroredStrategy()


def _set_threads(workers: int) -> None:
    """Share the cores among the workers of this machine, unless the user said otherwise."""
    if "TF_NUM_INTRAOP_THREADS" in os.environ:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    tf.config.threading.set_intra_op_parallelism_threads(max(1, (cores or 1) // workers))


def _is_a(callback: Any, kind: str) -> bool:
    """Tell whether a callback is of a stock class, of Keras 3 or tf_keras, or of one made of it."""
    return any(
        c.__name__ == kind and c.__module__.startswith(("keras.", "tf_keras."))
        for c in type(callback).__mro__
    )


@contextlib.contextmanager
def _made_inside() -> Iterator[None]:
    """Refuse what tf_keras' `compile` finds to be made outside `model()`, by nbtrain's name.

    Source: `Model._validate_compile` in tf_keras/src/engine/training.py.
    """
    try:
        yield
    except ValueError as error:
        if "was not created in the distribution strategy scope" not in str(error):
            raise
        raise Refused(
            "model()",
            "a layer of it was made outside model(), so that each worker would train a copy of its"
            " own.",
            "Make layers, metrics and optimizers inside model().",
        ) from None


def _check_generator(own: framework.Framework) -> None:
    """Refuse a generator of validation data where workers would read other parts of it."""
    if not own.continues_generators:
        raise Refused(
            "validation()",
            "tf_keras reads a generator ahead, by more or less, so that each worker would validate"
            " with other data from the second epoch on.",
            "Return arrays, a tf.data.Dataset or a tf_keras.utils.Sequence.",
        )


class Prepared(NamedTuple):
    """What the user's functions gave, adapted and checked."""

    model: Any
    data: data_module.Data
    validation: data_module.Data | None
    callbacks: list[Any]


class _Training:
    """The steps from the user's functions to the saved model."""

    def __init__(
        self,
        job: Job,
        control: Control,
        functions: Mapping[str, Any],
        strategy: tf.distribute.Strategy,
        files: list[str],
    ) -> None:
        self.files = files
        self.job, self.control, self.strategy = job, control, strategy
        self.functions = functions
        self.workers = job.request.rehearses or job.workers
        self.offered = {
            "workers": self.workers,
            "worker": job.index,
            "batch": job.request.batch,
        }

    def run(self) -> None:
        """Build, train and save."""
        self._save(*self.fitted())

    def prepared(self) -> Prepared:
        """Call the user's functions, in the order of a plain script, and check what they give."""
        model = self._model()
        train_data = self._data("dataset")
        assert train_data is not None
        validation = self._data("validation")
        if self.job.request.shard == "file" and self.workers > 1:
            shard.by_file(train_data.arguments["x"], self.workers)
            self.warn([("shard-file", _BY_FILE)])
        for role, data in (("dataset", train_data), ("validation", validation)):
            if data is not None and self.workers > 1:
                pipelines.check(data.arguments["x"], f"{role}()")
            same_data.check_before(data, role, self.strategy)
        own = framework.of_model(model)
        if self.workers > 1 and validation is not None and validation.is_generator:
            _check_generator(own)
        callbacks = self._callbacks(own.callbacks)
        self.warn(own.check_compiled(model, self.strategy, self.workers))
        return Prepared(model, train_data, validation, callbacks)

    def fitted(self) -> tuple[Any, Reporter]:
        """Return the trained model."""
        request = self.job.request
        model, train_data, validation, callbacks = self.prepared()
        reporter = self._reporter(model, train_data, callbacks)
        arguments = self.arguments(train_data, validation)
        first_epoch = reporter.first_epoch(int(arguments.pop("initial_epoch", 0)))
        memory.keep_freed()  # not before: what stays in one piece is better off by itself
        try:
            with self.strategy.scope(), pipelines.refusing():
                model.fit(
                    **arguments,
                    epochs=request.epochs,
                    initial_epoch=first_epoch,
                    callbacks=[*callbacks, reporter.history, reporter.callback],
                )
        except Stopped:
            pass
        memory.give_back()  # saving takes memory as well
        return model, reporter

    def _reporter(self, model: Any, data: data_module.Data, callbacks: list[Any]) -> Reporter:
        own = framework.of_model(model)
        history = own.callbacks.History()
        keeper = Keeper(
            self.control,
            model,
            self.strategy,
            [*callbacks, history],
            self.resume(callbacks),
            lambda: data.build,
            self.files,
        )
        return Reporter(
            self.control,
            model,
            self.strategy,
            data,
            keeper,
            history,
            self._started,
            agrees_each_step=any(may_stop_within_epoch(c, own.callbacks) for c in callbacks),
        )

    def _model(self) -> Any:
        keras_mwms.forget_global_seeds()
        with self.strategy.scope(), _made_inside():
            model = call(self.functions["model"], self.offered)
        own = framework.of(model)
        if own is None:
            kind = type(model).__module__ + "." + type(model).__qualname__
            raise Refused(
                "model()",
                f"it returned {kind}, not a compiled keras.Model.",
                "Return the keras.Model (or tf_keras.Model) on which compile() was called.",
            )
        own.install()
        if not own.is_compiled(model):
            raise Refused(
                "model()", "the model is not compiled.", "Call model.compile(...) before return."
            )
        return model

    def _data(self, role: str) -> data_module.Data | None:
        if role not in self.functions:
            return None
        value = call(self.functions[role], self.offered)
        fit = self.job.request.fit
        batch = self.job.request.batch
        if role == "validation":
            batch = fit.get("validation_batch_size", batch)
        return data_module.adapt(value, batch=batch, shuffle=fit.get("shuffle", True), what=role)

    def _callbacks(self, known: Any) -> list[Any]:
        """Return the user's callbacks, which must be of the module `known`."""
        made = call(self.functions.get("callbacks"), self.offered)
        if made is None:
            return []
        callbacks = list(made) if isinstance(made, (list, tuple)) else [made]
        for callback in callbacks:
            if not isinstance(callback, known.Callback):
                what = known.Callback.__module__.partition(".")[0]
                raise Refused(
                    "callbacks()",
                    f"it returned {callback!r}, not a callback of {what}.",
                    f"Return a list of callbacks of {what}, of your own classes or its own.",
                )
            for kind, why in _UNSHARED.items():
                if _is_a(callback, kind):
                    raise Refused(
                        kind,
                        why,
                        "Leave it out: nbtrain makes checkpoints and goes on from them by itself.",
                    )
            self._keep_apart(callback)
        return callbacks

    def _keep_apart(self, callback: Any) -> None:
        """Have a callback of another worker than 0 write into that worker's own folder, or not."""
        if self.job.chief:
            return
        if _is_a(callback, "RemoteMonitor"):
            callback.on_epoch_end = lambda epoch, logs=None: None  # one of them tells enough
        for kind, attribute in _WRITERS.items():
            if _is_a(callback, kind):
                name = Path(str(getattr(callback, attribute))).name
                setattr(callback, attribute, str(self.job.scratch / name))

    def arguments(
        self, train_data: data_module.Data, validation: data_module.Data | None
    ) -> dict[str, Any]:
        """Return the arguments of `fit`."""
        fit = dict(self.job.request.fit)
        if "class_weight" in fit:
            # JSON made the keys text; Keras wants class numbers.
            fit["class_weight"] = {int(k): v for k, v in fit["class_weight"].items()}
        verbose = fit.pop("verbose", 2) if self.job.chief else 0
        arguments = {**fit, "verbose": verbose, **train_data.arguments}
        if validation is not None:
            arguments |= validation.validation_arguments
        return arguments

    def _started(self, model: Any, first: tuple[int, int], data: data_module.Data) -> Started:
        request = self.job.request
        return Started(
            workers=request.workers,
            epochs=request.epochs,
            first_epoch=first[0],
            first_step=first[1],
            global_batch=data.batch,
            steps=data.steps or request.fit.get("steps_per_epoch"),
            seed=request.seed,
            shard=request.shard if self.job.workers > 1 else "",
            versions=versions(),
            data=data.describe,
            parameters=model.count_params() if model.built else None,
        )

    def resume(self, callbacks: list[Any]) -> checkpoint.State | None:
        """Return the state to begin with: the last checkpoint, or what another run gave."""
        if self.job.resume:
            state = checkpoint.read(self.job.resume)
            bring_back(state, self.job.files, self.job.scratch)
            for callback in callbacks:
                if _is_a(callback, "CSVLogger"):
                    callback.append = True
            return state
        initial = self.functions.get("initial")
        if initial is None:
            return None
        return checkpoint.State(
            initial["epoch"], 0, initial["variables"], metadata=initial.get("metadata")
        )

    def warn(self, warnings: list[tuple[str, str]]) -> None:
        if self.job.chief:
            for code, message in warnings:
                self.control.say(Warned(code=code, message=message, worker=0))

    def _save(self, model: Any, reporter: Reporter) -> None:
        """Send the trained state, the history and a `.keras` file for those who take it away."""
        if not self.job.chief:
            return
        self.control.phase("saving")
        reporter.keeper.wait_until_sent()
        reporter.keeper.send_results(*reporter.place)
        history = {"epoch": reporter.history.epoch, "history": reporter.history.history}
        text = json.dumps(history, default=lambda v: np.asarray(v).tolist()).encode()
        self.control.send_file("history", RunDir.HISTORY, [text])
        self._save_keras(model)
        reporter.keeper.send_files()

    def _save_keras(self, model: Any) -> None:
        path = self.job.scratch.parent / f"{self.job.scratch.name}.keras"
        try:
            framework.of_model(model).save(model, str(path))
        except Exception as error:  # a custom layer without get_config: the weights are there
            self.warn([("model-file", f"no {RunDir.MODEL} was written: {error}")])
            return
        self.control.send_file("model", RunDir.MODEL, [path.read_bytes()])
        path.unlink()
