"""The forms of the matrix, written as a user writes them: plain Keras, no thought of nbtrain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

CASES: dict[str, Case] = {}


@dataclass(frozen=True)
class Case:
    """One form.

    `tolerance` is the largest difference of a weight or a history value; where it is more than
    1e-6, `why` says the reason. `random` forms (dropout) are compared between workers alone.
    `refused` is a pattern that the refusal must match. `full` cases run where CI is set.
    `holds` is told the workers' variables and history, and says whether they show what the title
    promises (that a gradient overflowed, that the workers drew apart).
    """

    name: str
    title: str
    family: str
    functions: Callable[[], dict[str, Any]]
    epochs: int = 2
    batch: int | None = None
    seed: int = 5
    fit: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-6
    why: str = ""
    random: bool = False
    refused: str = ""
    full: bool = False
    warns: str = ""
    shard: str = "example"
    holds: Callable[[dict[str, Any], dict[str, list[float]]], bool] | None = None


def case(title: str, family: str, **options: Any) -> Callable[[Callable[[], dict[str, Any]]], Any]:
    """Register a function that returns the case's functions by role."""

    def register(function: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        name = function.__name__
        CASES[name] = Case(name, title, family, function, **options)
        return function

    return register


def xy(n: int = 49, d: int = 6, classes: int = 3, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype("float32")
    return x, (np.abs(x[:, :classes]).argmax(axis=1)).astype("int32")


def dense(
    optimizer: Any = "adam", loss: Any = None, metrics: Any = ("accuracy",), layers: Any = None,
    **options: Any,
) -> Callable[[], Any]:  # fmt: skip
    """Return a `model()` of a small dense network."""

    def model() -> Any:
        import keras

        made = optimizer() if callable(optimizer) else optimizer
        hidden = layers() if layers else [keras.layers.Dense(8, activation="tanh")]
        m = keras.Sequential([keras.Input((6,)), *hidden, keras.layers.Dense(3)])
        chosen = loss() if callable(loss) else loss
        chosen = chosen or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        m.compile(made, chosen, metrics=list(metrics), **options)
        return m

    return model


def basic(**changes: Any) -> dict[str, Any]:
    return {"model": dense(), "dataset": xy, "validation": lambda: xy(23, seed=1), **changes}


# -- shards ---------------------------------------------------------------------------------------

for _n in range(48, 65):

    @case(f"{_n} examples in batches of 16", "last batches", batch=16, full=_n not in (48, 49, 57))
    def _rest(n: int = _n) -> dict[str, Any]:
        return basic(dataset=lambda: xy(n))

    CASES[f"rest_{_n - 48}"] = Case(
        f"rest_{_n - 48}", f"{_n} examples in batches of 16", "last batches", _rest, batch=16,
        full=_n not in (48, 49, 57),
    )  # fmt: skip
    CASES.pop("_rest")


@case("a convolution, one example in the last batch", "last batches", batch=16, epochs=2)
def empty_shard_of_a_convolution() -> dict[str, Any]:
    return {"model": convolutional, "dataset": lambda: images(17), "validation": lambda: images(3)}


# -- data -----------------------------------------------------------------------------------------


@case("arrays with the default batch", "data")
def arrays_default_batch() -> dict[str, Any]:
    return basic(dataset=lambda: xy(70))


@case("arrays, shuffle off", "data", batch=16, fit={"shuffle": False}, full=True)
def arrays_in_order() -> dict[str, Any]:
    return basic()


@case("validation_split", "data", batch=16, fit={"validation_split": 0.3}, full=True)
def validation_split() -> dict[str, Any]:
    return basic(validation=None)


@case("class_weight", "data", batch=16, fit={"class_weight": {0: 1.0, 1: 3.0, 2: 0.5}})
def class_weight() -> dict[str, Any]:
    return basic()


@case("sample weights and weighted metrics", "data", batch=16)
def sample_weight() -> dict[str, Any]:
    def dataset() -> Any:
        x, y = xy()
        return x, y, np.linspace(0, 2, len(x)).astype("float32")

    return basic(model=dense(metrics=(), weighted_metrics=["accuracy"]), dataset=dataset)


@case("tf.data, shuffled with no seed", "data")
def dataset_shuffled() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(xy()).shuffle(50).batch(16)

    return basic(dataset=dataset)


@case("tf.data: cache, map, shuffle, batch, prefetch", "data", full=True)
def dataset_cached() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices(xy()).cache().map(lambda x, y: (x * 2, y))
        return data.shuffle(20, seed=3).batch(16).prefetch(2)

    return basic(dataset=dataset)


@case("tf.data: repeat with steps_per_epoch", "data", fit={"steps_per_epoch": 3})
def dataset_repeated() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(xy()).shuffle(50, seed=1).repeat().batch(16)

    return basic(dataset=dataset)


@case("tf.data: drop_remainder", "data", full=True)
def dataset_drop_remainder() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(xy()).batch(16, drop_remainder=True)

    return basic(dataset=dataset)


@case("tf.data: from_generator", "data", full=True)
def dataset_from_generator() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        x, y = xy()
        spec = (tf.TensorSpec((6,), "float32"), tf.TensorSpec((), "int32"))
        made = tf.data.Dataset.from_generator(
            lambda: iter(zip(x, y, strict=True)), output_signature=spec
        )
        return made.batch(16)

    return basic(dataset=dataset)


@case("TFRecord files (3 files)", "data")
def tfrecords() -> dict[str, Any]:
    return _tfrecords(3)


@case("TFRecord files (1 file)", "data", full=True)
def tfrecords_1() -> dict[str, Any]:
    return _tfrecords(1)


@case("TFRecord files (4 files, interleaved)", "data", full=True)
def tfrecords_4() -> dict[str, Any]:
    return _tfrecords(4)


@case("--shard file: an epoch of one step is the same", "data", shard="file", full=True)
def shard_file() -> dict[str, Any]:
    return _tfrecords(4, batch=64)


@case("--shard file: 3 files on 2 workers", "data", shard="file", refused="3 files", full=True)
def shard_3_files() -> dict[str, Any]:
    return _tfrecords(3)


@case("--shard file: arrays", "data", shard="file", batch=16, refused="tf.data", full=True)
def shard_arrays() -> dict[str, Any]:
    return basic()


@case("TFRecord files (3 files, shuffled)", "data", full=True)
def tfrecords_shuffled() -> dict[str, Any]:
    return _tfrecords(3, shuffle=20)


def _tfrecords(count: int, batch: int = 16, shuffle: int = 0) -> dict[str, Any]:
    def dataset() -> Any:
        import tempfile

        import tensorflow as tf

        folder = tempfile.mkdtemp()
        x, y = xy(49)
        paths = [f"{folder}/{i}.tfrecord" for i in range(count)]
        for i, path in enumerate(paths):
            with tf.io.TFRecordWriter(path) as writer:
                for row, label in zip(x[i::count], y[i::count], strict=True):
                    writer.write(row.tobytes() + np.int32(label).tobytes())

        def parse(record: Any) -> Any:
            raw = tf.io.decode_raw(record, tf.uint8)
            row = tf.reshape(tf.io.decode_raw(tf.strings.substr(record, 0, 24), "float32"), [6])
            del raw
            label = tf.io.decode_raw(tf.strings.substr(record, 24, 4), "int32")[0]
            return row, label

        files = tf.data.Dataset.from_tensor_slices(paths)
        data = files.interleave(tf.data.TFRecordDataset, cycle_length=2).map(parse)
        return (data.shuffle(shuffle) if shuffle else data).batch(batch)

    return basic(dataset=dataset)


@case("keras PyDataset", "data")
def py_dataset() -> dict[str, Any]:
    def dataset() -> Any:
        import keras

        class Batches(keras.utils.PyDataset):
            def __init__(self) -> None:
                super().__init__()
                self.x, self.y = xy()

            def __len__(self) -> int:
                return 4

            def __getitem__(self, i: int) -> Any:
                return self.x[i * 16 : i * 16 + 16], self.y[i * 16 : i * 16 + 16]

        return Batches()

    return basic(dataset=dataset, fit=None) | {"validation": lambda: xy(23, seed=1)}


@case("a generator of batches", "data", fit={"steps_per_epoch": 3}, full=True)
def generator() -> dict[str, Any]:
    def dataset() -> Any:
        x, y = xy()
        while True:
            for i in range(0, len(x), 16):
                yield x[i : i + 16], y[i : i + 16]

    return basic(dataset=dataset)


@case("a dict of arrays, several inputs and outputs, loss_weights", "data", batch=16)
def several_inputs_and_outputs() -> dict[str, Any]:
    def model() -> Any:
        import keras

        a, b = keras.Input((6,), name="a"), keras.Input((2,), name="b")
        joined = keras.layers.Concatenate()([keras.layers.Dense(5, activation="relu")(a), b])
        outputs = {
            "kind": keras.layers.Dense(3, activation="softmax", name="kind")(joined),
            "size": keras.layers.Dense(1, name="size")(joined),
        }
        m = keras.Model({"a": a, "b": b}, outputs)
        m.compile(
            "adam",
            {"kind": "sparse_categorical_crossentropy", "size": "mse"},
            metrics={"kind": ["accuracy"], "size": ["mae"]},
            loss_weights={"kind": 1.0, "size": 0.3},
        )
        return m

    def dataset() -> Any:
        x, y = xy()
        return {"a": x, "b": x[:, :2]}, {"kind": y, "size": x[:, :1]}

    return {"model": model, "dataset": dataset, "validation": None}


@case("pandas DataFrames", "data", batch=16, full=True)
def dataframes() -> dict[str, Any]:
    def dataset() -> Any:
        import pandas as pd

        x, y = xy()
        return pd.DataFrame(x), pd.Series(y)

    return basic(dataset=dataset)


# -- losses ---------------------------------------------------------------------------------------


@case("reduction='sum'", "losses", batch=16, tolerance=5e-6, why="sums are 16 times as large")
def loss_sum() -> dict[str, Any]:
    def loss() -> Any:
        import keras

        return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")

    return basic(model=dense(optimizer="sgd", loss=loss))


@case("a custom loss, one value for an example", "losses", batch=16)
def loss_per_example() -> dict[str, Any]:
    def loss() -> Any:
        import keras

        return lambda y, p: keras.ops.mean(keras.ops.square(p - keras.ops.one_hot(y, 3)), -1)

    return basic(model=dense(loss=loss, metrics=()))


@case("a custom loss that returns a scalar", "losses", batch=16)
def loss_scalar() -> dict[str, Any]:
    def loss() -> Any:
        import tensorflow as tf

        return lambda y, p: tf.reduce_mean(tf.square(p - tf.one_hot(tf.cast(y, "int32"), 3)))

    return basic(model=dense(loss=loss, metrics=()))


@case("mean_with_sample_weight", "losses", batch=16, full=True)
def loss_mean_with_sample_weight() -> dict[str, Any]:
    def loss() -> Any:
        import keras

        return keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        )

    return sample_weight() | {"model": dense(loss=loss)}


@case("ignore_class", "losses", batch=16, full=True)
def loss_ignore_class() -> dict[str, Any]:
    def loss() -> Any:
        import keras

        return keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1)

    return basic(model=dense(loss=loss))


