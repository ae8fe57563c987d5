"""Pipelines of `tf.data` that several workers can't run alike, and near ones that they can."""

from __future__ import annotations

from typing import Any

import numpy as np

from .cases import basic, case, shard_file, xy
from .data_cases import dataset_ragged_input, of_words, sentences_of_words


def pairs(n: int = 49, seed: int = 0) -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(xy(n, seed=seed))


# -- order ----------------------------------------------------------------------------------------


@case(
    "tf.data: interleave with deterministic=False", "data", refused=r"Dataset.interleave\(\) with"
)
def dataset_interleaved_by_chance() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        data = pairs()
        parts = tf.data.Dataset.range(4).interleave(
            lambda i: data.shard(4, i), num_parallel_calls=4, deterministic=False
        )
        return parts.batch(16)

    return basic(dataset=dataset)


@case("tf.data: map with deterministic=False", "data", refused=r"Dataset.map\(\) with", full=True)
def dataset_mapped_by_chance() -> dict[str, Any]:
    def dataset() -> Any:
        data = pairs().map(lambda x, y: (x, y), num_parallel_calls=4, deterministic=False)
        return data.batch(16)

    return basic(dataset=dataset)


@case("tf.data: deterministic=False inside an interleave", "data", refused=r"Dataset.interleave\(",
      full=True)  # fmt: skip
def dataset_inner_by_chance() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        data = pairs()

        def part(i: Any) -> Any:
            return data.shard(4, i).map(
                lambda x, y: (x, y), num_parallel_calls=2, deterministic=False
            )

        return tf.data.Dataset.range(4).interleave(part).batch(16)

    return basic(dataset=dataset)


@case("tf.data: options.deterministic = False", "data", refused="options.deterministic", full=True)
def dataset_options_by_chance() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        options = tf.data.Options()
        options.deterministic = False
        return (
            pairs().map(lambda x, y: (x, y), num_parallel_calls=4).with_options(options).batch(16)
        )

    return basic(dataset=dataset)


@case("validation: a tf.data.Dataset with deterministic=False", "data", batch=16,
      refused=r"validation\(\): its order", full=True)  # fmt: skip
def validation_by_chance() -> dict[str, Any]:
    def validation() -> Any:
        data = pairs(23, seed=1).map(lambda x, y: (x, y), num_parallel_calls=4, deterministic=False)
        return data.batch(7)

    return basic(validation=validation)


@case("tf.data: parallel interleave and map, parallel batch", "data", full=True)
def dataset_parallel() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        data = pairs()
        parts = tf.data.Dataset.range(4).interleave(
            lambda i: data.shard(4, i), num_parallel_calls=tf.data.AUTOTUNE
        )
        parts = parts.map(lambda x, y: (x * 2, y), num_parallel_calls=4, deterministic=True)
        return parts.batch(16, num_parallel_calls=2)

    return basic(dataset=dataset)


# -- random numbers -------------------------------------------------------------------------------


@case("tf.data: random maps in parallel", "data", refused="draws random numbers")
def dataset_augmented_in_parallel() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        def augment(x: Any, y: Any) -> Any:
            return x + 0.1 * tf.random.normal([6], seed=5), y

        return pairs().map(augment, num_parallel_calls=tf.data.AUTOTUNE).batch(16)

    return basic(dataset=dataset)


@case("tf.data: a layer that draws, in a parallel map", "data", refused="draws random numbers",
      full=True)  # fmt: skip
def dataset_layer_in_parallel() -> dict[str, Any]:
    def dataset() -> Any:
        import keras

        noise = keras.layers.GaussianNoise(0.1, seed=3)
        data = pairs().batch(16)
        return data.map(lambda x, y: (noise(x, training=True), y), num_parallel_calls=4)

    return basic(dataset=dataset)


@case("tf.data: a tf.random.Generator in a parallel map", "data", refused="draws random numbers",
      full=True)  # fmt: skip
