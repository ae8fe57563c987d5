"""Rehearsals: what they find, what they let pass, and that they leave nothing."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest

import nbtrain
from nbtrain import payload, rehearsal
from nbtrain.backend import untold
from nbtrain.backends.docker import DockerBackend
from nbtrain.backends.kubernetes.backend import KubernetesBackend
from nbtrain.backends.local import LocalBackend
from nbtrain.errors import NbtrainError, RehearsalFailed, RunFailed, RunStopped
from nbtrain.request import make_request
from nbtrain.runtime.elsewhere import may_work
from nbtrain.runtime.payload import MissingModule

from . import programs
from .harness import leftovers, until


@pytest.fixture(autouse=True)
def folder(nbtrain_home, temporary):
    """The folder for temporary files, in which nothing may be left."""
    yield temporary
    assert list(temporary.glob("nbtrain-rehearsal-*")) == []
    until(lambda: not leftovers(nbtrain_home))
    assert not list(nbtrain_home.glob("runs/*"))


class Started(NbtrainError):
    """A run was started on a backend that stands in for containers, or for pods."""


@pytest.fixture(autouse=True)
def _no_containers(monkeypatch):
    def start(self, request, path, sent=untold):
        raise Started("reached")

    for backend in (DockerBackend, KubernetesBackend):
        monkeypatch.setattr(backend, "check", lambda self, request: None)
        monkeypatch.setattr(backend, "start", start)


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """A machine that runs other tests as well may need longer."""
    monkeypatch.setattr(rehearsal, "LIMIT_S", 200.0)


def train(**options):
    functions = {"model": programs.model, "dataset": programs.dataset}
    return nbtrain.train(**{**functions, "backend": "docker", "live": False, **options})


def rehearse(functions=(), **options):
    """Rehearse past all faces; return what it said."""
    given = {"model": programs.model, "dataset": programs.dataset, **dict(functions)}
    request = make_request("t", {"backend": "docker", **options})
    with tempfile.TemporaryDirectory() as folder:
        packed = payload.pack(given, Path(folder) / "payload.bin")
        said = rehearsal.rehearse(request, packed.path, lambda _: None)
        assert hashlib.sha256(packed.path.read_bytes()).hexdigest() == packed.sha256
    return said


def hangs():
    while True:
        pass


def stateful_model():
    import keras

    m = keras.Sequential(
        [keras.layers.Input((2, 4), batch_size=16), keras.layers.LSTM(2, stateful=True)]
    )
    m.compile("sgd", "mse")
    return m


def sequences():
    return np.zeros((16, 2, 4), "float32"), np.zeros((16, 2), "float32")


def of_the_volume():
    return np.load("/volume-of-the-cluster/train.npy"), None


def fails_in_the_step():
    import keras

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.out = keras.layers.Dense(2)

        def call(self, x):
            return self.output_layer(x)

    m = Net()
    m.compile("sgd", "mse")
    return m


def with_step(loss, *layers):
    """Return a function that returns a model whose own train_step has this loss, by its outputs."""

    def model():
        import keras
        import tensorflow as tf

        class Own(keras.Model):
            def __init__(self):
                super().__init__()
                kinds = (getattr(keras.layers, name) for name in layers)
                self.body = [kind() for kind in kinds]
                self.out = keras.layers.Dense(2)
                self.other = keras.optimizers.Adam()

            def call(self, x, training=False):
                for layer in self.body:
                    x = layer(x, training=training)
                return self.out(x)

            def train_step(self, data):
                x, y = data
                with tf.GradientTape() as tape:
                    value = loss(self, y, self(x, training=True))
                grads = tape.gradient(value, self.trainable_variables)
                self.other.apply_gradients(zip(grads, self.trainable_variables, strict=True))
                return {"loss": value}

        m = Own()
        m.compile("sgd", "sparse_categorical_crossentropy")
        return m

    return model


def centered_model():
    import keras

    x = keras.Input((8,))
    h = keras.layers.Dense(4)(x)
    h = h - keras.ops.mean(h, axis=0, keepdims=True)
    m = keras.Model(x, keras.layers.Dense(2)(h))
    m.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return m


def texts():
    import tensorflow as tf

    made = ["a b", "b", "c a b", "a a"] * 4, np.zeros(16, "int32")
    return tf.data.Dataset.from_tensor_slices(made).batch(16)


def of_texts():
    import keras

    x = keras.Input((), dtype="string")
    words = keras.layers.TextVectorization(output_sequence_length=3, vocabulary=["a", "b", "c"])
    h = keras.layers.Embedding(5, 4)(words(x))
    h = h - keras.ops.mean(h, axis=0, keepdims=True)
    m = keras.Model(x, keras.layers.Dense(2)(keras.layers.Flatten()(h)))
    m.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return m


def mean_by_hand(self, y, p):
    import keras

    return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(y, p, from_logits=True))


def sum_by_hand(self, y, p):
    import keras

    return keras.ops.einsum("ij->", p * p)


def contrastive(self, y, p):
    import keras

    logits = keras.ops.matmul(p, keras.ops.transpose(p))
    own = keras.ops.arange(keras.ops.shape(p)[0])
    return keras.ops.mean(keras.ops.sparse_categorical_crossentropy(own, logits, from_logits=True))


def of_an_object(self, y, p):
    import keras

    return keras.losses.Dice()(keras.ops.one_hot(y, 2), p)


def compiled(self, y, p):
    return self.compute_loss(y=y, y_pred=p)


# -- what a rehearsal lets pass -------------------------------------------------------------------


@pytest.mark.parametrize("loss", [contrastive, sum_by_hand])
def test_a_step_whose_examples_do_not_count_one_by_one_is_told(loss):
    said = rehearse({"model": with_step(loss)}, workers=2)
    assert "not the mean of those of its halves" in said
    assert "self.compute_loss" in said


@pytest.mark.parametrize(
    ("model", "dataset"),
    [(centered_model, programs.dataset), pytest.param(of_texts, texts, marks=pytest.mark.full)],
)
def test_a_model_whose_examples_depend_on_each_other_is_told(model, dataset):
    """Found with made-up examples, or with real ones where none can be made up."""
    said = rehearse({"model": model, "dataset": dataset}, workers=2)
    assert said.startswith("Subtract 'subtract")
    assert "--workers 1" in said


@pytest.mark.parametrize(
    "model",
    [
        with_step(mean_by_hand),
        with_step(compiled),
        with_step(of_an_object),  # all workers' examples go into that, and into this layer
        with_step(mean_by_hand, "BatchNormalization"),
    ],
)
def test_a_step_that_is_right_or_can_not_be_compared_passes(model):
    assert rehearse({"model": model}, workers=2) == ""


def test_one_worker_has_all_examples():
    assert rehearse({"model": with_step(contrastive)}, workers=1) == ""


def test_a_run_that_is_fine_is_started_and_no_file_of_the_user_is_touched(tmp_path, capsys):
    log = tmp_path / "log.csv"
    log.write_text("of an earlier run")

    def callbacks():
        import keras

        return [keras.callbacks.CSVLogger(str(log))]

    with pytest.raises(Started):
        train(validation=programs.validation, callbacks=callbacks, epochs=3, wait=True)
    assert log.read_text() == "of an earlier run"
    assert capsys.readouterr().out == ""


@pytest.mark.full
@pytest.mark.parametrize(
    "functions",
    [
        {"dataset": programs.shuffled, "validation": programs.cached},
        {"dataset": programs.from_python},
        {"model": programs.tf_keras_model, "dataset": programs.shuffled},
    ],
    ids=["datasets", "a PyDataset", "tf_keras"],
)
def test_every_kind_of_data_is_rehearsed_to_the_end(functions):
    assert rehearse(functions, steps_per_epoch=5) == ""


def test_a_part_held_back_for_validation_and_variables_of_the_containers_are_rehearsed():
    def dataset():
        assert os.environ["OF_THE_CONTAINERS"] == "1"
        return programs.dataset()

    assert rehearse({"dataset": dataset}, validation_split=0.01, env="OF_THE_CONTAINERS=1") == ""


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        (of_the_volume, "FileNotFoundError: .*'/volume-of-the-cluster/train.npy'"),
        (programs.imports_a_module, "No module named 'sklearn_of_tomorrow'"),
    ],
)
def test_what_only_the_cluster_may_have_is_a_warning_and_the_run_starts(dataset, said):
    run = train(dataset=dataset)
    with pytest.raises(Started):
        run.wait().check()
    (warned,) = run.state.warnings
    assert warned.message.startswith("Not rehearsed to its end")
    assert re.search(said, warned.message)
    assert said.split()[0] in repr(run)


def test_a_rehearsal_that_takes_long_is_given_up(monkeypatch):
    monkeypatch.setattr(rehearsal, "LIMIT_S", 1.0)
    said = rehearse({"dataset": hangs})
    assert said == ("The rehearsal was given up (it took longer than 1 s); the run starts without.")


def test_it_takes_no_more_memory_than_there_is(monkeypatch):
    monkeypatch.setattr(rehearsal, "available_memory", lambda: 4 << 30)
    said = rehearse({"dataset": programs.needs_ten_gigabytes})
    assert said.startswith("The rehearsal was given up (")
    assert "MemoryError" in said


def test_a_few_examples_are_taken_of_every_form_of_data():
    import pandas as pd
    import tensorflow as tf

    from nbtrain.runtime.data import adapt
    from nbtrain.runtime.rehearsal import FEW, few

    def generator():
        while True:
            yield [np.zeros((32, 2)), {"a": np.zeros((32, 1))}]

    def first(value, **options):
        x = few(adapt(value, **{"batch": None, **options})).arguments["x"]
        return next(iter(x)) if isinstance(x, tf.data.Dataset) else x

    ragged = tf.ragged.constant([[1], [2, 3]] * 16)
    sparse = tf.sparse.from_dense(np.eye(32))
    made = tf.data.Dataset.from_tensor_slices(({"r": ragged, "s": sparse}, np.zeros(32)))
    inputs, targets = first(made.batch(16))
    assert (inputs["r"].nrows(), inputs["s"].shape, targets.shape) == (FEW, (FEW, 32), (FEW,))
    alone = tf.data.Dataset.from_tensor_slices({"a": np.zeros((32, 3))}).batch(32)
    assert first(alone)["a"].shape == (FEW, 3)
    assert first(generator).shape == (FEW, 2)
    assert len(first(pd.DataFrame({"a": range(32)}, index=range(100, 132)), batch=16)) == FEW
    assert [len(one) for one in first(([np.zeros(9), np.zeros((9, 2))], None))] == [FEW, FEW]


def test_a_process_that_dies_is_no_reason_not_to_start():
    assert "exit code 3" in rehearse({"dataset": programs.exits})


# -- what it finds --------------------------------------------------------------------------------


def test_an_error_of_the_users_code_shows_as_theirs_and_nothing_is_started():
    run = train(dataset=programs.raises)
    with pytest.raises(RunFailed) as raised:
        run.model  # noqa: B018
    assert isinstance(raised.value, RehearsalFailed)
    shown = str(raised.value)
    assert "RuntimeError: the file of the data is empty" in shown
    assert 'raise RuntimeError("the file of the data is empty")' in shown
    assert "nothing was started elsewhere" in shown
    assert "--no-rehearse" in shown
    assert raised.value.cause == "user"


def test_an_error_in_the_step_itself_is_found():
    with pytest.raises(RehearsalFailed, match="has no attribute 'output_layer'"):
        rehearse({"model": fails_in_the_step})


def test_a_form_that_several_workers_refuse_is_refused():
    with pytest.raises(RehearsalFailed, match=r"LSTM\(stateful=True\)") as raised:
        rehearse({"model": stateful_model, "dataset": sequences}, workers=2)
    assert raised.value.cause == "refused"
    assert "Traceback" not in str(raised.value)


def test_it_shows_with_the_run_and_not_with_a_traceback_of_ours():
    run = train(dataset=programs.raises).wait()
    shown = repr(run)
    assert "failed in its rehearsal on this machine; nothing was started elsewhere" in shown
    assert "RuntimeError: the file of the data is empty" in shown
    assert "--no-rehearse" in shown
    assert "rehearsal.py" not in shown
    assert "training.py" not in shown
    assert run.status == "failed"


@pytest.mark.parametrize("how", ["stop", "delete"])
def test_stopping_it_starts_nothing_and_leaves_nothing(folder, how):
    run = train(dataset=hangs, name="hanging")
    until(lambda: list(folder.glob("nbtrain-rehearsal-*")))  # it has begun
    until(lambda: run.state.doing == "rehearsing one step on this machine")
    assert [r.status for r in nbtrain.runs()] == ["starting"]
    getattr(run, how)()
    assert run.status == "stopped"
    with pytest.raises(RunStopped):
        run.model  # noqa: B018
    assert nbtrain.runs() == []


# -- when there is one ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"backend": "docker"}, True),
        ({"backend": "docker", "rehearse": False}, False),
        ({"backend": "kubernetes"}, True),
        ({"backend": "kubernetes", "rehearse": False}, False),
        ({"backend": "local"}, False),
        ({"backend": "local", "rehearse": True}, True),
    ],
)
def test_only_local_runs_are_not_rehearsed_unless_asked(options, expected, monkeypatch):
    rehearsed = []

    def note(request, path, say):
        rehearsed.append(request.name)
        return ""

    monkeypatch.setattr(rehearsal, "rehearse", note)
    monkeypatch.setattr(LocalBackend, "start", DockerBackend.start)
    with pytest.raises(Started):
        train(name="mine", **options, warm=False, wait=True)
    assert rehearsed == ["mine"] * expected


# -- whose error it is ----------------------------------------------------------------------------


def raised(call):
    with pytest.raises(BaseException) as found:  # noqa: PT011
        call()
    return found.value


def not_there(path):
    return lambda: open(path)


def first_gpu(gpus=()):
    return gpus[0]


def first_of_nothing(found=()):
    return found[0]


class NotFoundError(Exception):
    """As TensorFlow's."""