for _loss in ("mse", "mae", "huber", "log_cosh", "hinge", "poisson", "cosine_similarity"):

    def _of(name: str = _loss) -> dict[str, Any]:
        def dataset() -> Any:
            x, _ = xy()
            return x, np.abs(x[:, :3])

        return {"model": dense(loss=name, metrics=("mse",)), "dataset": dataset}

    CASES[f"loss_{_loss}"] = Case(
        f"loss_{_loss}", f"loss {_loss}", "losses", _of, batch=16, full=_loss != "huber",
        tolerance=5e-6 if _loss == "poisson" else 1e-6,
        why="it divides by outputs, which may be small" if _loss == "poisson" else "",
    )  # fmt: skip


@case("Circle", "losses", batch=16, tolerance=1e-5, why="losses of hundreds")
def loss_circle() -> dict[str, Any]:
    def loss() -> Any:
        import keras

        return keras.losses.Circle()

    return basic(model=dense(loss=loss, metrics=()))


@case("Dice over the whole batch", "losses", batch=16)
def loss_dice() -> dict[str, Any]:
    def loss() -> Any:
        import keras

        return keras.losses.Dice()

    def dataset() -> Any:
        x, y = xy(49)
        return x, np.eye(3, dtype="float32")[y]

    return {"model": dense(loss=loss, metrics=()), "dataset": dataset, "validation": dataset}


