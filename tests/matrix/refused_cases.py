"""Forms that are refused because they can't be what was meant."""

from __future__ import annotations

from typing import Any

from .cases import basic, case, dense, xy
from .tf_keras_cases import dense as tfk_dense


def with_data(data: Any) -> dict[str, Any]:
    return basic(dataset=lambda: data)


@case("a tf.data.Dataset with nothing in it", "data", refused="the dataset is empty")
def empty_dataset() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(xy()).take(0).batch(16)

    return basic(dataset=dataset)


@case("arrays with no rows", "data", batch=16, refused="no examples")
def empty_arrays() -> dict[str, Any]:
    return with_data(tuple(array[:0] for array in xy()))


@case("a list in place of a tuple", "data", batch=16, refused=r"a tuple \(x, y\)")
def list_of_arrays() -> dict[str, Any]:
    return with_data(list(xy()))


@case("a tuple of four", "data", batch=16, refused="a tuple of 4")
def tuple_of_four() -> dict[str, Any]:
    return with_data((*xy(), None, None))


@case("something that is no data", "data", batch=16, refused="where data is wanted")
def no_data() -> dict[str, Any]:
    return with_data("data/train.csv")


@case("a PyDataset and --batch", "data", batch=16, refused="its own batches")
def py_dataset_and_batch() -> dict[str, Any]:
    def dataset() -> Any:
        import keras

        class Batches(keras.utils.PyDataset):
            def __len__(self) -> int:
                return 2

            def __getitem__(self, index: int) -> Any:
                return tuple(array[:16] for array in xy())

        return Batches()

    return basic(dataset=dataset)


@case("a generator and --batch", "data", batch=16, refused="its own batches")
def generator_and_batch() -> dict[str, Any]:
    return basic(dataset=lambda: (xy() for _ in range(3)))


@case("--shard file: no files", "data", shard="file", refused="no files are read")
def shard_no_files() -> dict[str, Any]:
    def dataset() -> Any:
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(xy()).batch(16)

    return basic(dataset=dataset)


@case("model() that returns no model", "models", batch=16, refused="not a compiled keras.Model")
def no_model() -> dict[str, Any]:
    return basic(model=lambda: None)


@case("a model that is not compiled", "models", batch=16, refused="is not compiled")
def not_compiled() -> dict[str, Any]:
    def model() -> Any:
        import keras

        return keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])

    return basic(model=model)


@case("a model made before model() is called", "models", batch=16, refused="Build it in model()")
def model_from_before() -> dict[str, Any]:
    made = dense()()
    return basic(model=lambda: made)


@case("a layer made outside model()", "layers", batch=16, refused="outside model")
def layer_outside() -> dict[str, Any]:
    import keras

    layer = keras.layers.Dense(8)
    layer.build((None, 6))
    return basic(model=dense(layers=lambda: [layer]))


@case("callbacks() that returns no callbacks", "callbacks", batch=16, refused="not a callback")
def no_callbacks() -> dict[str, Any]:
    return basic(callbacks=lambda: [print])


@case("a model made before model() is called", "tf_keras: models", batch=16,
      refused="Build it in model()")  # fmt: skip
def tfk_model_from_before() -> dict[str, Any]:
    made = tfk_dense()()
    return basic(model=lambda: made)


@case("a layer made outside model()", "tf_keras: models", batch=16,
      refused="outside model")  # fmt: skip
def tfk_layer_outside() -> dict[str, Any]:
    import tf_keras

    layer = tf_keras.layers.Dense(8)
    layer.build((None, 6))
    return basic(model=tfk_dense(layers=lambda: [layer]))


@case("Input(batch_size=16)", "tf_keras: models", batch=16, refused="batch_size")
def tfk_fixed_batch() -> dict[str, Any]:
    def model() -> Any:
        import tf_keras

        m = tf_keras.Sequential([tf_keras.Input((6,), batch_size=16), tf_keras.layers.Dense(3)])
        m.compile("sgd", "mse")
        return m

    return basic(model=model)


@case('compile(steps_per_execution="auto")', "tf_keras: models", batch=16,
      refused="another number of steps")  # fmt: skip
def tfk_auto_steps() -> dict[str, Any]:
    return basic(model=tfk_dense(steps_per_execution="auto"))


@case("BatchNormalization over several axes", "tf_keras: models", batch=16,
      refused="Give one axis")  # fmt: skip
def tfk_several_axes() -> dict[str, Any]:
    def layers() -> Any:
        import tf_keras
        from tf_keras.src.layers.normalization import batch_normalization_v1 as v1

        return [
            tf_keras.layers.Reshape((3, 2)),
            v1.BatchNormalization(axis=[1, 2], fused=False),
            tf_keras.layers.Flatten(),
        ]

    return basic(model=tfk_dense(layers=layers))


@case("a make_train_function of one's own", "tf_keras: models", batch=16,
      refused="Override train_step")  # fmt: skip
def tfk_own_function() -> dict[str, Any]:
    def model() -> Any:
        import tf_keras

        class Own(tf_keras.Sequential):
            def make_train_function(self, force: bool = False) -> Any:
                return super().make_train_function(force)

        made = Own([tf_keras.Input((6,)), tf_keras.layers.Dense(3)])
        made.compile("sgd", "mse")
        return made

    return basic(model=model)
