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


def prints():
    print("the dataset is made")
    return _xy()


def checks(data):
    """Return a `dataset` that captures an array and finds it as it was."""
    total = int(data[::1024].astype("int64").sum())

    def dataset():
        if int(data[::1024].astype("int64").sum()) != total:
            raise ValueError("the array has changed on its way")
        return _xy()

    return dataset


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


def cached():
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(_xy()).cache().shuffle(203, seed=3)
    return data.batch(32).prefetch(2)


def from_python():
    """Another order in every epoch, from NumPy's global seed."""
    import keras

    class Batches(keras.utils.PyDataset):
        def __init__(self):
            super().__init__()
            self.x, self.y = _xy()
            self.order = np.arange(len(self.x))

        def __len__(self):
            return 7

        def __getitem__(self, i):
            chosen = self.order[32 * i : 32 * i + 32]
            return self.x[chosen], self.y[chosen]

        def on_epoch_end(self):
            np.random.shuffle(self.order)

    return Batches()


def in_float64():
    import keras

    keras.config.set_floatx("float64")
    return model()


def with_dropout():
    import keras

    m = keras.Sequential(
        [
            keras.layers.Input((8,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dropout(0.4),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(2),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    m.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, 21)), loss)
    return m


def normalized():
    """With BatchNormalization, whose statistics are those of the whole batch."""
    import keras

    m = keras.Sequential(
        [
            keras.layers.Input((8,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(2),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    m.compile(keras.optimizers.SGD(0.1, momentum=0.9, clipnorm=1.0), loss, metrics=["accuracy"])
    return m


def _with_hidden(units, optimizer="adam"):
    import keras

    m = keras.Sequential(
        [keras.layers.Input((8,)), keras.layers.Dense(units), keras.layers.Dense(2)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    m.compile(optimizer, loss, metrics=["accuracy"])
    return m


def big():
    """Some 130 MB of weights and optimizer state."""
    return _with_hidden(1_000_000)


def five_megabytes():
    return _with_hidden(40_000)


def dies_when_saved(fault):
    """A model with a layer that has a fault when it is asked for its configuration."""
    import keras

    class Layer(keras.layers.Layer):
        def call(self, x):
            return x

        def get_config(self):
            if fault.strikes(0):
                fault.strike()
            return super().get_config()

    return _with(Layer())


def _with(layer):
    """A network with this layer before the last one."""
    import keras

    m = keras.Sequential(
        [
            keras.layers.Input((8,)),
            keras.layers.Dense(16, activation="relu"),
            layer,
            keras.layers.Dense(2),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    m.compile("adam", loss, metrics=["accuracy"])
    return m


def saved_slowly(marker):
    """A model that says when it is being saved, and takes a while the first time."""
    import keras

    class Layer(keras.layers.Layer):
        def call(self, x):
            return x

        def get_config(self):
            if not marker.exists():
                marker.touch()
                time.sleep(3.0)
            return super().get_config()

    return _with(Layer())


def slow_without_python():
    """Milliseconds of arithmetic for every batch."""
    import tensorflow as tf

    def work(x, y):
        a = tf.random.stateless_uniform((700, 700), (1, 2))
        for _ in range(12):
            a = tf.linalg.normalize(tf.matmul(a, a))[0]
        return x + 0.0 * a[0, 0], y

    return tf.data.Dataset.from_tensor_slices(_xy()).batch(32).map(work)


def holds(path, epoch):
    """A callback that holds an epoch's beginning until a file is there."""
    import keras

    class Holds(keras.callbacks.Callback):
        def on_epoch_begin(self, number, logs=None):
            while number == epoch and not path.exists():
                time.sleep(0.02)

    return Holds()


def needs_ten_gigabytes():
    np.ones((10, 2**27), "float64").sum()
    return _xy()


def pauses():
    """Three seconds of nothing in the middle of an epoch."""
    import tensorflow as tf

    def wait(x, y, i):
        if i == 3:
            time.sleep(3)
        return x, y

    def pause(i, xy):
        a, b = tf.numpy_function(wait, [*xy, i], [tf.float32, tf.int32])
        a.set_shape((None, 8))
        b.set_shape((None,))
        return a, b

    return tf.data.Dataset.from_tensor_slices(_xy()).batch(32).enumerate().map(pause)


def fewer_on_worker_1(worker):
    x, y = _xy()
    return (x[:100], y[:100]) if worker == 1 else (x, y)


def other_on_worker_1(worker):
    return _xy(seed=worker)


def generates_fewer_on_worker_1(worker):
    import tensorflow as tf

    def batches():
        x, y = _xy()
        for i in range(3 if worker == 1 else 6):
            yield x[32 * i : 32 * i + 32], y[32 * i : 32 * i + 32]

    signature = (tf.TensorSpec((None, 8), tf.float32), tf.TensorSpec((None,), tf.int32))
    return tf.data.Dataset.from_generator(batches, output_signature=signature)


def stops_on_worker_1(epoch, batch):
    def callbacks(worker):
        import keras

        class Stops(keras.callbacks.Callback):
            def on_epoch_begin(self, number, logs=None):
                self.number = number

            def on_train_batch_end(self, step, logs=None):
                if (worker, self.number, step) == (1, epoch, batch):
                    self.model.stop_training = True

        return [Stops()]

    return callbacks


def permuted_by_no_seed():
    import tensorflow as tf

    x, y = _xy()
    order = np.random.default_rng().permutation(len(x))
    return tf.data.Dataset.from_tensor_slices((x[order], y[order])).batch(32)


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


def evaluates_on_worker_0(worker):
    import keras

    class Evaluates(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if worker == 0:
                self.model.evaluate(*validation(), verbose=0)

    return [Evaluates()]


def holds_much():
    """A model whose step uses optimizers, variables and generators that Keras doesn't list."""
    import keras
    import tensorflow as tf

    class Scale(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.factors = {"of": [tf.Variable(1.0)]}
            self.optimizer = keras.optimizers.SGD(0.05, momentum=0.9)

        def call(self, x):
            return x * self.factors["of"][0]

    class Averages:
        """The user's own, no layer."""

        def __init__(self):
            self.mean = tf.Variable(tf.zeros((8, 2)), trainable=False)

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden, self.out = keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(2)
            self.scale = Scale()
            self.opts = [keras.optimizers.Adam(0.05), {"out": keras.optimizers.Adam(0.02)}]
            self.unused = (keras.optimizers.Adam(),)
            self.steps = tf.Variable(0)
            self.averages = Averages()
            self.generator = tf.random.Generator.from_seed(3)

        def call(self, x):
            return self.scale(self.out(self.hidden(x)))

        def train_step(self, data):
            x, y = data
            x += 0.1 * self.generator.normal((8,)) + 0.1 * keras.random.normal((8,))
            hidden, out = self.hidden.trainable_variables, self.out.trainable_variables
            factor = self.scale.factors["of"][0]
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            grads = tape.gradient(loss, [*hidden, *out, factor])
            self.opts[0].apply_gradients(zip(grads[:2], hidden, strict=True))
            self.opts[1]["out"].apply_gradients(zip(grads[2:4], out, strict=True))
            factor.assign_sub(0.1 * grads[4])
            self.scale.optimizer.apply_gradients([(grads[1], hidden[1])])
            self.steps.assign_add(1)
            mean = self.averages.mean
            mean.assign(0.9 * mean + 0.1 * self.out.kernel)
            return {"ll": loss, "steps": tf.cast(self.steps, "float32")}

    m = Net()
    m.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return m


def loses_much():
    """A model whose step changes what can't be in a checkpoint."""
    import keras
    import tensorflow as tf

    hidden = tf.Variable(0, name="of_the_closure")
    constant = tf.Variable(1.0, name="never_changed")

    def noise(shape):
        return tf.random.normal(shape)

    class Key:
        pass

    class Net(keras.Sequential):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.by_object = {Key(): tf.Variable(1.0, name="of_an_object")}
            sums = {
                "synchronization": tf.VariableSynchronization.ON_READ,
                "aggregation": tf.VariableAggregation.SUM,
            }
            self.among = {"one": {"two": (tf.Variable(0.0, **sums),)}}
            self.late = []

        def train_step(self, data):
            x, y = data
            hidden.assign_add(1)
            self.among["one"]["two"][0].assign_add(1.0)
            if not self.late:
                self.late.append(tf.Variable(0.0))
            self.late[0].assign_add(1.0)
            return super().train_step((x * constant + 0.1 * noise((8,)), y))

    m = Net([keras.layers.Input((8,)), keras.layers.Dense(2)])
    m.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return m