@case("reduction=None", "losses", batch=16, tolerance=1e-5, why="gradients are sums")
def loss_none() -> dict[str, Any]:
    def loss() -> Any:
        import keras

        return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)

    return basic(model=dense(loss=loss, metrics=()))


@case("add_loss, activity and weight regularizers", "losses", batch=16)
def added_losses() -> dict[str, Any]:
    def layers() -> Any:
        import keras

        class Penalty(keras.layers.Layer):
            def call(self, x: Any) -> Any:
                self.add_loss(0.1 * keras.ops.mean(keras.ops.square(x)))
                return x

        return [
            keras.layers.Dense(8, activity_regularizer="l2", kernel_regularizer="l1"),
            Penalty(),
        ]

    return basic(model=dense(layers=layers))


# -- steps ----------------------------------------------------------------------------------------


def _custom(step: Callable[[Any], Any], metrics: Any = ("accuracy",)) -> Callable[[], Any]:
    def model() -> Any:
        import keras

        base = step(keras)
        inputs = keras.Input((6,))
        hidden = keras.layers.Dense(8, activation="tanh")(inputs)
        m = base(inputs, keras.layers.Dense(3)(hidden))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        m.compile("adam", loss, metrics=list(metrics))
        return m

    return model


@case("train_step with the compiled loss", "training steps", batch=16)
def step_compiled_loss() -> dict[str, Any]:
    def step(keras: Any) -> Any:
        import tensorflow as tf

        class Custom(keras.Model):
            def train_step(self, data: Any) -> Any:
                x, y = data
                with tf.GradientTape() as tape:
                    p = self(x, training=True)
                    loss = self.compute_loss(y=y, y_pred=p)
                grads = tape.gradient(loss, self.trainable_variables)
                self.optimizer.apply_gradients(zip(grads, self.trainable_variables, strict=True))
                for metric in self.metrics:
                    if metric.name == "loss":
                        metric.update_state(loss)
                    else:
                        metric.update_state(y, p)
                return {m.name: m.result() for m in self.metrics}

        return Custom

    return basic(model=_custom(step))


