"""Which functions of labels and outputs keep the examples of a batch apart, whatever the values."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf

from nbtrain.runtime import keras_whole

NUMBERS, CLASSES = tf.TensorSpec([None, 3], "float32"), tf.TensorSpec([None], "int32")


def error(y, p):
    return tf.square(p - y)


def kept(y, mark=-999.0):
    return tf.cast(tf.not_equal(y, mark), "float32")


def weights_of_classes(y, p):
    weights = tf.gather([1.0, 2.0, 3.0], y)
    return weights * keras.losses.sparse_categorical_crossentropy(y, p, from_logits=True)


@pytest.mark.parametrize(
    ("kind", "function", "labels"),
    [
        ("examples", lambda y, p: tf.reduce_mean(error(y, p), -1), NUMBERS),
        ("examples", lambda y, p: tf.reduce_sum(kept(y) * error(y, p), -1), NUMBERS),
        ("examples", lambda y, p: error(y, p) / tf.reduce_sum(kept(y), -1, True), NUMBERS),
        ("examples", tf.function(lambda y, p: tf.reduce_mean(error(y, p), -1)), NUMBERS),
        ("examples", weights_of_classes, CLASSES),
        ("mean", lambda y, p: tf.reduce_mean(error(y, p)), NUMBERS),
        ("mean", lambda y, p: 0.5 * keras.ops.mean(error(y, p)) - tf.reduce_mean(p, 0)[0], NUMBERS),
        ("mean", lambda y, p: tf.reduce_sum(error(y, p)) / tf.cast(tf.shape(y)[0], "float32"),
         NUMBERS),
        ("mean", lambda y, p: tf.reduce_mean(weights_of_classes(y, p)), CLASSES),
        ("coupled", lambda y, p: tf.reduce_sum(error(y, p)), NUMBERS),
        ("coupled", lambda y, p: tf.reduce_mean(error(y, p)) / tf.reduce_mean(kept(y)), NUMBERS),
        ("coupled", lambda y, p: error(y, p) / tf.reduce_mean(kept(y)), NUMBERS),
        ("coupled", lambda y, p: tf.reduce_mean(tf.boolean_mask(error(y, p), y > -99)), NUMBERS),
        ("coupled", tf.function(lambda y, p: error(y, p) / tf.reduce_mean(kept(y))), NUMBERS),
    ],
)  # fmt: skip
def test_a_function(kind, function, labels):
    assert keras_whole.kind(function, (labels, NUMBERS)) == kind
