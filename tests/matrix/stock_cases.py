"""What Keras brings and the other files leave out: losses, optimizers, metrics, callbacks, fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .cases import CASES, Case, basic, case, dense, xy
from .custom_cases import with_callbacks

# -- losses ---------------------------------------------------------------------------------------


def one_hot() -> tuple[Any, Any]:
    x, y = xy(49)
    return x, np.eye(3, dtype="float32")[y]


def positive() -> tuple[Any, Any]:
    x, _ = xy(49)
    return x, (np.abs(x[:, :3]) + 0.1).astype("float32")


#: For each loss: its arguments, the labels it wants, and its tolerance where it has to be larger.
_LOSSES: dict[str, tuple[dict[str, Any], Callable[[], Any], float]] = {
    "BinaryCrossentropy": ({"from_logits": True, "label_smoothing": 0.1}, one_hot, 1e-6),
    "BinaryFocalCrossentropy": ({"from_logits": True}, one_hot, 1e-6),
    "CategoricalCrossentropy": ({"from_logits": True, "axis": -1}, one_hot, 1e-6),
    "CategoricalFocalCrossentropy": ({"from_logits": True}, one_hot, 1e-6),
    "CategoricalGeneralizedCrossEntropy": ({}, lambda: xy(49), 1e-6),
    "CategoricalHinge": ({}, one_hot, 1e-6),
    "KLDivergence": ({}, one_hot, 1e-6),
    "MeanAbsolutePercentageError": ({}, positive, 1e-5),
    "MeanSquaredLogarithmicError": ({}, positive, 1e-6),
    "SquaredHinge": ({}, one_hot, 1e-6),
    "Tversky": ({}, one_hot, 1e-6),
}
for _name, (_options, _data, _tolerance) in _LOSSES.items():

    def _with_loss(
        name: str = _name, options: dict[str, Any] = _options, data: Any = _data
    ) -> dict[str, Any]:
        def loss() -> Any:
            import keras

            return getattr(keras.losses, name)(**options)

        def layers() -> Any:
            import keras

            return [keras.layers.Dense(8, activation="sigmoid")]

        model = dense(optimizer="sgd", loss=loss, metrics=(), layers=layers)
        return {"model": model, "dataset": data, "validation": data}

    CASES[f"stock_loss_{_name}"] = Case(
        f"stock_loss_{_name}", f"loss {_name}", "losses", _with_loss, batch=16, full=True,
        tolerance=_tolerance, why="losses of hundreds" if _tolerance > 1e-6 else "",
    )  # fmt: skip


@case("loss CTC", "losses", batch=8, full=True)
def stock_loss_ctc() -> dict[str, Any]:
    def model() -> Any:
        import keras

        m = keras.Sequential([keras.Input((6, 4)), keras.layers.Dense(5)])
        m.compile(keras.optimizers.SGD(0.01), keras.losses.CTC())
        return m

    def dataset() -> Any:
        rng = np.random.default_rng(2)
        return rng.normal(size=(19, 6, 4)).astype("float32"), rng.integers(1, 5, size=(19, 3))

    return {"model": model, "dataset": dataset, "validation": dataset}


# -- optimizers -----------------------------------------------------------------------------------


@case("MultiOptimizer: another one for each layer", "optimizers", batch=16, full=True)
def multi_optimizer() -> dict[str, Any]:
    def optimizer() -> Any:
        import keras

        k = keras.optimizers
        return k.MultiOptimizer(
            k.OptimizerMap(default_optimizer=k.SGD(0.1), optimizer_map={"dense_1/.*": k.Adam(0.01)})
        )

    return basic(model=dense(optimizer=optimizer))


@case("Adam with amsgrad", "optimizers", batch=16, full=True)
def adam_amsgrad() -> dict[str, Any]:
    def optimizer() -> Any:
        import keras

        return keras.optimizers.Adam(0.05, amsgrad=True)

    return basic(model=dense(optimizer=optimizer))


@case("LossScaleOptimizer by hand", "optimizers", batch=16, full=True)
def loss_scale_by_hand() -> dict[str, Any]:
    def optimizer() -> Any:
        import keras

        inner = keras.optimizers.SGD(0.1, clipnorm=0.5)
        return keras.optimizers.LossScaleOptimizer(inner, initial_scale=128.0)

    return basic(model=dense(optimizer=optimizer))


@case("ScheduleFreeAdamW", "optimizers", batch=16, refused="ScheduleFreeAdamW", full=True)
def schedule_free() -> dict[str, Any]:
    def optimizer() -> Any:
        import keras

        return keras.optimizers.ScheduleFreeAdamW(0.01)

    return basic(model=dense(optimizer=optimizer))


@case("ScheduleFreeAdamW, built in model()", "optimizers", batch=16, full=True)
def schedule_free_built() -> dict[str, Any]:
    def model() -> Any:
        import keras

        m = dense(optimizer=keras.optimizers.ScheduleFreeAdamW(0.01))()
        m.optimizer.build(m.trainable_variables)
        return m

    return basic(model=model)


# -- metrics --------------------------------------------------------------------------------------

#: Metrics of labels from 0 to 2 and of one-hot ones, with their arguments.
_METRICS: dict[str, tuple[Callable[[], Any], dict[str, dict[str, Any]]]] = {
    "class numbers": (
        lambda: xy(49),
        {
            "SparseCategoricalAccuracy": {},
            "SparseCategoricalCrossentropy": {"from_logits": True},
            "SparseTopKCategoricalAccuracy": {"k": 2},
            "IoU": {"num_classes": 3, "target_class_ids": [0, 2], "sparse_y_pred": False},
            "MeanIoU": {"num_classes": 3, "sparse_y_pred": False},
        },
    ),
    "one-hot labels": (
        one_hot,
        {
            "OneHotIoU": {"num_classes": 3, "target_class_ids": [1]},
            "OneHotMeanIoU": {"num_classes": 3},
            "BinaryIoU": {"threshold": 0.3},
            "PrecisionAtRecall": {"recall": 0.5},
            "RecallAtPrecision": {"precision": 0.4},
            "SensitivityAtSpecificity": {"specificity": 0.5},
            "SpecificityAtSensitivity": {"sensitivity": 0.5},
        },
    ),
}
for _kind, (_data, _classes) in _METRICS.items():

    def _with_metrics(
        data: Any = _data, classes: dict[str, dict[str, Any]] = _classes
    ) -> dict[str, Any]:
        def model() -> Any:
            import keras

            made = [getattr(keras.metrics, name)(**options) for name, options in classes.items()]
            inputs = keras.Input((6,))
            outputs = keras.layers.Dense(3, activation="softmax")(inputs)
            m = keras.Model(inputs, outputs)
            sparse = len(data()[1].shape) == 1
            loss = ("sparse_" if sparse else "") + "categorical_crossentropy"
            m.compile("sgd", loss, metrics=made)
            return m

        return {"model": model, "dataset": data, "validation": data}

    _title = f"stock metrics of {_kind}: {', '.join(_classes)}"
    _key = "stock_metrics_of_" + _kind.replace(" ", "_").replace("-", "_")
    CASES[_key] = Case(_key, _title, "metrics", _with_metrics, batch=16, full=True)


# -- callbacks ------------------------------------------------------------------------------------


@case("TensorBoard", "callbacks", batch=16, full=True)
def callback_tensorboard() -> dict[str, Any]:
    def board() -> Any:
        import tempfile

        import keras

        return keras.callbacks.TensorBoard(tempfile.mkdtemp(), histogram_freq=1)

    return with_callbacks(board)


@case("RemoteMonitor: worker 0 alone sends", "callbacks", batch=16, full=True)
def callback_remote_monitor() -> dict[str, Any]:
    def monitor() -> Any:
        import keras

        return keras.callbacks.RemoteMonitor(root="http://127.0.0.1:9")  # nobody is there

    return with_callbacks(monitor)


@case("ProgbarLogger and History by hand", "callbacks", batch=16, full=True)
def callback_by_hand() -> dict[str, Any]:
    def bar() -> Any:
        import keras

        return keras.callbacks.ProgbarLogger()

    def history() -> Any:
        import keras

        return keras.callbacks.History()

    return with_callbacks(bar, history)


# -- fit ------------------------------------------------------------------------------------------


@case("a model that model() has fitted already (a second fit)", "training steps", batch=16)
def second_fit() -> dict[str, Any]:
    return basic(model=fitted_before(dense()), dataset=lambda: xy(49))


def fitted_before(make: Callable[[], Any]) -> Callable[[], Any]:
    """Return a `model()` that fits what `make` makes; of any Keras."""

    def model() -> Any:
        m = make()
        m.fit(*xy(33, seed=4), batch_size=16, epochs=1, verbose=0)
        return m

    return model


@case("a model that was fitted and compiled anew", "training steps", batch=16, full=True)
def recompiled() -> dict[str, Any]:
    def model() -> Any:
        import keras

        m = dense()()
        m.fit(*xy(33, seed=4), batch_size=16, epochs=1, verbose=0)
        m.layers[0].trainable = False
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        m.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, metrics=["accuracy"])
        return m

    return basic(model=model, dataset=lambda: xy(49))


@case("predict and evaluate in model(), before training", "training steps", batch=16, full=True)
def predicts_first() -> dict[str, Any]:
    return basic(model=predicted_before(dense()), dataset=lambda: xy(49))


def predicted_before(make: Callable[[], Any]) -> Callable[[], Any]:
    """Return a `model()` that predicts and evaluates with what `make` makes; of any Keras."""

    def model() -> Any:
        m = make()
        x, y = xy(33, seed=4)
        m.predict(x, verbose=0)
        m.evaluate(x, y, verbose=0)
        return m

    return model