@case("train_step with tf.reduce_mean and a metric of its own", "training steps", batch=16)
def step_reduce_mean() -> dict[str, Any]:
    def step(keras: Any) -> Any:
        import tensorflow as tf

        class Custom(keras.Model):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                self.tracker = keras.metrics.Mean(name="error")

            @property
            def metrics(self) -> Any:
                return [self.tracker]

            def train_step(self, data: Any) -> Any:
                x, y = data
                with tf.GradientTape() as tape:
                    p = self(x, training=True)
                    loss = tf.reduce_mean(tf.square(p - tf.one_hot(y, 3)))
                grads = tape.gradient(loss, self.trainable_variables)
                self.optimizer.apply_gradients(zip(grads, self.trainable_variables, strict=True))
                self.tracker.update_state(loss)
                return {"error": self.tracker.result()}

        return Custom

    return basic(model=_custom(step), validation=None)


@case("a GAN: two optimizers, two metrics", "training steps", batch=16, epochs=3)
def gan() -> dict[str, Any]:
    return {"model": gan_model, "dataset": lambda: xy()[0], "validation": None}


def gan_model(*, draws: bool = False) -> Any:
    import keras
    import tensorflow as tf

    class Gan(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            layers = keras.layers
            self.generator = keras.Sequential([keras.Input((4,)), layers.Dense(6)])
            self.critic = keras.Sequential([keras.Input((6,)), layers.Dense(1)])
            self.g_error = keras.metrics.Mean(name="g")
            self.d_error = keras.metrics.Mean(name="d")

        @property
        def metrics(self) -> Any:
            return [self.g_error, self.d_error]

        def compile(self, d: Any, g: Any) -> None:
            super().compile()
            self.d, self.g = d, g
            d.build(self.critic.trainable_variables)
            g.build(self.generator.trainable_variables)

        def call(self, x: Any) -> Any:
            return self.critic(x)

        def train_step(self, real: Any) -> Any:
            bce = keras.losses.BinaryCrossentropy(from_logits=True)
            noise = tf.random.normal((tf.shape(real)[0], 4)) if draws else real[:, :4] * 0.5
            with tf.GradientTape() as tape:
                fake, true = self.critic(self.generator(noise)), self.critic(real)
                d_loss = bce(tf.ones_like(true), true) + bce(tf.zeros_like(fake), fake)
            variables = self.critic.trainable_variables
            self.d.apply_gradients(zip(tape.gradient(d_loss, variables), variables, strict=True))
            with tf.GradientTape() as tape:
                fake = self.critic(self.generator(noise))
                g_loss = bce(tf.ones_like(fake), fake)
            variables = self.generator.trainable_variables
            self.g.apply_gradients(zip(tape.gradient(g_loss, variables), variables, strict=True))
            self.g_error.update_state(g_loss)
            self.d_error.update_state(d_loss)
            return {m.name: m.result() for m in self.metrics}

    gan = Gan()
    gan.compile(keras.optimizers.Adam(0.01), keras.optimizers.Adam(0.01))
    return gan


@case("steps_per_execution=3", "training steps", batch=8)
def steps_per_execution() -> dict[str, Any]:
    return basic(model=dense(steps_per_execution=3))


@case("run_eagerly", "training steps", batch=16)
def run_eagerly() -> dict[str, Any]:
    return basic(model=dense(run_eagerly=True), dataset=lambda: xy(49))


# -- optimizers -----------------------------------------------------------------------------------

_OPTIMIZERS = [
    "SGD",
    "RMSprop",
    "Adam",
    "AdamW",
    "Adagrad",
    "Adadelta",
    "Adamax",
    "Nadam",
    "Ftrl",
    "Lion",
    "Adafactor",
    "Lamb",
    "Muon",
]
_AMPLIFY = ("Lamb", "Muon", "Adadelta", "Ftrl")
for _name in _OPTIMIZERS:

    def _with(name: str = _name) -> dict[str, Any]:
        def optimizer() -> Any:
            import keras

            return getattr(keras.optimizers, name)(0.01)

        return basic(model=dense(optimizer=optimizer))

    CASES[f"optimizer_{_name}"] = Case(
        f"optimizer_{_name}", f"optimizer {_name}", "optimizers", _with, batch=16, epochs=3,
        full=_name not in ("SGD", "AdamW"),
        tolerance=1e-5 if _name in _AMPLIFY else 1e-6,
        why="a norm or an iteration amplifies the rounding" if _name in _AMPLIFY else "",
    )  # fmt: skip

_CHANGES: dict[str, dict[str, Any]] = {
    "clipnorm": {"clipnorm": 0.1},
    "global_clipnorm": {"global_clipnorm": 0.1},
    "clipvalue": {"clipvalue": 0.01},
    "weight_decay": {"weight_decay": 0.01},
    "momentum": {"momentum": 0.9, "nesterov": True},
    "ema": {"use_ema": True, "ema_momentum": 0.9},
    "ema_overwrite": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 2},
    "accumulation": {"gradient_accumulation_steps": 2},
    "accumulation_and_clipping": {"gradient_accumulation_steps": 2, "global_clipnorm": 0.1},
}
for _name, _options in _CHANGES.items():

    def _changed(options: dict[str, Any] = _options) -> dict[str, Any]:
        def optimizer() -> Any:
            import keras

            return keras.optimizers.SGD(0.1, **options)

        return basic(model=dense(optimizer=optimizer))

    CASES[f"sgd_{_name}"] = Case(
        f"sgd_{_name}", f"SGD with {_name.replace('_', ' ')}", "optimizers", _changed, batch=16,
        full=_name not in ("global_clipnorm", "accumulation_and_clipping", "ema_overwrite"),
    )  # fmt: skip


