"""Models whose examples depend on each other are found, and no others are taken for them."""

from __future__ import annotations

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers, ops

from nbtrain.runtime import coupling


class Deviation(layers.Layer):
    def call(self, x):
        deviation = ops.mean(ops.std(x, axis=0))
        return ops.concatenate([x, deviation * ops.ones_like(x[:, :1])], axis=-1)


class Varied(layers.Layer):
    def call(self, x):
        self.add_loss(0.1 * ops.var(x))
        return x


class Block(layers.Layer):
    """What layers of people's own are made of, and a loss that is a mean."""

    def __init__(self):
        super().__init__()
        self.dense, self.norm = layers.Dense(8), layers.LayerNormalization()
        self.batch, self.drop = layers.BatchNormalization(), layers.Dropout(0.5)

    def call(self, x, training=None):
        self.add_loss(0.1 * ops.mean(ops.square(x)))
        return self.drop(self.batch(self.norm(self.dense(x))), training=training)


class Counting(layers.Layer):
    def build(self, shape):
        self.calls = self.add_weight(shape=(), trainable=False, initializer="zeros")

    def call(self, x, training=False):
        if training:
            self.calls.assign_add(1.0)
        return x / (1.0 + self.calls)


class Sampling(layers.Layer):
    def __init__(self):
        super().__init__()
        self.seed = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + keras.random.normal(ops.shape(x), seed=self.seed)


class Noise(layers.Layer):
    def call(self, x):
        return x + tf.random.normal(tf.shape(x))


class Same(layers.Layer):
    def call(self, x):
        return 1.0 * x


class Divides(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.last = layers.Dense(8), layers.Dense(2)

    def call(self, x):
        h = self.first(x)
        return self.last(h / ops.norm(h))


class Gan(keras.Model):
    def __init__(self):
        super().__init__()
        self.generator, self.critic = layers.Dense(8), layers.Dense(1)
        self.built = True

    def train_step(self, data):
        return {}


class Penalty(tf_keras.layers.Layer):
    def call(self, x):
        self.add_loss(0.1 * tf.reduce_mean(tf.square(x)))
        return x


class Variance(tf_keras.layers.Layer):
    def call(self, x):
        self.add_loss(0.1 * tf.math.reduce_variance(x))
        return x


def of(*made):
    return keras.Sequential([keras.Input((6,)), *made, layers.Dense(3)])


def tf_of(*made):
    return tf_keras.Sequential([tf_keras.Input((6,)), *made, tf_keras.layers.Dense(3)])


def functional(make, shape=(6,), dtype="float32"):
    x = keras.Input(shape, dtype=dtype)
    return keras.Model(x, make(x))


def built(model):
    model(np.ones((2, 6), "float32"))
    return model


def centered(x):
    h = layers.Dense(8)(x)
    return layers.Dense(3)(h - ops.mean(h, axis=0, keepdims=True))


def in_batch(x):
    h = layers.Dense(4)(x)
    return ops.matmul(h, ops.transpose(h))


def sequence(x):
    h = layers.Embedding(12, 8, mask_zero=True)(x)
    return layers.Dense(3)(Same()(layers.LSTM(8)(h)))


def attention(x):
    h = layers.Dense(8)(x)
    h = layers.LayerNormalization()(h + layers.MultiHeadAttention(2, 4)(h, h))
    return layers.Dense(3)(ops.mean(h, axis=1))


def convolution(x):
    h = layers.Conv2D(8, 3, activation=lambda v: ops.maximum(v, 0))(x)
    h = layers.BatchNormalization()(layers.GroupNormalization(2)(h))
    h = layers.GlobalAveragePooling2D()(layers.MaxPooling2D()(h))
    return layers.Dense(3)(layers.Dropout(0.5)(Same()(h)))


def regularized(function):
    return layers.Dense(8, activity_regularizer=function)


def tf_lambda(function):
    return tf_keras.layers.Lambda(function)


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(3)


def said(model, shape=(6,), dtype="float32"):
    """Return the warning; the model and all random numbers stay as they are."""
    before = [v.numpy() for v in model.variables]
    states = random.getstate(), np.random.get_state()[1].tolist()
    found = coupling.warning(model, {"shape": [None, *shape], "dtype": dtype})
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    if isinstance(model, keras.Model):
        assert not [loss for layer in model._flatten_layers() for loss in layer._get_own_losses()]
    return found


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: functional(centered), "Subtract '"),
        (lambda: functional(in_batch), "Matmul '"),
        (lambda: of(layers.Dense(8), Deviation()), "Deviation '"),
        (lambda: of(Block(), Deviation(), layers.Dropout(0.5)), "Deviation '"),
        (lambda: of(layers.Lambda(lambda x: x - ops.mean(x, axis=0))), "Lambda '"),
        (lambda: of(layers.Dense(8, activation=lambda x: x / ops.max(x))), "Dense '"),
        (lambda: built(Divides()), "Divides '"),
        (lambda: tf_of(tf_lambda(lambda x: x - tf.reduce_mean(x, axis=0))), "Lambda '"),
    ],
)  # fmt: skip
def test_what_an_example_gives_depends_on_the_others(make, name):
    assert said(make()).startswith(name)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: of(layers.Dense(8), Varied()), "Varied '"),
        (lambda: of(regularized(lambda o: ops.mean(o) ** 2)), "Dense '"),
        (lambda: tf_of(tf_keras.layers.Dense(8), Variance()), "Variance '"),
    ],
)
def test_a_loss_that_is_added_is_no_mean(make, name):
    found = said(make())
    assert found.startswith(name)
    assert "add_loss" in found


@pytest.mark.parametrize(
    "make",
    [
        lambda: of(layers.Dense(8), layers.BatchNormalization()),
        lambda: of(Block(), Block()),
        lambda: of(layers.Dense(8, activity_regularizer="l2", kernel_regularizer="l1"), Same()),
        lambda: of(regularized(lambda o: 0.1 * ops.sum(ops.square(o)))),
        lambda: of(layers.SpectralNormalization(layers.Dense(8)), Same()),
        lambda: of(Counting()),
        lambda: of(layers.GaussianNoise(0.5), layers.Dropout(0.5), Same()),
        lambda: tf_of(Penalty(), tf_lambda(lambda x: 2 * x), tf_keras.layers.BatchNormalization()),
        lambda: tf_of(tf_keras.layers.Dropout(0.5), Penalty()),
    ],
)
def test_each_example_by_itself(make):
    assert said(make()) == ""


@pytest.mark.parametrize(
    ("make", "shape", "dtype"),
    [
        (sequence, (7,), "int32"),
        (attention, (5, 6), "float32"),
        (convolution, (16, 16, 3), "float32"),
        (convolution, (None, None, 3), "float32"),
    ],
)
def test_so_in_sequences_and_images(make, shape, dtype):
    assert said(functional(make, shape, dtype), shape, dtype) == ""


@pytest.mark.parametrize(
    "make",
    [
        lambda: of(Sampling()),
        lambda: of(Noise()),
        lambda: Gan(),
        lambda: of(layers.Dense(8, dtype="mixed_bfloat16"), Deviation()),
        lambda: tf_of(tf_lambda(lambda x: x + tf.random.normal(tf.shape(x)))),
    ],
)
def test_what_can_not_be_compared_is_not_judged(make):
    assert said(make()) is None
