"""What is looked at before a model of tf_keras is trained: versions, and forms that would be wrong.

The counterpart of `keras_checks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tf_keras
from tf_keras.src.layers.normalization.batch_normalization import BatchNormalizationBase
from tf_keras.src.utils.losses_utils import ReductionV2

from .errors import Refused, VersionMismatch
from .keras_checks import check_sources, warnings_of_steps
from .tf_keras_sources import SOURCES

VERSIONS = ("2.20", "2.21")

_checked: list[bool] = []


def check_versions() -> None:
    """Raise VersionMismatch unless this tf_keras is one that was tested."""
    if _checked:  # afterwards the functions are nbtrain's
        return
    found = tf_keras.__version__
    if not found.startswith(tuple(f"{v}." for v in VERSIONS)):
        raise VersionMismatch(
            f"tf_keras {found}",
            "nbtrain's changes to tf_keras were not tested with it.",
            f"Install tf_keras {' or '.join(VERSIONS)}.",
        )
    check_sources("tf_keras", "tf_keras", found, SOURCES)
    _checked.append(True)


def check_compiled(
    model: tf_keras.Model, strategy: tf.distribute.Strategy
) -> list[tuple[str, str]]:
    """Refuse by name what would not be right with several workers.

    Returns warnings as (code, message).
    """
    if model.distribute_strategy is not strategy:
        raise Refused("model()", "the model was not made by this call.", "Build it in model().")
    _check_variables(model, strategy)
    _check_functions(model)
    _check_inputs(model)
    _check_compile_options(model)
    warnings: list[tuple[str, str]] = []
    for layer in model._flatten_layers():
        _check_layer(layer)
        warnings += _warnings_of_layer(layer)
    warnings += warnings_of_steps(type(model), tf_keras.Model)
    return list(dict(warnings).items())


def _check_variables(model: tf_keras.Model, strategy: tf.distribute.Strategy) -> None:
    """Refuse variables made before `model()` was called: they would be each worker's own."""
    owners = [("the layer variable", model.variables)]
    owners += [("the metric", m.variables) for m in model.metrics]
    variables = getattr(model.optimizer, "variables", ())
    owners.append(("the optimizer variable", variables() if callable(variables) else variables))
    for what, variables in owners:
        for variable in variables:
            if not strategy.extended.variable_created_in_scope(variable):
                raise Refused(
                    f"{what} {variable.name}",
                    "it was made outside model(), so that each worker would train a copy of its"
                    " own.",
                    "Make layers, metrics and optimizers inside model().",
                )


def _check_functions(model: tf_keras.Model) -> None:
    for name in ("make_train_function", "make_test_function"):
        if getattr(type(model), name) is not getattr(tf_keras.Model, name):
            raise Refused(
                name,
                "nbtrain puts its own in its place, so the model's would not be called.",
                "Override train_step or test_step instead.",
            )


def _check_inputs(model: tf_keras.Model) -> None:
    for tensor in tf.nest.flatten(getattr(model, "inputs", None) or []):
        if tensor.shape.rank and tensor.shape[0] is not None:
            raise Refused(
                "Input(batch_size=…)",
                "every worker gets a part of the batch, and the model takes only the whole.",
                "Leave the batch size out of Input: Input(shape).",
            )


def _check_compile_options(model: tf_keras.Model) -> None:
    if model.jit_compile:
        raise Refused(
            "compile(jit_compile=True)",
            "TensorFlow has no collectives inside XLA on CPUs, and on others it was not tested.",
            "Leave it out.",
        )
    if model.autotune_steps_per_execution:
        raise Refused(
            'compile(steps_per_execution="auto")',
            "each worker would choose another number of steps.",
            "Give a number.",
        )
    for loss in tf.nest.flatten(model.loss):
        if getattr(loss, "reduction", None) == ReductionV2.NONE:
            raise Refused(
                f"loss={type(loss).__name__}(reduction=none)",
                "its values are not reduced to a mean, and there is none over the workers then.",
                'Leave reduction out, or use reduction="sum".',
            )


def _check_layer(layer: Any) -> None:
    if not isinstance(layer, BatchNormalizationBase):
        return
    if layer.virtual_batch_size is not None:
        raise Refused(
            "BatchNormalization(virtual_batch_size=...)",
            "its groups of examples are others when each worker has a part of the batch.",
            "Leave virtual_batch_size out.",
        )
    if isinstance(layer.axis, (list, tuple)) and len(layer.axis) > 1:
        raise Refused(
            "BatchNormalization with several axes",
            "nbtrain computes its moments over all workers, for one axis.",
            "Give one axis.",
        )


def _warnings_of_layer(layer: Any) -> Iterator[tuple[str, str]]:
    name = type(layer).__name__
    if _draws(layer):
        yield (
            "random-layer",
            f"{name} draws other numbers on every worker, as it should: the results are good"
            " ones, but not comparable with one process",
        )
    if type(layer).__module__.startswith("tf_keras.") or isinstance(layer, tf_keras.Model):
        return
    if layer._non_trainable_weights:
        yield (
            "layer-state",
            f"{name} keeps values of its own: what it computes from a batch comes from each"
            " worker's part of it. Values that differ between workers end the run; a number of"
            " examples that is counted comes out as that of one worker",
        )


def _draws(layer: Any) -> bool:
    if not hasattr(layer, "_random_generator"):
        return False
    rates = [getattr(layer, n, None) for n in ("rate", "dropout", "recurrent_dropout", "stddev")]
    known = [r for r in rates if isinstance(r, (int, float))]
    return any(known) if known else True
