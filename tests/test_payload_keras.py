"""Keras' and TensorFlow's things in a payload: settings, custom objects, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbtrain.errors import CannotTravel
from nbtrain.runtime.payload import Payload

from .payload_worker import Notebook, packed, worker

# Keras 3.15 with NumPy 2.4, of every weight that is saved.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")


@pytest.fixture(autouse=True)
def _registrations_are_forgotten() -> Iterator[None]:
    before = dict(keras.saving.get_custom_objects())
    yield
    keras.saving.get_custom_objects().clear()
    keras.saving.get_custom_objects().update(before)


CELL = """
import keras
import numpy as np
import tensorflow as tf

@keras.saving.register_keras_serializable("mine", "Swish2")
class Swish(keras.layers.Layer):
    def __init__(self, beta=1.0, **kwargs):
        super().__init__(**kwargs)
        self.beta = beta
    def call(self, x): return x * keras.ops.sigmoid(self.beta * x)
    def get_config(self): return super().get_config() | {"beta": self.beta}

@keras.saving.register_keras_serializable()
def doubled(x): return 2 * x

class Plain(keras.layers.Dense): pass
keras.saving.get_custom_objects()["plain"] = Plain

class Weighted(keras.losses.Loss):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight
    def call(self, y, p): return self.weight * keras.ops.mean(keras.ops.square(y - p), -1)

class Count(keras.callbacks.Callback):
    def __init__(self): super().__init__(); self.count = 0
    def on_epoch_end(self, epoch, logs=None): self.count += 1

class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = Plain(2)
    def call(self, x): return self.inner(Swish()(x))

@tf.function
def clipped(x):
    if tf.reduce_sum(x) > 0:
        return x * 2
    return x

loss = Weighted(3.0)
stopping = [keras.callbacks.EarlyStopping(patience=3), Count()]
schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
optimizer = keras.optimizers.Adam(schedule)
encoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
encoder.compile("sgd", keras.losses.Huber())
stock_loss = keras.losses.MeanSquaredError()

def model():
    m = keras.Sequential([keras.Input((3,)), encoder, Swish(), keras.layers.Dense(2, doubled)])
    m.compile(keras.optimizers.Adam.from_config(optimizer.get_config()), loss)
    return m

def subclassed():
    m = Net()
    m.compile("adam", stock_loss)
    return m

@tf.autograph.experimental.do_not_convert
def untouched(x): return x

def positive(x):
    if x > 0:   # AutoGraph needs the source of this
        return x
    return -x

def dataset(batch):
    x = np.arange(-12.0, 12.0).reshape(8, 3)
    return tf.data.Dataset.from_tensor_slices((x, x[:, :2])).batch(batch)

def absolute():
    return tf.data.Dataset.from_tensor_slices([-1.0, 2.0]).map(positive)

class Batches(keras.utils.PyDataset):
    def __init__(self, x): super().__init__(); self.x = x
    def __len__(self): return 2
    def __getitem__(self, i): return self.x[4 * i:4 * i + 4], self.x[4 * i:4 * i + 4, :2]
batches = Batches(np.ones((8, 3)))

def callbacks(): return stopping
"""
ROLES = ("model", "subclassed", "dataset", "absolute", "callbacks", "clipped", "batches")


def test_keras_objects_and_registrations_arrive(tmp_path: Path) -> None:
    notebook = Notebook()(CELL)
    weights = notebook["encoder"].get_weights()
    payload = packed({role: notebook[role] for role in ROLES}, tmp_path)
    assert payload.code["clipped"].startswith("@tf.function\ndef clipped(x):")
    result = worker(
        payload,
        """
        import keras, numpy as np
        m = f["model"]()
        data = call(f["dataset"], {"batch": 4})
        m.fit(data, verbose=0)
        m.save("m.keras")
        again = keras.models.load_model("m.keras", compile=False)
        f["subclassed"]().fit(call(f["batches"], {}), verbose=0)
        names = keras.saving.get_custom_objects()
        result = [
            float(m.loss.weight), [type(c).__name__ for c in f["callbacks"]()],
            [float(v) for v in f["absolute"]()], float(f["clipped"](3.0)),
            sorted(names), type(again.layers[1]) is names["mine>Swish2"],
            keras.saving.get_registered_name(names["mine>Swish2"]), again.layers[1].beta,
            type(m.optimizer.learning_rate).__name__, float(m.optimizer.iterations),
        ]
        """,
        keras=True,
    )
    assert result[:4] == [3.0, ["EarlyStopping", "Count"], [1.0, 2.0], 6.0]
    assert result[4] == ["Custom>doubled", "mine>Swish2", "plain"]
    assert result[5:8] == [True, "mine>Swish2", 1.0]
    assert result[9] == 2.0
    found = worker(
        payload,
        "result = [w.tolist() for w in f['model'].__globals__['encoder'].get_weights()]",
    )
    np.testing.assert_array_equal(found[0], weights[0])


def test_global_settings_of_keras_travel(tmp_path: Path) -> None:
    settings = (keras.config.floatx(), keras.config.epsilon(), keras.config.image_data_format())
    keras.config.set_floatx("float64")
    keras.config.set_epsilon(1e-5)
    keras.config.set_image_data_format("channels_first")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        payload = packed({"dataset": 1}, tmp_path)
    finally:
        keras.config.set_floatx(settings[0])
        keras.config.set_epsilon(settings[1])
        keras.config.set_image_data_format(settings[2])
        keras.config.set_dtype_policy("float32")
    result = worker(
        payload,
        """
        import keras
        result = [keras.config.floatx(), keras.config.epsilon(),
                  keras.config.image_data_format(), keras.config.dtype_policy().name]
        """,
        keras=True,
    )
    assert result == ["float64", 1e-5, "channels_first", "mixed_bfloat16"]


OF_TF_KERAS = """
import tf_keras
@tf_keras.saving.register_keras_serializable("mine")
class Twice(tf_keras.layers.Layer):
    def call(self, x): return 2 * x

