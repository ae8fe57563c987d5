"""Forms of data and of validation, and stock layers over them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from .cases import CASES, Case, basic, case, dense, several_inputs_and_outputs, words, xy

# -- data -----------------------------------------------------------------------------------------


@case("batches of 15 with drop_remainder", "last batches", full=True)
def odd_batches_dropped() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(xy()).batch(15, drop_remainder=True)

    return basic(dataset=dataset)


@case("batches of 15, a batch of 1, a whole epoch of 1", "last batches", batch=15)
def odd_batches() -> dict[str, Any]:
    return basic(dataset=lambda: xy(46), validation=lambda: xy(1))


@case("fewer examples than workers", "last batches", batch=16, full=True)
def one_example() -> dict[str, Any]:
    return basic(dataset=lambda: xy(1), validation=lambda: xy(1, seed=2))


def batches(x: Any, y: Any, size: int, noise: float = 0.1, **options: Any) -> Any:
    """Return a PyDataset that draws noise and mixes its order, as people write them."""
    import keras

    class Batches(keras.utils.PyDataset):
        def __init__(self) -> None:
            super().__init__(**options)
            self.order = np.arange(len(x))
            self.random = np.random.default_rng(4)

        def __len__(self) -> int:
            return -(-len(x) // size)

        def __getitem__(self, i: int) -> Any:
            rows = self.order[i * size : i * size + size]
            if not noise:
                return x[rows], y[rows]
            drawn = self.random.normal(size=x[rows].shape).astype("float32")
            return x[rows] + noise * drawn, y[rows]

        def on_epoch_end(self) -> None:
            self.random.shuffle(self.order)

    return Batches()


@case("a PyDataset that draws and shuffles by itself, and one for validation", "data")
def py_dataset_draws() -> dict[str, Any]:
    return basic(
        dataset=lambda: batches(*xy(49), 16), validation=lambda: batches(*xy(23, seed=1), 8)
    )


@case("a PyDataset with weights, shuffle off", "data", fit={"shuffle": False}, full=True)
def py_dataset_weights() -> dict[str, Any]:
    def dataset() -> Any:
        import keras

        x, y = xy(49)

        class Weighted(keras.utils.PyDataset):
            def __len__(self) -> int:
                return 4

            def __getitem__(self, i: int) -> Any:
                rows = slice(i * 16, i * 16 + 16)
                return {"x": x[rows]}, y[rows], np.linspace(0, 1, len(x[rows]))

        return Weighted()

    def model() -> Any:
        import keras

        inputs = keras.Input((6,), name="x")
        m = keras.Model({"x": inputs}, keras.layers.Dense(3)(inputs))
        m.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return m

    return {"model": model, "dataset": dataset, "validation": None}


@case("a PyDataset with workers=2", "data", full=True)
def py_dataset_workers() -> dict[str, Any]:
    return basic(dataset=lambda: batches(*xy(49), 16, noise=0, workers=2, max_queue_size=4))


@case("a generator without steps_per_epoch, one epoch", "data", epochs=1, full=True)
def generator_once() -> dict[str, Any]:
    def dataset() -> Any:
        x, y = xy(49)
        for i in range(0, 49, 16):
            yield x[i : i + 16], y[i : i + 16]

    return basic(dataset=dataset, validation=None)


@case("a dataset of dicts, with weights", "data", full=True)
def dataset_of_dicts() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        x, y = xy(49)
        parts = ({"a": x[:, :4], "b": x[:, 4:]}, y, np.linspace(0, 1, 49).astype("float32"))
        return tf.data.Dataset.from_tensor_slices(parts).shuffle(49, seed=1).batch(16)

    def model() -> Any:
        import keras

        a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b")
        m = keras.Model({"a": a, "b": b}, keras.layers.Dense(3)(keras.layers.Concatenate()([a, b])))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        m.compile("adam", loss, weighted_metrics=["accuracy"])
        return m

    return {"model": model, "dataset": dataset, "validation": None}


@case("an unbatched tf.data.Dataset with --batch", "data", batch=16, full=True)
def dataset_batched_by_option() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(xy(49)).shuffle(49, seed=2)

    return basic(dataset=dataset)


@case("tf.data: stateless augmentation, random maps with a seed", "data", full=True)
def dataset_augmented() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices(xy(49)).shuffle(49, seed=1)
        counter = tf.data.Dataset.counter()

        def augment(row: Any, i: Any) -> Any:
            x, y = row
            x += 0.1 * tf.random.stateless_normal([6], seed=tf.stack([i, 3]))
            return x + 0.1 * tf.random.normal([6], seed=5), y

        return tf.data.Dataset.zip((data, counter)).map(augment).batch(16)

    return basic(dataset=dataset)


@case("tf.data: shuffle after batch, several inputs zipped", "data", full=True)
def dataset_zipped() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        x, y = xy(49)
        slices = tf.data.Dataset.from_tensor_slices
        return tf.data.Dataset.zip((slices(x).batch(16), slices(y).batch(16))).shuffle(4)

    return basic(dataset=dataset)


@case("tf.data that runs out before steps_per_epoch", "data", fit={"steps_per_epoch": 3}, epochs=2,
      full=True)  # fmt: skip
def dataset_runs_out() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(xy(60)).batch(16)

    return basic(dataset=dataset)


#: What is validated with, and the arguments of `fit` for it.
VALIDATIONS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "weights": (lambda: (*xy(23, seed=1), np.linspace(0, 1, 23)), {}),
    "frequency": (lambda: xy(23, seed=1), {"validation_freq": 2}),
    "steps": (lambda: xy(50, seed=1), {"validation_steps": 2}),
    "batch_size": (lambda: xy(23, seed=1), {"validation_batch_size": 5}),
}
for _name, (_validation, _options) in VALIDATIONS.items():

    def _validated(validation: Callable[[], Any] = _validation) -> dict[str, Any]:
        return basic(validation=validation)

    CASES[f"validation_{_name}"] = Case(
        f"validation_{_name}", f"validation: {_name.replace('_', ' ')}", "data", _validated,
        batch=16, fit=_options, full=True,
    )  # fmt: skip


@case("validation: a tf.data.Dataset", "data", batch=16)
def validation_dataset() -> dict[str, Any]:
    def validation() -> Any:
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(xy(23, seed=1)).batch(7)

    return basic(validation=validation)


@case("validation: a generator", "data", batch=16, fit={"validation_steps": 2}, full=True)
def validation_generator() -> dict[str, Any]:
    def validation() -> Any:
        x, y = xy(23, seed=1)
        while True:
            yield x[:16], y[:16]
            yield x[16:], y[16:]

    return basic(validation=validation)


@case("validation: a dict of arrays", "data", batch=16, full=True)
def validation_dict() -> dict[str, Any]:
    def validation() -> Any:
        x, y = xy(23, seed=1)
        return {"a": x, "b": x[:, :2]}, {"kind": y, "size": x[:, :1]}

    return several_inputs_and_outputs() | {"validation": validation}


@case("an AutoShardPolicy of one's own", "data", full=True)
def own_shard_policy() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return tf.data.Dataset.from_tensor_slices(xy()).batch(16).with_options(options)

    return basic(dataset=dataset)


@case("a dataset that is shared out by hand (shard)", "data", refused="other data than worker 0")
def manual_shard() -> dict[str, Any]:
    def dataset(workers: int, worker: int) -> Any:
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(xy()).shard(workers, worker).batch(8)

    return basic(dataset=dataset)


def sentences_of_words() -> tuple[Any, Any]:
    """Return ragged rows of 1 to 7 words, and labels."""
    import tensorflow as tf

    x, y = words()
    lengths = np.random.default_rng(8).integers(1, 8, size=len(x))
    return tf.ragged.constant([row[:n] for row, n in zip(x, lengths, strict=True)], "int32"), y


def of_words() -> Any:
    """Return a model of rows of any number of words; 0 is no word."""
    import keras

    layers = keras.layers
    inputs = keras.Input((None,), dtype="int32")
    x = layers.GRU(4)(layers.Embedding(20, 4, mask_zero=True)(inputs))
    m = keras.Model(inputs, layers.Dense(1)(x))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    m.compile("adam", loss, metrics=["accuracy"])
    return m


@case("tf.data: ragged rows, padded batch by batch", "data", full=True)
def dataset_ragged() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices(sentences_of_words()).shuffle(41).ragged_batch(16)
        return data.map(lambda x, y: (x.to_tensor(), y))

    return {"model": of_words, "dataset": dataset, "validation": None}


@case("tf.data: rows in buckets of about the same length", "data", full=True)
def dataset_bucketed() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices(sentences_of_words())
        data = data.map(lambda x, y: (tf.convert_to_tensor(x), y))
        return data.bucket_by_sequence_length(lambda x, y: tf.size(x), [3, 6], [16, 8, 5])

    return {"model": of_words, "dataset": dataset, "validation": None}


@case("tf.data: sparse rows", "data", full=True)
def dataset_sparse() -> dict[str, Any]:
    return _sparse()


@case("tf.data: sparse rows, run_eagerly", "data", refused="run_eagerly with sparse", full=True)
def dataset_sparse_eagerly() -> dict[str, Any]:
    return _sparse(run_eagerly=True)


def _sparse(**options: Any) -> dict[str, Any]:
    def model() -> Any:
        import keras

        m = keras.Sequential([keras.Input((6,), sparse=True), keras.layers.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        m.compile("adam", loss, metrics=["accuracy"], **options)
        return m

    def dataset() -> Any:
        import tensorflow as tf

        x, y = xy()
        rows = tf.sparse.from_dense(np.where(np.abs(x) > 0.5, x, 0))
        return tf.data.Dataset.from_tensor_slices((rows, y)).batch(16)

    return {"model": model, "dataset": dataset, "validation": None}


@case("tf.data: ragged rows that the model takes", "data", full=True)
def dataset_ragged_input() -> dict[str, Any]:
    def model() -> Any:
        import keras
        import tensorflow as tf

        class Words(keras.Model):
            def __init__(self) -> None:
                super().__init__()
                self.embedding = self.add_weight(shape=(20, 4), name="embedding")
                self.out = keras.layers.Dense(1)

            def call(self, rows: Any) -> Any:
                found = tf.gather(self.embedding.value, rows)
                return self.out(tf.reduce_mean(found, axis=1))

        m = Words()
        m.embedding.assign(np.linspace(-1, 1, 80).reshape(20, 4))
        m.out.build((None, 4))
        m.built = True
        m.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
        return m

    def dataset() -> Any:
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(sentences_of_words()).ragged_batch(16)

    return {"model": model, "dataset": dataset, "validation": None}


@case("--shard file with sparse rows", "data", shard="file", refused="sparse or ragged", full=True)
def shard_sparse() -> dict[str, Any]:
    def dataset() -> Any:
        import tempfile

        import tensorflow as tf

        paths = [f"{tempfile.mkdtemp()}/{i}.txt" for i in range(2)]
        for path in paths:
            with open(path, "w") as file:
                file.write("1\n2\n")
        numbers = tf.data.TextLineDataset(paths).map(tf.strings.to_number).batch(2)
        return numbers.map(lambda n: (tf.sparse.from_dense(n[:, None]), n))

    return basic(dataset=dataset)


def seen_once(variables: dict[str, Any], history: dict[str, list[float]]) -> bool:
    return history["unevenly"] == [0.0, 0.0]


@case("--shard file: files of different lengths", "data", shard="file", full=True, random=True,
      warns="shard-file", holds=seen_once,
      why="every example is seen once in an epoch, in other batches than those of one process, of"
          " which a warning tells")  # fmt: skip
def shard_unequal_files() -> dict[str, Any]:
    def model() -> Any:
        import keras

        class Unevenly(keras.metrics.Metric):
            def __init__(self) -> None:
                super().__init__(name="unevenly")
                self.times = self.add_weight(shape=(49,), name="times", initializer="zeros")

            def update_state(self, y: Any, p: Any, sample_weight: Any = None) -> None:
                numbers = keras.ops.reshape(keras.ops.cast(y, "int32"), (-1,))
                self.times.assign_add(keras.ops.sum(keras.ops.one_hot(numbers, 49), axis=0))

            def result(self) -> Any:
                return keras.ops.sum(keras.ops.abs(self.times - 1))

        m = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        m.compile(keras.optimizers.SGD(1e-5), "mse", metrics=[Unevenly()])
        return m

    def dataset() -> Any:
        import tempfile

        import tensorflow as tf

        folder = tempfile.mkdtemp()
        paths, ends = [], [0, 20, 23, 39, 49]
        for begin, end in itertools.pairwise(ends):
            paths.append(f"{folder}/{begin:02}.txt")
            with open(paths[-1], "w") as file:
                file.writelines(f"{number}\n" for number in range(begin, end))
        numbers = tf.data.TextLineDataset(paths).map(tf.strings.to_number)
        return numbers.map(lambda n: (tf.stack([n, 1.0]), n)).batch(8)

    return {"model": model, "dataset": dataset, "validation": None}


@case("initial_epoch", "training steps", batch=16, fit={"initial_epoch": 1}, epochs=3, full=True)
def initial_epoch() -> dict[str, Any]:
    return basic()


@case("images as uint8, float64 arrays, tf tensors", "data", batch=16, full=True)
def odd_dtypes() -> dict[str, Any]:
    def model() -> Any:
        import keras

        inputs = keras.Input((6,), dtype="uint8")
        x = keras.layers.Rescaling(1 / 255)(inputs)
        m = keras.Model(inputs, keras.layers.Dense(1)(x))
        m.compile("adam", "mse")
        return m

    def dataset() -> Any:
        import tensorflow as tf

        x, y = xy(49)
        return (np.abs(x) * 60).astype("uint8"), tf.constant(y.astype("float64"))

    return {"model": model, "dataset": dataset, "validation": None}


@case("strings, with TextVectorization in the model", "layers", batch=16, full=True)
def strings() -> dict[str, Any]:
    def model() -> Any:
        import keras

        layers = keras.layers
        vectorize = layers.TextVectorization(output_sequence_length=5)
        vectorize.adapt(sentences()[0])
        m = keras.Sequential(
            [
                keras.Input((), dtype="string"),
                vectorize,
                layers.Embedding(30, 4, mask_zero=True),
                layers.Bidirectional(layers.GRU(3)),
                layers.Dense(1),
            ]
        )
        m.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True), metrics=["accuracy"])
        return m

    def sentences() -> Any:
        import tensorflow as tf

        texts = [f"word{i % 7} word{i % 3} " + "more " * (i % 4) for i in range(49)]
        return tf.constant(texts), np.arange(49, dtype="float32") % 2

    return {"model": model, "dataset": sentences, "validation": None}


@case("DistributedDataset", "data", refused="distributed")
def distributed_dataset() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices(xy()).batch(16)
        return tf.distribute.OneDeviceStrategy("cpu:0").experimental_distribute_dataset(data)

    return basic(dataset=dataset)


@case("a batched dataset and another --batch", "data", batch=8, refused="batches of 16")
def two_batch_sizes() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(xy()).batch(16)

    return basic(dataset=dataset)


@case("arrays of different lengths", "data", batch=16, refused="different lengths")
def lengths() -> dict[str, Any]:
    return basic(dataset=lambda: (xy(50)[0], xy(49)[1]))


# -- stock layers ---------------------------------------------------------------------------------


def volume(*shape: int) -> Callable[[], Any]:
    def dataset() -> Any:
        x = np.random.default_rng(6).normal(size=(17, *shape)).astype("float32")
        return x, (x.reshape(17, -1).mean(axis=1) > 0).astype("int32")

    return dataset


def over(shape: tuple[int, ...], make: Callable[[Any], list[Any]]) -> dict[str, Any]:
    """Return a case with layers over data of a shape, the last batch of which is of 1."""

    def model() -> Any:
        import keras

        layers = [*make(keras.layers), keras.layers.Flatten(), keras.layers.Dense(2)]
        m = keras.Sequential([keras.Input(shape), *layers])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        m.compile(keras.optimizers.SGD(0.05), loss)
        return m

    return {"model": model, "dataset": volume(*shape), "validation": volume(*shape)}


_LAYERS: dict[str, tuple[tuple[int, ...], Callable[[Any], list[Any]]]] = {
    "1D convolutions and pools": (
        (8, 3),
        lambda k: [k.Conv1D(4, 3), k.MaxPooling1D(), k.Conv1DTranspose(4, 2), k.AveragePooling1D(2),
                   k.SeparableConv1D(3, 2), k.UpSampling1D(), k.ZeroPadding1D()],
    ),
    "2D convolutions and pools": (
        (9, 9, 2),
        lambda k: [k.Conv2D(4, 3, strides=2), k.DepthwiseConv2D(2), k.Conv2DTranspose(3, 3),
                   k.AveragePooling2D(2), k.MaxPooling2D(1), k.Cropping2D(((0, 0), (0, 1))),
                   k.Conv2D(4, 1, dilation_rate=2, groups=1)],
    ),
    "3D convolutions and pools": (
        (6, 6, 6, 1),
        lambda k: [k.Conv3D(2, 3), k.MaxPooling3D(), k.Conv3DTranspose(2, 2),
                   k.AveragePooling3D(2)],
    ),
    "ConvLSTM and TimeDistributed": (
        (3, 6, 6, 1),
        lambda k: [k.ConvLSTM2D(2, 3, return_sequences=True), k.TimeDistributed(k.Conv2D(2, 2))],
    ),
    "SimpleRNN, LSTM and GRU": (
        (5, 4),
        lambda k: [k.SimpleRNN(4, return_sequences=True), k.LSTM(4, return_sequences=True),
                   k.GRU(3)],
    ),
    "Bidirectional, LayerNormalization and EinsumDense": (
        (5, 4),
        lambda k: [k.Bidirectional(k.GRU(4, return_sequences=True)), k.Dense(4),
                   k.LayerNormalization(), k.EinsumDense("abc,cd->abd", (5, 3))],
    ),
    "activations and shapes": (
        (6, 2),
        lambda k: [k.Dense(4), k.LeakyReLU(), k.PReLU(), k.ELU(), k.Permute((2, 1)),
                   k.Reshape((2, 12)), k.UnitNormalization()],
    ),
    "BatchNormalization with renorm": (
        (6,), lambda k: [k.Dense(5, use_bias=False), k.BatchNormalization(renorm=True)],
    ),
    "BatchNormalization over channels first": (
        (3, 5, 5), lambda k: [k.BatchNormalization(axis=1)],
    ),
}  # fmt: skip
for _title, (_shape, _make) in _LAYERS.items():

    def _layered(shape: tuple[int, ...] = _shape, make: Any = _make) -> dict[str, Any]:
        return over(shape, make)

    _name = "layers_" + "".join(c if c.isalnum() else "_" for c in _title.lower())
    CASES[_name] = Case(_name, _title, "layers", _layered, batch=16, full=True)


@case("MultiHeadAttention, GroupQueryAttention, Attention, AdditiveAttention", "layers", batch=16,
      full=True)  # fmt: skip
def attention() -> dict[str, Any]:
    def model() -> Any:
        import keras

        k = keras.layers
        inputs = x = keras.Input((5, 4))
        x = k.MultiHeadAttention(2, 3)(x, x)
        x = k.GroupQueryAttention(3, 4, 2)(x, x)
        x = k.Attention(use_scale=True)([x, k.AdditiveAttention()([x, inputs])])
        m = keras.Model(inputs, k.Dense(2)(k.Flatten()(x)))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        m.compile(keras.optimizers.SGD(0.05), loss)
        return m

    return {"model": model, "dataset": volume(5, 4), "validation": volume(5, 4)}


@case("BatchNormalization of masked sequences", "layers", batch=16, full=True)
def masked_batch_normalization() -> dict[str, Any]:
    def model() -> Any:
        import keras

        layers = keras.layers
        m = keras.Sequential(
            [
                keras.Input((7,), dtype="int32"),
                layers.Embedding(20, 4, mask_zero=True),
                layers.BatchNormalization(),
                layers.GRU(3),
                layers.Dense(1),
            ]
        )
        m.compile(keras.optimizers.SGD(0.1), keras.losses.BinaryCrossentropy(from_logits=True))
        return m

    return {"model": model, "dataset": lambda: words(33), "validation": lambda: words(11)}


@case("mixed_bfloat16", "optimizers", batch=16, tolerance=2e-3, full=True,
      why="bfloat16 rounds each shard's gradients to 8 bits")  # fmt: skip
def mixed_bfloat16() -> dict[str, Any]:
    def model() -> Any:
        import keras

        keras.config.set_dtype_policy("mixed_bfloat16")
        return dense(optimizer="sgd", metrics=())()

    return basic(model=model)