@case("a learning rate schedule", "optimizers", batch=16, full=True)
def schedule() -> dict[str, Any]:
    def optimizer() -> Any:
        import keras

        return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, 10))

    return basic(model=dense(optimizer=optimizer))


@case(
    "mixed_float16 with its loss scale", "optimizers", batch=16, tolerance=2e-3,
    why="float16 rounds each shard's gradients to 11 bits",
)  # fmt: skip
def mixed_float16() -> dict[str, Any]:
    return basic(model=_mixed())


def scale_fell(variables: dict[str, Any], history: dict[str, list[float]]) -> bool:
    """Tell whether the loss scale, 2**15 at first, was halved once or twice; no loss overflowed."""
    scales = [v for v in variables.values() if v.shape == () and v in (2.0**14, 2.0**13)]
    return len(scales) == 1 and bool(np.isfinite(history["loss"]).all())


@case(
    "mixed_float16, an overflow on one worker", "optimizers", batch=16, tolerance=2e-3,
    why="float16 rounds each shard's gradients to 11 bits", fit={"shuffle": False},
    holds=scale_fell,
)  # fmt: skip
def mixed_float16_overflow() -> dict[str, Any]:
    def dataset() -> Any:
        x, y = xy()
        x[20] = 1000.0  # in the second batch, on the first worker: its gradient is no float16
        return x, y

    return basic(model=_mixed("relu"), dataset=dataset, validation=None)