def of_tensorflow(message):
    return lambda: (_ for _ in ()).throw(NotFoundError(message))


@pytest.mark.parametrize(
    ("call", "container", "expected"),
    [
        (not_there("/data/nothing"), {}, True),
        (not_there("nothing"), {}, False),
        (of_tensorflow("{{node}} /data/a.tfrecord; No such file or directory [Op]"), {}, True),
        (of_tensorflow("{{node}} data/a.tfrecord; No such file or directory [Op]"), {}, False),
        (lambda: os.environ["OF_A_SECRET"], {}, True),
        (lambda: {}["column"], {}, False),
        (lambda: __import__("sklearn_of_tomorrow"), {}, True),
        (lambda: exec("from os import paht"), {}, False),
        (lambda: os.getcwdd(), {"volume": ["pvc:/not/here"]}, False),
        (lambda: np.stack([]), {}, False),
        (lambda: np.stack([]), {"volume": ["pvc:/not/here:ro"]}, True),
        (lambda: np.stack([]), {"volume": ["pvc:/"], "secret": ["keys"]}, False),
        (first_gpu, {}, False),
        (first_gpu, {"gpus": 1}, True),
        (first_of_nothing, {"gpus": 1}, False),
    ],
)
def test_errors_of_this_machine_are_told_from_those_of_the_code(call, container, expected):
    assert may_work(raised(call), container) is expected


def test_a_module_that_the_payload_misses_is_an_error_of_the_machine():
    def load():
        try:
            __import__("sklearn_of_tomorrow")
        except ModuleNotFoundError as error:
            raise MissingModule(error.name) from error

    assert may_work(raised(load), {})