def dataset_generator_in_parallel() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        random = tf.random.Generator.from_seed(3)

        def augment(x: Any, y: Any) -> Any:
            return x + 0.1 * random.normal([6]), y

        return pairs().map(augment, num_parallel_calls=4).batch(16)

    return basic(dataset=dataset)


@case("tf.data: random maps one by one: tf.image, a layer, a tf.random.Generator", "data",
      full=True)  # fmt: skip
def dataset_augmented_one_by_one() -> dict[str, Any]:
    def dataset() -> Any:
        import keras
        import tensorflow as tf

        random = tf.random.Generator.from_seed(3)
        noise = keras.layers.GaussianNoise(0.1, seed=3)

        def augment(x: Any, y: Any) -> Any:
            x = tf.image.random_flip_left_right(tf.reshape(x, [1, 6, 1]))
            return tf.reshape(x, [6]) + 0.1 * random.normal([6]), y

        data = pairs().map(augment).batch(16)
        return data.map(lambda x, y: (noise(x, training=True), y)).prefetch(2)

    return basic(dataset=dataset)


@case("tf.data: parallel maps with a seed for each example", "data", full=True)
def dataset_augmented_by_seeds() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        seeds = tf.data.Dataset.random(seed=1, rerandomize_each_iteration=True).batch(2)

        def augment(row: Any, seed: Any) -> Any:
            x, y = row
            return x + 0.1 * tf.random.stateless_normal([6], seed=seed), y

        data = tf.data.Dataset.zip((pairs(), seeds))
        return data.map(augment, num_parallel_calls=tf.data.AUTOTUNE).batch(16)

    return basic(dataset=dataset)


# -- cache ----------------------------------------------------------------------------------------


@case("tf.data: cache in a file", "data", refused="TFRecord files once")
def dataset_cached_in_a_file() -> dict[str, Any]:
    def dataset() -> Any:
        return pairs().cache("cache").batch(16)

    return basic(dataset=dataset)


# -- rows of a batch ------------------------------------------------------------------------------


