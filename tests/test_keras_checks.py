"""What is looked at before training: the versions, the functions that are changed, the source."""

from __future__ import annotations

import inspect
import textwrap

import keras
import pytest
import tensorflow as tf
from keras.src.losses import loss as loss_module
from keras.src.trainers.epoch_iterator import EpochIterator
from tensorflow.python.distribute import values

from nbtrain.runtime import keras_checks
from nbtrain.runtime.errors import VersionMismatch


@pytest.fixture(autouse=True)
def _not_checked_yet(monkeypatch):
    monkeypatch.setattr(keras_checks, "_checked", [])


def test_the_installed_versions_are_known():
    keras_checks.check_versions()
    assert keras_checks._checked


@pytest.mark.parametrize(
    ("module", "version", "message"),
    [
        (keras, "3.16.0", "Keras 3.16.0: .* Install Keras 3.15."),
        (keras, "3.1.5", "Keras 3.1.5: .* Install Keras 3.15."),
        (tf, "2.19.1", "TensorFlow 2.19.1: .* Install TensorFlow 2.20 or 2.21."),
        (tf, "2.200.0", "TensorFlow 2.200.0: .* Install TensorFlow 2.20 or 2.21."),
    ],
)
def test_another_version_is_refused(module, version, message, monkeypatch):
    monkeypatch.setattr(module, "__version__", version)
    with pytest.raises(VersionMismatch, match=message):
        keras_checks.check_versions()
    assert not keras_checks._checked


def changed(*args, **kwargs):
    """Stand for a function of another release."""


@pytest.mark.parametrize(
    ("owner", "name", "message"),
    [
        (loss_module, "apply_mask", r"loss:apply_mask of Keras 3.* Install it anew"),
        (EpochIterator, "_enumerate_iterator", r"_enumerate_iterator of Keras 3.* Install it"),
        (tf.GradientTape, "gradient", r"GradientTape.gradient of TensorFlow 2.* Install it anew"),
        (
            values,
            "apply_aggregation_replica_context",
            r"values:apply_aggregation_replica_context of TensorFlow 2.* Install it anew",
        ),
    ],
)
def test_a_changed_function_is_refused(owner, name, message, monkeypatch):
    monkeypatch.setattr(owner, name, changed)
    with pytest.raises(VersionMismatch, match=message):
        keras_checks.check_versions()


def test_a_function_that_is_gone_is_refused(monkeypatch):
    monkeypatch.delattr(loss_module, "reduce_values")
    with pytest.raises(VersionMismatch, match="reduce_values"):
        keras_checks.check_versions()


# -- the source of steps --------------------------------------------------------------------------


def sums(tf, x, e):
    return tf.reduce_sum(e)


def sums_over_first(tf, x, e):
    return tf.reduce_mean(tf.reduce_sum(e, axis=0))


def sums_by_a_number(tf, x, e):
    return tf.reduce_sum(e) / 16


def sums_by_a_mask(tf, x, e):
    return tf.reduce_sum(e * x) / tf.reduce_sum(x)


def sums_beside_a_mean(tf, x, e):
    return tf.reduce_sum(e) / tf.size(e) + tf.reduce_sum(x)


def sums_in_each_row(tf, x, e):
    return tf.reduce_mean(tf.reduce_sum(e, axis=1))


def divides_by_shape(tf, x, e):
    return tf.reduce_sum(tf.square(e)) / tf.cast(tf.shape(x)[0], "float32")


def divides_by_length(tf, x, e):
    return 0.5 * tf.reduce_sum(e) / len(x)


def divides_by_a_name(tf, x, e):
    rows = tf.shape(x)[0]
    size = tf.cast(rows, "float32")
    return tf.reduce_sum(e) / size


@pytest.mark.parametrize(
    "function", [sums, sums_over_first, sums_by_a_number, sums_by_a_mask, sums_beside_a_mean]
)
def test_a_sum_over_the_batch_is_seen(function):
    assert [c for c, _ in keras_checks._warning_of_sum(function, "f")] == ["sum-in-train-step"]


@pytest.mark.parametrize(
    "function", [sums_in_each_row, divides_by_shape, divides_by_length, divides_by_a_name]
)
def test_a_mean_by_hand_is_none(function):
    assert textwrap.dedent(inspect.getsource(function)).count("reduce_sum") == 1
    assert list(keras_checks._warning_of_sum(function, "f")) == []


def calls_dice(y, p):
    return keras.losses.dice(y, p)


def calls_an_object(y, p):
    return keras.losses.Dice()(y, p)


def test_a_coupled_function_of_keras_is_seen_and_its_class_is_none():
    ((code, message),) = keras_checks._warning_of_coupled(calls_dice, "train_step")
    assert code == "coupled-in-train-step"
    assert message.startswith("train_step calls the function dice of Keras")
    assert message.endswith("keras.losses.Dice()")
    assert not list(keras_checks._warning_of_coupled(calls_an_object, "train_step"))


def returns_a_length(x, loss):
    rows = tf.shape(x)[0]
    return {"loss": loss, "n": tf.cast(rows, "float32")}


def returns_a_width(x, loss):
    return {"loss": loss / tf.cast(tf.shape(x)[0], "float32"), "width": x.shape[1]}


def test_a_number_of_examples_in_the_logs_is_seen_and_another_is_none():
    ((code, _),) = keras_checks._warning_of_count(returns_a_length, "train_step")
    assert code == "count-in-logs"
    assert not list(keras_checks._warning_of_count(returns_a_width, "train_step"))