def _mixed(activation: str = "tanh") -> Callable[[], Any]:
    def model() -> Any:
        import keras

        keras.config.set_dtype_policy("mixed_float16")
        hidden = keras.layers.Dense(8, activation=activation)
        m = keras.Sequential([keras.Input((6,)), hidden, keras.layers.Dense(3, dtype="float32")])
        m.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return m

    return model


@case(
    "float64", "optimizers", batch=16, tolerance=1e-12, full=True,
    why="the same sums, rounded nine digits later",
)  # fmt: skip
def float64() -> dict[str, Any]:
    def model() -> Any:
        import keras

        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        return dense()()

    def dataset() -> Any:
        x, y = xy(49)
        return x.astype("float64"), y

    return {"model": model, "dataset": dataset, "validation": None}


# -- layers and models ----------------------------------------------------------------------------


def images(n: int = 25) -> tuple[Any, Any]:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(n, 8, 8, 1)).astype("float32")
    return x, (x.mean(axis=(1, 2, 3)) > 0).astype("int32")


def convolutional() -> Any:
    import keras

    layers = keras.layers
    m = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.SeparableConv2D(4, 2),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2),
        ]
    )
    m.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return m


@case("a convolutional network", "models", batch=16)
def conv() -> dict[str, Any]:
    return {"model": convolutional, "dataset": images, "validation": lambda: images(9)}


def _norm(**options: Any) -> Callable[[], Any]:
    def layers() -> Any:
        import keras

        # No bias: BatchNormalization takes it out again, so its gradient is nothing but rounding,
        # which Adam makes as large as the others.
        hidden = keras.layers.Dense(8, use_bias=False)
        return [hidden, keras.layers.BatchNormalization(momentum=0.8, **options)]

    return dense(layers=layers)


@case("BatchNormalization", "layers", batch=16)
def batch_normalization() -> dict[str, Any]:
    return basic(model=_norm())


@case("BatchNormalization, one example in the last batch", "layers", batch=16)
def batch_normalization_uneven() -> dict[str, Any]:
    return basic(model=_norm(), dataset=lambda: xy(49))


@case(
    "BatchNormalization(synchronized=True)", "layers", batch=16, full=True, tolerance=3e-6,
    why="its variance, summed in parts",
)  # fmt: skip
def batch_normalization_synchronized() -> dict[str, Any]:
    return basic(model=_norm(synchronized=True))


@case("dropout", "layers", batch=16, random=True, warns="random-layer")
def dropout() -> dict[str, Any]:
    def layers() -> Any:
        import keras

        return [keras.layers.Dense(8), keras.layers.Dropout(0.5), keras.layers.GaussianNoise(0.1)]

    return basic(model=dense(layers=layers))


@case("LayerNormalization, GroupNormalization, SpectralNormalization", "layers", batch=16,
      full=True, tolerance=3e-6, why="a power iteration")  # fmt: skip
def other_normalizations() -> dict[str, Any]:
    def layers() -> Any:
        import keras

        return [
            keras.layers.SpectralNormalization(keras.layers.Dense(8)),
            keras.layers.LayerNormalization(),
            keras.layers.GroupNormalization(2),
        ]

    return basic(model=dense(layers=layers))


@case("Normalization, adapted in model()", "layers", batch=16)
def adapted() -> dict[str, Any]:
    def layers() -> Any:
        import keras

        norm = keras.layers.Normalization()
        norm.adapt(xy()[0])
        return [norm, keras.layers.Dense(8)]

    return basic(model=dense(layers=layers))


def words(n: int = 41) -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    x = rng.integers(1, 20, size=(n, 7))
    x[:, 5:] *= rng.integers(0, 2, size=(n, 2))
    return x.astype("int32"), (x[:, 0] > 10).astype("float32")