def model(): return tf_keras.saving.get_custom_objects()["mine>Twice"]
"""


def test_settings_and_registrations_of_tf_keras_travel(tmp_path: Path) -> None:
    import tf_keras

    notebook = Notebook()(OF_TF_KERAS)
    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        payload = packed({"model": notebook["model"]}, tmp_path)
    finally:
        tf_keras.mixed_precision.set_global_policy(None)
        tf_keras.saving.get_custom_objects().clear()
    code = """
        import tf_keras
        policy = tf_keras.mixed_precision.global_policy().name
        result = [policy, f["model"]().__name__]
        """
    assert worker(payload, code, keras=True) == ["mixed_bfloat16", "Twice"]


def test_tf_keras_is_not_imported_for_a_notebook_that_does_not_use_it(tmp_path: Path) -> None:
    import tf_keras  # noqa: F401

    payload = packed({"dataset": 1}, tmp_path)
    code = """
        import nbtrain_runtime.fit, nbtrain_runtime.framework
        result = "tf_keras" in sys.modules
        """
    assert worker(payload, code, keras=True) is False


def test_a_quantized_dtype_policy_travels(tmp_path: Path) -> None:
    keras.config.set_dtype_policy(keras.dtype_policies.QuantizedDTypePolicy("int8", "float32"))
    try:
        opened = Payload.open(packed({"dataset": 1}, tmp_path).path)
    finally:
        keras.config.set_dtype_policy("float32")
    try:
        opened.restore_keras()
        assert keras.config.dtype_policy().name == "int8_from_float32"
    finally:
        keras.config.set_dtype_policy("float32")


def test_a_custom_object_that_cannot_travel_stays_with_a_warning(tmp_path: Path) -> None:
    with open(__file__) as file:
        notebook = Notebook(file=file)("def odd(x): return file")
        keras.saving.get_custom_objects()["odd"] = notebook["odd"]
        payload = packed({"dataset": 1}, tmp_path)
    assert payload.warnings == ["The custom object `odd`, registered with Keras, stays here."]


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
@pytest.mark.parametrize(
    ("make", "kind", "fix"),
    [
        ("tf.data.Dataset.range(3)", "a tf.data.Dataset", "make it inside `dataset`"),
        ("iter(tf.data.Dataset.range(3))", "a tf.data.Dataset", "make it inside"),
        ("tf.constant(1.0)", "a TensorFlow tensor", "thing.numpy()"),
        ("tf.Variable(1.0)", "a TensorFlow variable", "thing.numpy()"),
        ("keras.Variable(1.0)", "a TensorFlow variable", "thing.numpy()"),
        ("keras.Input((2,))", "a symbolic Keras tensor", "inside `dataset`"),
        ("keras.random.SeedGenerator(1)", "a Keras SeedGenerator", "inside `dataset`"),
        ("tf.distribute.get_strategy()", "a tf.distribute strategy", "nbtrain makes"),
        (
            "tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(['a'], [1]), 0)",
            "a TensorFlow lookup table",
            "inside `dataset`",
        ),
        ("tf.function(lambda: 1).get_concrete_function()", "a TensorFlow graph", "inside"),
        ("keras.Sequential([keras.Input((3,)), Plain(2)])", "(`Plain`)", "the function or class"),
        ("Net()", "(`Net`)", "inside `dataset`"),
        ("Plain(2)", "(`Plain`)", "inside `dataset`"),
        ("compiled(Weighted(1.0))", "(`Weighted`)", "inside `dataset`"),
        ("keras.Sequential([keras.layers.Dense(1, lambda x: x)])", "(`lambda`)", "inside"),
    ],
)
def test_what_tensorflow_keeps_for_itself_is_refused(
    tmp_path: Path, make: str, kind: str, fix: str
) -> None:
    notebook = Notebook()(CELL)(
        f"""
def compiled(loss):
    m = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    m.compile("sgd", loss)
    return m
thing = {make}
def dataset():
    return thing
"""
    )
    with pytest.raises(CannotTravel) as refused:
        packed({"dataset": notebook["dataset"]}, tmp_path)
    text = str(refused.value)
    assert "`dataset` uses `thing`" in text
    assert kind in text
    assert fix in text
    assert "return thing" in text


def test_a_dataset_object_as_a_role_is_refused_with_the_way_around(tmp_path: Path) -> None:
    value: Any = tf.data.Dataset.range(3)
    with pytest.raises(CannotTravel, match=r"`def dataset\(\): …`"):
        packed({"dataset": value}, tmp_path)
