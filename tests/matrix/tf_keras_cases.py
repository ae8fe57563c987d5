"""The forms again with tf_keras (Keras 2), where the same traps exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .cases import CASES, Case, _tfrecords, case, images, scale_fell, words, xy
from .custom_cases import counting_step, gaps, masked_error
from .data_cases import VALIDATIONS, validation_dataset, validation_generator
from .stock_cases import fitted_before, predicted_before


def dense(
    optimizer: Any = "adam", loss: Any = None, metrics: Any = ("accuracy",), layers: Any = None,
    **options: Any,
) -> Callable[[], Any]:  # fmt: skip
    """Return a `model()` of a small dense network of tf_keras."""

    def model() -> Any:
        import tf_keras

        made = optimizer() if callable(optimizer) else optimizer
        hidden = layers() if layers else [tf_keras.layers.Dense(8, activation="tanh")]
        m = tf_keras.Sequential([tf_keras.Input((6,)), *hidden, tf_keras.layers.Dense(3)])
        chosen = loss() if callable(loss) else loss
        chosen = chosen or tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        chosen_metrics = metrics() if callable(metrics) else list(metrics)
        m.compile(made, chosen, metrics=chosen_metrics, **options)
        return m

    return model


def basic(**changes: Any) -> dict[str, Any]:
    return {
        "model": dense(),
        "dataset": lambda: xy(49),
        "validation": lambda: xy(23, seed=1),
        **changes,
    }


# -- last batches ---------------------------------------------------------------------------------

for _rest in (0, 1, 2, 7, 8, 9, 15):

    def _with_rest(n: int = 48 + _rest) -> dict[str, Any]:
        return basic(dataset=lambda: xy(n))

    CASES[f"tfk_rest_{_rest}"] = Case(
        f"tfk_rest_{_rest}", f"{48 + _rest} examples in batches of 16", "tf_keras: last batches",
        _with_rest, batch=16, full=True,
    )  # fmt: skip


@case("a convolution, one example in the last batch", "tf_keras: last batches", batch=16, full=True)
def tfk_empty_shard_of_a_convolution() -> dict[str, Any]:
    return tfk_convolutional() | {"dataset": lambda: images(17), "validation": lambda: images(3)}


# -- data -----------------------------------------------------------------------------------------


@case("203 examples in batches of 32", "tf_keras: data", batch=32, epochs=3)
def tfk_batches() -> dict[str, Any]:
    return basic(dataset=lambda: xy(203))


@case("49 examples in batches of 16", "tf_keras: data", batch=16)
def tfk_empty_shard() -> dict[str, Any]:
    return basic()


@case("validation_split, class_weight, shuffle off", "tf_keras: data", batch=16, full=True,
      fit={"validation_split": 0.35, "class_weight": {0: 1.0, 1: 3.0, 2: 0.5},
           "shuffle": False})  # fmt: skip
def tfk_validation_split() -> dict[str, Any]:
    return basic(validation=None)


@case("sample weights and weighted metrics", "tf_keras: data", batch=16, full=True)
def tfk_sample_weight() -> dict[str, Any]:
    def dataset() -> Any:
        return *xy(49), np.linspace(0, 2, 49).astype("float32")

    return basic(model=dense(metrics=(), weighted_metrics=["accuracy"]), dataset=dataset)


@case("tf.data, shuffled with no seed", "tf_keras: data", full=True)
def tfk_shuffled() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(xy(49)).shuffle(50).batch(16)

    return basic(dataset=dataset)


@case("tf.data: repeat with steps_per_epoch", "tf_keras: data", fit={"steps_per_epoch": 3},
      full=True)  # fmt: skip
def tfk_repeated() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(xy()).shuffle(50, seed=1).repeat().batch(16)

    return basic(dataset=dataset)


@case("TFRecord files (3 files)", "tf_keras: data", full=True)
def tfk_tfrecords() -> dict[str, Any]:
    return basic(dataset=_tfrecords(3)["dataset"])


@case("tf_keras.utils.Sequence", "tf_keras: data", full=True)
def tfk_sequence() -> dict[str, Any]:
    def dataset() -> Any:
        import tf_keras

        class Batches(tf_keras.utils.Sequence):
            def __init__(self) -> None:
                self.x, self.y = xy(49)

            def __len__(self) -> int:
                return 4

            def __getitem__(self, i: int) -> Any:
                return self.x[i * 16 : i * 16 + 16], self.y[i * 16 : i * 16 + 16]

        return Batches()

    return basic(dataset=dataset)


@case("a generator of batches", "tf_keras: data", fit={"steps_per_epoch": 3}, full=True)
def tfk_generator() -> dict[str, Any]:
    def dataset() -> Any:
        x, y = xy(49)
        while True:
            for i in range(0, 49, 16):
                yield x[i : i + 16], y[i : i + 16]

    return basic(dataset=dataset)


@case("a dict of arrays, several inputs and outputs, loss_weights", "tf_keras: data", batch=16,
      full=True)  # fmt: skip
def tfk_several() -> dict[str, Any]:
    def model() -> Any:
        import tf_keras

        a, b = tf_keras.Input((4,), name="a"), tf_keras.Input((2,), name="b")
        joined = tf_keras.layers.Concatenate()([a, b])
        outputs = {
            "u": tf_keras.layers.Dense(3, name="u")(joined),
            "v": tf_keras.layers.Dense(1, name="v")(joined),
        }
        m = tf_keras.Model({"a": a, "b": b}, outputs)
        losses = {
            "u": tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "v": tf_keras.losses.MeanSquaredError(reduction="sum"),
        }
        m.compile("adam", losses, loss_weights={"u": 1.0, "v": 0.01}, metrics={"u": "accuracy"})
        return m

    def dataset() -> Any:
        x, y = xy(49)
        return {"a": x[:, :4], "b": x[:, 4:]}, {"u": y, "v": x[:, :1]}

    return {"model": model, "dataset": dataset, "validation": None}


@case("tf.data: sparse rows", "tf_keras: data", refused="sparse or ragged", full=True)
def tfk_sparse() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        x, y = xy()
        rows = tf.sparse.from_dense(x)
        return tf.data.Dataset.from_tensor_slices((rows, y)).batch(16)

    return basic(dataset=dataset)


@case("tf.data: batches whose parts have other numbers of rows", "tf_keras: data",
      refused=r"rows \(x: 16, y: 16, sample_weight: 10\)", full=True)  # fmt: skip
def tfk_other_rows() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices(xy()).batch(16)
        return data.map(lambda x, y: (x, y, tf.ones((10,))))

    return basic(dataset=dataset)


for _name, (_validation, _options) in VALIDATIONS.items():

    def _validated(validation: Callable[[], Any] = _validation) -> dict[str, Any]:
        return basic(validation=validation)

    CASES[f"tfk_validation_{_name}"] = Case(
        f"tfk_validation_{_name}", f"validation: {_name.replace('_', ' ')}", "tf_keras: data",
        _validated, batch=16, fit=_options, full=True,
    )  # fmt: skip


@case("validation: a tf.data.Dataset", "tf_keras: data", batch=16, full=True)
def tfk_validation_dataset() -> dict[str, Any]:
    return validation_dataset() | {"model": dense()}


@case("validation: a generator", "tf_keras: data", batch=16, fit={"validation_steps": 2},
      refused="reads a generator ahead", full=True)  # fmt: skip
def tfk_validation_generator() -> dict[str, Any]:
    return validation_generator() | {"model": dense()}


# -- losses ---------------------------------------------------------------------------------------


@case("reduction='sum'", "tf_keras: losses", batch=16, tolerance=1e-5,
      why="sums are 16 times as large", full=True)  # fmt: skip
def tfk_loss_sum() -> dict[str, Any]:
    def loss() -> Any:
        import tf_keras

        return tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")

    return basic(model=dense(optimizer="sgd", loss=loss))


@case("reduction='none'", "tf_keras: losses", batch=16, refused="reduction=none", full=True)
def tfk_loss_none() -> dict[str, Any]:
    def loss() -> Any:
        import tf_keras

        return tf_keras.losses.SparseCategoricalCrossentropy(reduction="none")

    return basic(model=dense(loss=loss))


@case("a custom loss that returns a scalar", "tf_keras: losses", batch=16, full=True)
def tfk_loss_scalar() -> dict[str, Any]:
    def loss() -> Any:
        import tensorflow as tf

        return lambda y, p: tf.reduce_mean(tf.square(p - tf.one_hot(tf.cast(y, "int32"), 3)))

    return basic(model=dense(optimizer="sgd", loss=loss, metrics=()))


@case("a custom loss that couples the examples of a batch", "tf_keras: losses", batch=16, full=True)
def tfk_loss_coupled() -> dict[str, Any]:
    def loss() -> Any:
        import tensorflow as tf

        return lambda y, p: tf.reduce_mean(tf.square(p)) ** 2 + tf.reduce_max(p) ** 2

    return basic(model=dense(optimizer="sgd", loss=loss, metrics=()))


@case("a subclass of tf_keras.losses.Loss with a __call__ of its own", "tf_keras: losses",
      batch=16, full=True)  # fmt: skip
def tfk_loss_own_call() -> dict[str, Any]:
    def loss() -> Any:
        import tensorflow as tf
        import tf_keras

        class Overlap(tf_keras.losses.Loss):
            def __call__(self, y: Any, p: Any, sample_weight: Any = None) -> Any:
                y = tf.one_hot(tf.cast(tf.reshape(y, [-1]), "int32"), 3)
                p = tf.nn.softmax(p)
                return 1 - 2 * tf.reduce_sum(y * p) / tf.reduce_sum(y + p * p)

        return Overlap()

    return basic(model=dense(optimizer="sgd", loss=loss, metrics=()))


@case("a custom loss and a metric that leave out NaN among the labels", "tf_keras: losses",
      batch=16)  # fmt: skip
def tfk_loss_nan() -> dict[str, Any]:
    def model() -> Any:
        error = masked_error(nan=True)
        return dense(optimizer="sgd", loss=lambda: error, metrics=lambda: [error])()

    return {"model": model, **gaps(np.nan)}


@case("a loss for each time step, masked", "tf_keras: losses", batch=16)
def tfk_masked() -> dict[str, Any]:
    def model() -> Any:
        import tf_keras

        layers = tf_keras.layers
        m = tf_keras.Sequential(
            [
                tf_keras.Input((7,)),
                layers.Embedding(20, 4, mask_zero=True),
                layers.LSTM(5, return_sequences=True),
                layers.Dense(3),
            ]
        )
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        m.compile("adam", loss, metrics=["accuracy"])
        return m

    def dataset() -> Any:
        x, _ = words(49)
        return x, (x % 3).astype("int32")

    return {"model": model, "dataset": dataset, "validation": None}


@case("add_loss, activity and weight regularizers", "tf_keras: losses", batch=16, full=True)
def tfk_regularizers() -> dict[str, Any]:
    def layers() -> Any:
        import tensorflow as tf
        import tf_keras

        class Penalty(tf_keras.layers.Layer):
            def call(self, x: Any) -> Any:
                self.add_loss(0.1 * tf.reduce_mean(tf.square(x)))
                return x

        return [
            tf_keras.layers.Dense(8, activity_regularizer="l2", kernel_regularizer="l2"),
            Penalty(),
        ]

    return basic(model=dense(layers=layers))


# -- optimizers -----------------------------------------------------------------------------------


OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "clipnorm": ("SGD", {"learning_rate": 0.5, "clipnorm": 0.3}),
    "clipvalue": ("SGD", {"learning_rate": 0.5, "clipvalue": 0.02}),
    "global_clipnorm": ("SGD", {"learning_rate": 0.5, "global_clipnorm": 0.4}),
    "weight decay": ("AdamW", {"weight_decay": 0.01}),
    "ema overwrite": ("SGD", {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 3}),
}

for _name, (_kind, _options) in OPTIMIZERS.items():

    def _functions(kind: str = _kind, options: dict[str, Any] = _options) -> dict[str, Any]:
        def optimizer() -> Any:
            import tf_keras

            return getattr(tf_keras.optimizers, kind)(**options)

        return basic(model=dense(optimizer=optimizer))

    _key = f"tfk_{_name.replace(' ', '_')}"
    CASES[_key] = Case(
        _key, f"{_kind} with {_name}", "tf_keras: optimizers", _functions, batch=16,
        full=_name != "global_clipnorm",
    )  # fmt: skip


for _kind in (
    "RMSprop", "Adam", "Adagrad", "Adadelta", "Adamax", "Nadam", "Ftrl", "Lion", "Adafactor",
):  # fmt: skip

    def _stock(kind: str = _kind) -> dict[str, Any]:
        def optimizer() -> Any:
            import tf_keras

            return getattr(tf_keras.optimizers, kind)(0.01)

        return basic(model=dense(optimizer=optimizer))

    _amplifies = _kind in ("Adadelta", "Ftrl")
    CASES[f"tfk_optimizer_{_kind}"] = Case(
        f"tfk_optimizer_{_kind}", f"optimizer {_kind}", "tf_keras: optimizers", _stock, batch=16,
        epochs=3, full=True, tolerance=1e-5 if _amplifies else 1e-6,
        why="an iteration amplifies the rounding" if _amplifies else "",
    )  # fmt: skip


@case("legacy Adam with clipvalue", "tf_keras: optimizers", batch=16, full=True)
def tfk_legacy() -> dict[str, Any]:
    def optimizer() -> Any:
        import tf_keras

        return tf_keras.optimizers.legacy.Adam(0.01, clipvalue=0.05)

    return basic(model=dense(optimizer=optimizer))


@case("a learning rate schedule", "tf_keras: optimizers", batch=16, full=True)
def tfk_schedule() -> dict[str, Any]:
    def optimizer() -> Any:
        import tf_keras

        return tf_keras.optimizers.Adam(tf_keras.optimizers.schedules.CosineDecay(0.1, 7))

    return basic(model=dense(optimizer=optimizer))


@case("mixed_float16 with its loss scale, an overflow on one worker", "tf_keras: optimizers",
      batch=16, tolerance=2e-3, why="float16 rounds each shard's gradients to 11 bits", full=True,
      fit={"shuffle": False}, holds=scale_fell)  # fmt: skip
def tfk_mixed_float16() -> dict[str, Any]:
    def model() -> Any:
        import tf_keras

        tf_keras.mixed_precision.set_global_policy("mixed_float16")
        m = tf_keras.Sequential(
            [
                tf_keras.Input((6,)),
                tf_keras.layers.Dense(8, activation="relu"),
                tf_keras.layers.Dense(3, dtype="float32"),
            ]
        )
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        m.compile(tf_keras.optimizers.SGD(0.1), loss)
        return m

    def dataset() -> Any:
        x, y = xy(49)
        x[20] = 1000.0  # in the second batch, on the first worker: its gradient is no float16
        return x, y

    return {"model": model, "dataset": dataset, "validation": None}


# -- layers ---------------------------------------------------------------------------------------


@case("a convolutional network with BatchNormalization, empty shards", "tf_keras: layers",
      batch=16)  # fmt: skip
def tfk_convolutional() -> dict[str, Any]:
    def model() -> Any:
        import tf_keras

        layers = tf_keras.layers
        m = tf_keras.Sequential(
            [
                tf_keras.Input((8, 8, 1)),
                layers.Conv2D(4, 3, use_bias=False),
                layers.BatchNormalization(momentum=0.9),
                layers.ReLU(),
                layers.MaxPooling2D(),
                layers.SeparableConv2D(4, 2),
                layers.AveragePooling2D(),
                layers.Flatten(),
                layers.Dense(4),
                layers.BatchNormalization(),
                layers.Dense(2),
            ]
        )
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        m.compile(tf_keras.optimizers.SGD(0.05), loss, metrics=["accuracy"])
        return m

    return {"model": model, "dataset": lambda: images(33), "validation": lambda: images(17)}


@case("BatchNormalization(virtual_batch_size=8)", "tf_keras: layers", batch=16,
      refused="virtual_batch_size", full=True)  # fmt: skip
def tfk_virtual_batches() -> dict[str, Any]:
    def layers() -> Any:
        from tf_keras.src.layers.normalization import batch_normalization_v1 as v1

        return [v1.BatchNormalization(virtual_batch_size=8, fused=False)]

    return basic(model=dense(layers=layers))


@case("dropout", "tf_keras: layers", batch=16, random=True, warns="random-layer", full=True)
def tfk_dropout() -> dict[str, Any]:
    def layers() -> Any:
        import tf_keras

        return [tf_keras.layers.Dense(8), tf_keras.layers.Dropout(0.3)]

    return basic(model=dense(layers=layers))


@case("a Lambda that takes the mean of the batch", "tf_keras: layers", batch=16, random=True,
      full=True, warns="coupled-step",
      why="it sees the examples of one worker, of which a warning tells")  # fmt: skip
def tfk_centers() -> dict[str, Any]:
    def layers() -> Any:
        import tensorflow as tf
        import tf_keras

        centered = tf_keras.layers.Lambda(lambda x: x - tf.reduce_mean(x, axis=0))
        return [tf_keras.layers.Dense(8), centered]

    return basic(model=dense(layers=layers))


@case("Normalization, adapted in model()", "tf_keras: layers", batch=16, full=True)
def tfk_normalization() -> dict[str, Any]:
    def layers() -> Any:
        import tf_keras

        normalization = tf_keras.layers.Normalization()
        normalization.adapt(xy(49)[0])
        return [normalization, tf_keras.layers.Dense(8)]

    return basic(model=dense(layers=layers))


# -- training steps and metrics -------------------------------------------------------------------


def with_step(make: Callable[[], type], **options: Any) -> Callable[[], Any]:
    """Return a `model()` of a class with a step of its own."""

    def model() -> Any:
        import tf_keras

        inputs = tf_keras.Input((6,))
        hidden = tf_keras.layers.Dense(8, activation="tanh")(inputs)
        m = make()(inputs, tf_keras.layers.Dense(3)(hidden))
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        m.compile("adam", loss, metrics=["accuracy"], **options)
        return m

    return model


@case("train_step with compiled_loss and compiled_metrics", "tf_keras: training steps", batch=16,
      full=True)  # fmt: skip
def tfk_step_compiled() -> dict[str, Any]:
    def make() -> type:
        import tensorflow as tf
        import tf_keras

        class Model(tf_keras.Model):
            def train_step(self, data: Any) -> Any:
                x, y = data
                with tf.GradientTape() as tape:
                    p = self(x, training=True)
                    loss = self.compiled_loss(y, p, regularization_losses=self.losses)
                grads = tape.gradient(loss, self.trainable_variables)
                self.optimizer.apply_gradients(zip(grads, self.trainable_variables, strict=True))
                self.compiled_metrics.update_state(y, p)
                return {m.name: m.result() for m in self.metrics}

        return Model

    return basic(model=with_step(make))


@case("train_step with tf.reduce_mean, a metric and a loss of its own, clipped by hand",
      "tf_keras: training steps", batch=16)  # fmt: skip
def tfk_step_own() -> dict[str, Any]:
    def make() -> type:
        import tensorflow as tf
        import tf_keras

        class Model(tf_keras.Model):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self.tracker = tf_keras.metrics.Mean(name="own")
                self.own_loss = tf_keras.losses.MeanSquaredError()

            @property
            def metrics(self) -> Any:
                return [self.tracker]

            def train_step(self, data: Any) -> Any:
                x, y = data
                with tf.GradientTape() as tape:
                    p = self(x, training=True)
                    target = tf.one_hot(tf.cast(y, "int32"), 3)
                    loss = tf.reduce_mean(tf.square(p - target)) + self.own_loss(target, p)
                grads = tape.gradient(loss, self.trainable_variables)
                grads, norm = tf.clip_by_global_norm(grads, 0.5)
                self.optimizer.apply_gradients(zip(grads, self.trainable_variables, strict=True))
                self.tracker.update_state(loss)
                return {"own": self.tracker.result(), "batch": loss, "norm": norm}

            def test_step(self, data: Any) -> Any:
                x, y = data
                p = self(x, training=False)
                loss = tf.reduce_mean(tf.square(p - tf.one_hot(tf.cast(y, "int32"), 3)))
                self.tracker.update_state(loss)
                return {"own": self.tracker.result()}

        return Model

    return basic(model=with_step(make))


@case("train_step with metrics that sum: its steps, its examples", "tf_keras: training steps",
      batch=16, full=True)  # fmt: skip
def tfk_step_counts() -> dict[str, Any]:
    def model() -> Any:
        import tf_keras

        inputs = tf_keras.Input((6,))
        outputs = tf_keras.layers.Dense(3)(inputs)
        m = counting_step(tf_keras, by_metric=True)(inputs, outputs)
        m.compile("sgd")
        return m

    return basic(model=model, validation=None)


@case("a GAN: two optimizers, two metrics", "tf_keras: training steps", batch=16, full=True)
def tfk_gan() -> dict[str, Any]:
    def model() -> Any:
        import tensorflow as tf
        import tf_keras

        class Gan(tf_keras.Model):
            def __init__(self) -> None:
                super().__init__()
                dense = tf_keras.layers.Dense
                self.judge = tf_keras.Sequential([tf_keras.Input((6,)), dense(4), dense(1)])
                self.maker = tf_keras.Sequential([tf_keras.Input((2,)), dense(6)])
                self.judge_loss = tf_keras.metrics.Mean(name="judge")
                self.maker_loss = tf_keras.metrics.Mean(name="maker")

            def compile(self, judge: Any, maker: Any) -> None:
                super().compile()
                self.judge_optimizer, self.maker_optimizer = judge, maker

            def train_step(self, data: Any) -> Any:
                x, _ = data
                own = tf_keras.losses.binary_crossentropy
                noise = x[:, :2]
                with tf.GradientTape() as tape:
                    real, fake = self.judge(x), self.judge(self.maker(noise))
                    loss = tf.reduce_mean(own(tf.ones_like(real), real, from_logits=True))
                    loss += tf.reduce_mean(own(tf.zeros_like(fake), fake, from_logits=True))
                weights = self.judge.trainable_weights
                grads = tape.gradient(loss, weights)
                self.judge_optimizer.apply_gradients(zip(grads, weights, strict=True))
                self.judge_loss.update_state(loss)
                with tf.GradientTape() as tape:
                    fake = self.judge(self.maker(noise))
                    loss = tf.reduce_mean(own(tf.ones_like(fake), fake, from_logits=True))
                weights = self.maker.trainable_weights
                grads = tape.gradient(loss, weights)
                self.maker_optimizer.apply_gradients(zip(grads, weights, strict=True))
                self.maker_loss.update_state(loss)
                return {"judge": self.judge_loss.result(), "maker": self.maker_loss.result()}

        m = Gan()
        m.compile(tf_keras.optimizers.Adam(0.01), tf_keras.optimizers.Adam(0.01))
        return m

    return {"model": model, "dataset": lambda: xy(49), "validation": None}


@case("a model that model() has fitted already (a second fit)", "tf_keras: training steps",
      batch=16, full=True)  # fmt: skip
def tfk_second_fit() -> dict[str, Any]:
    return basic(model=fitted_before(dense()))


@case("predict and evaluate in model(), before training", "tf_keras: training steps", batch=16,
      full=True)  # fmt: skip
def tfk_predicts_first() -> dict[str, Any]:
    return basic(model=predicted_before(dense()))


@case("steps_per_execution=3", "tf_keras: training steps", batch=16, full=True)
def tfk_steps_per_execution() -> dict[str, Any]:
    return basic(model=dense(steps_per_execution=3))


@case("run_eagerly", "tf_keras: training steps", batch=16, full=True)
def tfk_run_eagerly() -> dict[str, Any]:
    return basic(model=dense(run_eagerly=True))


@case("compile(jit_compile=True)", "tf_keras: training steps", batch=16, refused="jit_compile",
      full=True)  # fmt: skip
def tfk_jit() -> dict[str, Any]:
    return basic(model=dense(jit_compile=True))


@case("a subclassed model that is not built", "tf_keras: training steps", batch=16, full=True)
def tfk_subclassed() -> dict[str, Any]:
    def model() -> Any:
        import tf_keras

        class Net(tf_keras.Model):
            def __init__(self) -> None:
                super().__init__()
                self.hidden = tf_keras.layers.Dense(8, use_bias=False)
                self.norm = tf_keras.layers.BatchNormalization()
                self.out = tf_keras.layers.Dense(3)

            def call(self, x: Any, training: Any = None) -> Any:
                return self.out(self.norm(self.hidden(x), training=training))

        m = Net()
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        m.compile("adam", loss, metrics=["accuracy"])
        return m

    return basic(model=model)


@case("metrics: stock ones, functions, a class of one's own", "tf_keras: training steps", batch=16,
      full=True)  # fmt: skip
def tfk_metrics() -> dict[str, Any]:
    def metrics() -> Any:
        import tensorflow as tf
        import tf_keras

        class Largest(tf_keras.metrics.Metric):
            def __init__(self) -> None:
                super().__init__(name="largest")
                self.value = self.add_weight(name="value", initializer="zeros")

            def update_state(self, y: Any, p: Any, sample_weight: Any = None) -> None:
                self.value.assign(tf.maximum(self.value, tf.reduce_max(p)))

            def result(self) -> Any:
                return tf.identity(self.value)

        def spread(y: Any, p: Any) -> Any:
            return tf.reduce_max(p) - tf.reduce_min(p)

        def first(y: Any, p: Any) -> Any:
            return p[:, 0]

        return [
            "accuracy", Largest(), spread, first,
            tf_keras.metrics.SparseTopKCategoricalAccuracy(2),
        ]  # fmt: skip

    return basic(model=dense(metrics=metrics))


# -- callbacks ------------------------------------------------------------------------------------


@case("EarlyStopping with restore_best_weights, ReduceLROnPlateau, LearningRateScheduler",
      "tf_keras: callbacks", batch=16, epochs=5, full=True)  # fmt: skip
def tfk_early_stopping() -> dict[str, Any]:
    def callbacks() -> Any:
        import tf_keras

        known = tf_keras.callbacks
        return [
            known.EarlyStopping("val_loss", min_delta=0.02, patience=1, restore_best_weights=True),
            known.ReduceLROnPlateau("loss", min_delta=0.1, patience=1),
            known.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
        ]

    return basic(callbacks=callbacks)


@case("a callback that predicts, evaluates and looks at batches; ModelCheckpoint",
      "tf_keras: callbacks", batch=16, full=True)  # fmt: skip
def tfk_callback_watches() -> dict[str, Any]:
    def callbacks() -> Any:
        import tempfile

        import tf_keras

        class Watch(tf_keras.callbacks.Callback):
            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                self.seen = getattr(self, "seen", 0.0) + float(logs["loss"])

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                x, y = xy(21, seed=3)
                logs["seen"] = self.seen
                logs["predicted"] = float(np.square(self.model.predict(x, verbose=0)).sum())
                logs["rows"] = len(self.model.predict(x, verbose=0, batch_size=5))
                logs["elsewhere"] = self.model.evaluate(x, y, verbose=0)[0]

        path = tempfile.mkdtemp() + "/best.keras"
        return [Watch(), tf_keras.callbacks.ModelCheckpoint(path, save_best_only=True)]

    return basic(callbacks=callbacks)


@case("BackupAndRestore", "tf_keras: callbacks", batch=16, refused="BackupAndRestore", full=True)
def tfk_backup() -> dict[str, Any]:
    def callbacks() -> Any:
        import tf_keras

        return [tf_keras.callbacks.BackupAndRestore("backup")]

    return basic(callbacks=callbacks)