@case("an LSTM over masked embeddings", "models", batch=16)
def lstm() -> dict[str, Any]:
    def model() -> Any:
        import keras

        layers = keras.layers
        m = keras.Sequential(
            [
                keras.Input((7,), dtype="int32"),
                layers.Embedding(20, 4, mask_zero=True),
                layers.LSTM(5),
                layers.Dense(1),
            ]
        )
        m.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
        return m

    return {"model": model, "dataset": words, "validation": lambda: words(11)}


@case("a loss for each time step, masked", "models", batch=16)
def masked_sequence_loss() -> dict[str, Any]:
    def model() -> Any:
        import keras

        layers = keras.layers
        m = keras.Sequential(
            [
                keras.Input((7,), dtype="int32"),
                layers.Embedding(20, 4, mask_zero=True),
                layers.GRU(5, return_sequences=True),
                layers.Dense(3),
            ]
        )
        m.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return m

    def dataset() -> Any:
        x, _ = words()
        return x, x % 3

    return {"model": model, "dataset": dataset, "validation": None}


@case("a transformer block", "models", batch=16)
def transformer() -> dict[str, Any]:
    def model() -> Any:
        import keras

        layers = keras.layers
        inputs = keras.Input((7,), dtype="int32")
        x = layers.Embedding(20, 8)(inputs)
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
        x = layers.GlobalAveragePooling1D()(x)
        m = keras.Model(inputs, layers.Dense(1)(x))
        m.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True), metrics=["AUC"])
        return m

    return {"model": model, "dataset": words, "validation": lambda: words(11)}


@case("an autoencoder", "models", batch=16, full=True)
def autoencoder() -> dict[str, Any]:
    def model() -> Any:
        import keras

        layers = [keras.layers.Dense(3, activation="relu"), keras.layers.Dense(6)]
        m = keras.Sequential([keras.Input((6,)), *layers])
        m.compile("adam", "mse")
        return m

    def dataset() -> Any:
        x, _ = xy()
        return x, x

    return {"model": model, "dataset": dataset, "validation": None}


@case("a subclassed model that is not built", "models", batch=16)
def subclassed() -> dict[str, Any]:
    def model() -> Any:
        import keras

        class Net(keras.Model):
            def __init__(self) -> None:
                super().__init__()
                self.one, self.two = keras.layers.Dense(8, "relu"), keras.layers.Dense(3)

            def call(self, x: Any) -> Any:
                return self.two(self.one(x))

        m = Net()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        m.compile("adam", loss, metrics=["accuracy"])
        return m

    return basic(model=model)


@case("a Sequential model with no Input", "models", batch=16, full=True)
def unbuilt_sequential() -> dict[str, Any]:
    def model() -> Any:
        import keras

        m = keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.Dense(3)])
        m.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return m

    return basic(model=model)


@case("Normalization, adapted to a dataset, given its mean, and with Discretization", "layers",
      batch=16, full=True)  # fmt: skip
def adapted_otherwise() -> dict[str, Any]:
    def layers() -> Any:
        import keras
        import tensorflow as tf

        by_data = keras.layers.Normalization()
        by_data.adapt(tf.data.Dataset.from_tensor_slices(xy()[0]).batch(7))
        given = keras.layers.Normalization(mean=0.5, variance=2.0)
        bins = keras.layers.Discretization(num_bins=5, output_mode="multi_hot")
        bins.adapt(xy()[0])
        return [by_data, given, bins, keras.layers.Dense(8)]

    return basic(model=dense(layers=layers))


@case("Normalization, adapted and used in dataset()", "layers", full=True)
def adapted_in_dataset() -> dict[str, Any]:
    def dataset() -> Any:
        import keras
        import tensorflow as tf

        norm = keras.layers.Normalization()
        norm.adapt(xy()[0])
        return tf.data.Dataset.from_tensor_slices(xy()).batch(16).map(lambda x, y: (norm(x), y))

    return basic(dataset=dataset)


@case("TextVectorization and StringLookup in dataset()", "layers", batch=None)
def text() -> dict[str, Any]:
    def dataset() -> Any:
        import keras
        import tensorflow as tf

        texts = [f"word{i % 7} word{i % 3} other" for i in range(41)]
        answers = ["no" if i % 2 else "yes" for i in range(41)]
        vectorize = keras.layers.TextVectorization(output_sequence_length=7)
        vectorize.adapt(texts)
        lookup = keras.layers.StringLookup(num_oov_indices=0)
        lookup.adapt(answers)
        data = tf.data.Dataset.from_tensor_slices((texts, answers)).batch(16)
        return data.map(lambda t, a: (vectorize(t), tf.cast(lookup(a), "float32")))

    return {"model": lstm()["model"], "dataset": dataset, "validation": None}


