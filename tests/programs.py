"""Programs as a user writes them: model, dataset, validation. They know nothing of nbtrain."""

from __future__ import annotations

import os
import signal
import time

import numpy as np


def _xy(examples: int = 203, seed: int = 0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(examples, 8)).astype("float32")
    return x, (x.sum(axis=1) > 0).astype("int32")


def model():
    import keras

    m = keras.Sequential(
        [
            keras.layers.Input((8,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(2),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    m.compile("adam", loss, metrics=["accuracy"])
    return m


def dataset():
    return _xy()


def shuffled():
    """Another order in every epoch, from the global seed."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(_xy()).shuffle(203).batch(32)


def validation():
    return _xy(61, seed=1)


def raises():
    raise RuntimeError("the file of the data is empty")


def reads_a_file():
    return np.load("data/train.npy"), None


def imports_a_module():
    import sklearn_of_tomorrow

    return sklearn_of_tomorrow.load()


def raises_on_worker_1(worker):
    if worker == 1:
        raise RuntimeError("only here")
    return _xy()


def hangs(worker):
    while worker == 1:
        time.sleep(0.1)
    return _xy()


def stops_itself_once(worker):
    """Worker 1 is stopped (SIGSTOP), as on a machine that hangs, in the first generation."""
    marker = os.environ["NBTRAIN_TEST_MARKER"]
    if worker == 1 and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGSTOP)
    return _xy()


def exits():
    os._exit(3)


def slow():
    """Some 50 ms for every batch, so that a test can do something in the middle of it."""
    import tensorflow as tf

    def wait(x, y):
        time.sleep(0.05)
        return x, y

    def pause(x, y):
        a, b = tf.numpy_function(wait, [x, y], [tf.float32, tf.int32])
        a.set_shape(x.shape)
        b.set_shape(y.shape)
        return a, b

    return tf.data.Dataset.from_tensor_slices(_xy()).batch(32).map(pause)


def leaves_a_child():
    import subprocess

    subprocess.Popen(["sleep", "600"])
    return _xy()


def tf_keras_model():
    import tf_keras

    m = tf_keras.Sequential(
        [
            tf_keras.layers.Input((8,)),
            tf_keras.layers.Dense(16, activation="relu", use_bias=False),
            tf_keras.layers.BatchNormalization(),
            tf_keras.layers.Dense(2),
        ]
    )
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    m.compile("adam", loss, metrics=["accuracy"])
    return m


def tf_keras_own_step():
    """A subclassed model, not built, whose step uses an optimizer of its own."""
    import tensorflow as tf
    import tf_keras

    class Net(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = tf_keras.layers.Dense(16, activation="relu")
            self.out = tf_keras.layers.Dense(2)
            self.own = tf_keras.optimizers.Adam(0.01)

        def call(self, x):
            return self.out(self.hidden(x))

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            weights = self.trainable_variables
            self.own.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            return {"loss": loss}

    m = Net()
    m.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return m


def tf_keras_callbacks():
    import tf_keras

    return [tf_keras.callbacks.CSVLogger("log.csv"), tf_keras.callbacks.TerminateOnNaN()]


def keras_callbacks():
    import keras

    return [keras.callbacks.CSVLogger("log.csv")]


def tf_dot_keras_model():
    """What people have who set TF_USE_LEGACY_KERAS."""
    import tensorflow as tf

    m = tf.keras.Sequential([tf.keras.layers.Input((8,)), tf.keras.layers.Dense(2)])
    m.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert type(m).__module__.startswith("tf_keras.")
    return m