def attends() -> Any:
    """Return a model that looks things up in a memory."""
    import keras
    import tensorflow as tf

    class Attends(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.out = keras.layers.Dense(3)

        def call(self, inputs: Any) -> Any:
            memory = inputs["memory"]
            if len(memory.shape) == 3:
                memory = memory[0]
            found = tf.matmul(inputs["x"], memory, transpose_b=True)
            return self.out(tf.nn.softmax(found) @ memory)

    m = Attends()
    m.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return m


@case("tf.data: a memory of 10 rows with every batch of 16", "data",
      refused=r"rows \(x.x: 16, x.memory: 10, y: 16\)")  # fmt: skip
def dataset_with_memory() -> dict[str, Any]:
    def dataset() -> Any:
        memory = np.random.default_rng(4).normal(size=(10, 6)).astype("float32")
        return pairs().batch(16).map(lambda x, y: ({"x": x, "memory": memory}, y))

    return {"model": attends, "dataset": dataset, "validation": None}


@case("tf.data: a memory of 10 rows with every batch, of fixed shapes", "data",
      refused=r"rows \(x.x: 16, x.memory: 10, y: 16\)", full=True)  # fmt: skip
def dataset_with_memory_of_fixed_shape() -> dict[str, Any]:
    def dataset() -> Any:
        memory = np.random.default_rng(4).normal(size=(10, 6)).astype("float32")
        data = pairs(48).batch(16, drop_remainder=True)
        return data.map(lambda x, y: ({"x": x, "memory": memory}, y))

    return {"model": attends, "dataset": dataset, "validation": None}


@case("a generator of batches whose parts have other numbers of rows", "data",
      refused=r"rows \(x.x: 16, x.memory: 10, y: 16\)", fit={"steps_per_epoch": 3},
      full=True)  # fmt: skip
def generator_with_memory() -> dict[str, Any]:
    def dataset() -> Any:
        x, y = xy(48)
        memory = np.random.default_rng(4).normal(size=(10, 6)).astype("float32")
        while True:
            for i in range(0, 48, 16):
                yield {"x": x[i : i + 16], "memory": memory}, y[i : i + 16]

    return {"model": attends, "dataset": dataset, "validation": None}


@case("--shard file: a memory of 10 rows with every batch", "data", shard="file",
      refused=r"rows \(x.x: any number, x.memory: 10, y: any", full=True)  # fmt: skip
def shard_with_memory() -> dict[str, Any]:
    def dataset() -> Any:
        memory = np.random.default_rng(4).normal(size=(10, 6)).astype("float32")
        data = shard_file()["dataset"]()
        return data.map(lambda x, y: ({"x": x, "memory": memory}, y))

    return {"model": attends, "dataset": dataset, "validation": None}


@case("tf.data: a scalar with every batch", "data", full=True)
def dataset_with_scalar() -> dict[str, Any]:
    def model() -> Any:
        import keras

        class Zoomed(keras.Model):
            def __init__(self) -> None:
                super().__init__()
                self.out = keras.layers.Dense(3)

            def call(self, inputs: Any) -> Any:
                return self.out(inputs["x"] * inputs["zoom"])

        m = Zoomed()
        m.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return m

    def dataset() -> Any:
        return pairs().batch(16).map(lambda x, y: ({"x": x, "zoom": 0.5}, y))

    return {"model": model, "dataset": dataset, "validation": None}


# -- batches --------------------------------------------------------------------------------------


@case("tf.data: batches of fixed shapes, zipped and concatenated", "data", full=True)
def dataset_zipped_batches() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        def batches(part: int) -> Any:
            slices = tf.data.Dataset.from_tensor_slices
            x, y = (slices(array[part::2]).batch(8, drop_remainder=True) for array in xy(98))
            return tf.data.Dataset.zip((x, y))

        return batches(0).concatenate(batches(1))

    return basic(dataset=dataset)


@case("tf.data: rows of any length with --batch", "data", batch=8, refused="padded_batch")
def dataset_of_any_length() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices(sentences_of_words())
        return data.map(lambda x, y: (tf.convert_to_tensor(x), y))

    return {"model": of_words, "dataset": dataset, "validation": None}


@case("tf.data: rows of any length without --batch", "data", refused="Use padded_batch", full=True)
def dataset_of_any_length_unbatched() -> dict[str, Any]:
    return dataset_of_any_length()


@case("tf.data: batches of any size with --batch", "data", batch=8, refused="as batches do",
      full=True)  # fmt: skip
def dataset_of_any_size() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        x, y = xy(49)
        spec = (tf.TensorSpec((None, 6)), tf.TensorSpec((None,), "int32"))
        return tf.data.Dataset.from_generator(
            lambda: ((x[i : i + 16], y[i : i + 16]) for i in range(0, 49, 16)),
            output_signature=spec,
        )

    return basic(dataset=dataset)


@case("tf.data: rows of any length, padded_batch", "data", full=True)
def dataset_padded() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices(sentences_of_words())
        return data.map(lambda x, y: (tf.convert_to_tensor(x), y)).padded_batch(8)

    return {"model": of_words, "dataset": dataset, "validation": None}


@case("ragged rows as an array, that the model takes", "data", batch=16, full=True)
def ragged_array() -> dict[str, Any]:
    return {**dataset_ragged_input(), "dataset": sentences_of_words}


@case("ragged rows as an array, in a model that takes nothing else", "data", batch=16,
      refused="ragged rows: Keras calls")  # fmt: skip
def ragged_array_alone() -> dict[str, Any]:
    def model() -> Any:
        import keras
        import tensorflow as tf

        class Averages(keras.Model):
            def __init__(self) -> None:
                super().__init__()
                self.words = keras.layers.Embedding(20, 4)
                self.out = keras.layers.Dense(1)

            def call(self, rows: Any) -> Any:
                return self.out(tf.reduce_mean(self.words(rows.to_tensor()), axis=1))

        m = Averages()
        m.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
        return m

    return {"model": model, "dataset": sentences_of_words, "validation": None}