# -- metrics and callbacks ------------------------------------------------------------------------


@case("many metrics", "metrics", batch=16, full=True)
def metrics() -> dict[str, Any]:
    def model() -> Any:
        import keras

        m = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, activation="sigmoid")])
        names = ["accuracy", "AUC", "Precision", "Recall", "mse", "F1Score"]
        m.compile("adam", "binary_crossentropy", metrics=names)
        return m

    def dataset() -> Any:
        x, y = xy()
        return x, (y > 0).astype("float32")[:, None]

    return {"model": model, "dataset": dataset, "validation": dataset}


@case("LearningRateScheduler", "callbacks", batch=16, full=True)
def learning_rate_scheduler() -> dict[str, Any]:
    def callbacks() -> Any:
        import keras

        return [keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / (1 + epoch))]

    return basic(callbacks=callbacks)


@case("EarlyStopping, ReduceLROnPlateau, TerminateOnNaN", "callbacks", batch=16, epochs=6)
def stopping_callbacks() -> dict[str, Any]:
    def callbacks() -> Any:
        import keras

        return [
            keras.callbacks.EarlyStopping(
                "val_loss", min_delta=0.5, patience=3, restore_best_weights=True
            ),
            keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=0.5),
            keras.callbacks.TerminateOnNaN(),
        ]

    def model() -> Any:
        import keras

        return dense(optimizer=lambda: keras.optimizers.SGD(0.5))()

    return basic(model=model, callbacks=callbacks)


@case("ModelCheckpoint, CSVLogger, SwapEMAWeights", "callbacks", batch=16, full=True)
def writing_callbacks() -> dict[str, Any]:
    def callbacks() -> Any:
        import os
        import tempfile

        import keras

        folder = tempfile.mkdtemp()
        return [
            keras.callbacks.ModelCheckpoint(os.path.join(folder, "{epoch}.weights.h5"),
                                            save_weights_only=True),
            keras.callbacks.CSVLogger(os.path.join(folder, "log.csv")),
            keras.callbacks.SwapEMAWeights(),
        ]  # fmt: skip

    def model() -> Any:
        import keras

        return dense(optimizer=lambda: keras.optimizers.Adam(0.01, use_ema=True))()

    return basic(model=model, callbacks=callbacks)


@case("BackupAndRestore", "callbacks", batch=16, refused="BackupAndRestore")
def backup_and_restore() -> dict[str, Any]:
    def callbacks() -> Any:
        import keras

        return [keras.callbacks.BackupAndRestore("backup")]

    return basic(callbacks=callbacks)


@case("an unbatched tf.data.Dataset without --batch", "data", refused="not batched")
def dataset_unbatched() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(xy())

    return basic(dataset=dataset)


@case("OrbaxCheckpoint", "callbacks", batch=16, refused="OrbaxCheckpoint: .* Leave it out")
def orbax_checkpoint() -> dict[str, Any]:
    def callbacks() -> Any:
        import keras

        class Checkpoint(keras.callbacks.OrbaxCheckpoint):
            def __init__(self) -> None:
                pass  # Keras' own wants a package that is not among those of the tests

        return [Checkpoint()]

    return basic(callbacks=callbacks)


@case("a layer whose state differs between the workers", "layers", batch=16,
      refused="largest/largest: its values differ")  # fmt: skip
def diverging_state() -> dict[str, Any]:
    def layers() -> Any:
        import keras

        class Largest(keras.layers.Layer):
            def build(self, shape: Any) -> None:
                self.largest = self.add_weight(shape=(), trainable=False, name="largest")

            def call(self, x: Any) -> Any:
                self.largest.assign(keras.ops.max(x))
                return x

        return [Largest(), keras.layers.Dense(8)]

    return basic(model=dense(layers=layers))


from . import (  # noqa: E402
    custom_cases,  # noqa: F401
    data_cases,  # noqa: F401
    pipeline_cases,  # noqa: F401
    random_cases,  # noqa: F401
    refused_cases,  # noqa: F401
    stock_cases,  # noqa: F401
    tf_keras_cases,  # noqa: F401
)
