"""All that nbtrain changes in Keras 3, so that N workers give what one process gives.

Keras 3 does not run under MultiWorkerMirroredStrategy by itself, and its way of distributing a
loss (divide by the number of replicas, sum the gradients) is wrong for uneven shards, clipping
and custom steps. Here **every worker computes what one process would on its shard, and the
optimizer gets the example-weighted mean of the gradients**:

    g = sum over workers w of (n_w / n) * g_w

with n_w the examples of worker w in this step and n those of all. n_w rides along with the
gradients, so an ordinary step has no collective that it would not have anyway.

Each patch names the place in Keras that it replaces; `check_versions` sees to it that these are
the ones that were tested.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src import backend, ops
from keras.src.backend.tensorflow import trainer as tf_trainer
from keras.src.backend.tensorflow.optimizer import TFOptimizer
from keras.src.layers.normalization.batch_normalization import BatchNormalization
from keras.src.losses import loss as loss_module
from keras.src.metrics.reduction_metrics import Mean
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.optimizers.loss_scale_optimizer import LossScaleOptimizer
from keras.src.random.seed_generator import SeedGenerator
from keras.src.trainers.epoch_iterator import EpochIterator
from tensorflow.python.distribute import values as tf_values
from tensorflow.python.distribute.collective_all_reduce_strategy import (
    CollectiveAllReduceExtended,
)

from .errors import Refused, VersionMismatch

KERAS_VERSIONS = ("3.15",)
TENSORFLOW_VERSIONS = ("2.20", "2.21")

Array = np.ndarray[Any, Any]


def check_versions() -> None:
    """Raise VersionMismatch unless this Keras and TensorFlow are ones that were tested."""
    for name, found, known in (
        ("Keras", keras.__version__, KERAS_VERSIONS),
        ("TensorFlow", tf.__version__, TENSORFLOW_VERSIONS),
    ):
        if not found.startswith(tuple(f"{v}." for v in known)):
            raise VersionMismatch(
                f"{name} {found}",
                "nbtrain's changes to Keras were not tested with it.",
                f"Install {name} {' or '.join(known)}.",
            )
    if keras.backend.backend() != "tensorflow":
        raise VersionMismatch(
            f"Keras backend {keras.backend.backend()!r}",
            "MultiWorkerMirroredStrategy is TensorFlow's.",
            "Set KERAS_BACKEND=tensorflow.",
        )


# -- the step that is being traced or run -------------------------------------------------------


class _Step:
    """The examples of this worker in the step at hand; `n_all` is reduced once where needed."""

    def __init__(self, n: Any) -> None:
        self.n = n
        self.reducing = False
        self._n_all: Any = None

    @property
    def is_even(self) -> bool:
        """All shards are equal where the batch dimension is static."""
        return isinstance(self.n, int)

    def n_all(self) -> Any:
        """Return the number of examples of all workers."""
        if self.is_even:
            return self.n * _replicas()
        if self._n_all is None:
            self._n_all = _sum(tf.cast(self.n, "float32"))
        return self._n_all

    def weight(self) -> Any:
        """Return n_w / n."""
        if self.is_even:
            return 1.0 / _replicas()
        return tf.math.divide_no_nan(tf.cast(self.n, "float32"), self.n_all())


_current: list[_Step] = []
_lock = threading.RLock()


def _step() -> _Step | None:
    """Return the step, inside the replica context of several workers; else None."""
    if not _current or _replicas() < 2 or not tf.distribute.get_replica_context():
        return None
    return _current[-1]


def _replicas() -> int:
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def _sum(value: tf.Tensor) -> tf.Tensor:
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def _examples(data: Any) -> Any:
    """Return the batch size of a step's data: an int where it is static."""
    for leaf in keras.tree.flatten(data):
        if isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
            return tf.shape(leaf)[0] if isinstance(leaf, tf.SparseTensor) else leaf.nrows()
        if isinstance(leaf, tf.Tensor) and leaf.shape.rank != 0:
            static = leaf.shape[0]
            return static if static is not None else tf.shape(leaf)[0]
    return 1


# -- keras/src/backend/tensorflow/trainer.py ------------------------------------------------------


def _make_function(self: Any, step_function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Replace `TensorFlowTrainer._make_function`.

    The step knows its number of examples. Logs stay local values: one process' values come from
    the metrics at the end of the epoch. Several steps in one execution are a loop in Python,
    since Keras' loop in the graph fails under the strategy.
    """

    def replica_step(data: Any) -> Any:
        with _in_step(data):
            return _exact_logs(self, step_function, data)

    @tf.autograph.experimental.do_not_convert
    def one_step(data: Any) -> Any:
        outputs = self.distribute_strategy.run(replica_step, args=(data,))
        return keras.tree.map_structure(
            lambda v: self.distribute_strategy.experimental_local_results(v)[0], outputs
        )

    if not self.run_eagerly:
        one_step = tf.function(one_step, reduce_retracing=True, jit_compile=self.jit_compile)
    one_step = self._autoconvert_optionals(one_step)

    @tf.autograph.experimental.do_not_convert
    def next_step(iterator: Any) -> Any:
        return one_step(iterator.get_next())

    if not self.run_eagerly:
        next_step = tf.function(next_step, reduce_retracing=True)

    def function(iterator: Any) -> Any:
        # Reading in the graph is faster, but does not tell of the end in the middle of a loop.
        in_graph = self.steps_per_execution == 1 and isinstance(
            iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)
        )
        outputs = None
        for _ in range(self.steps_per_execution):
            try:
                outputs = next_step(iterator) if in_graph else one_step(next(iterator))
            except (StopIteration, tf.errors.OutOfRangeError):
                if outputs is None:
                    raise StopIteration from None
                break
        return outputs

    return function


@contextlib.contextmanager
def _in_step(data: Any) -> Iterator[None]:
    with _lock:
        _current.append(_Step(_examples(data)))
        try:
            yield
        finally:
            _current.pop()


def _exact_logs(model: Any, step_function: Callable[[Any], Any], data: Any) -> Any:
    """Run a step; of what it returns, reduce what is not a metric's result.

    For a custom step Keras keeps the last step's logs as those of the epoch. A metric's result
    is then read from the metric of all workers (`_get_metrics_result_or_logs`); anything else
    is a value of this batch, of which the example-weighted mean is taken.
    """
    step = _step()
    if step is None or type(model).train_step is keras.Model.train_step:
        return step_function(data)
    results: set[int] = set()
    with _noting_results(model.metrics, results):
        logs = step_function(data)
    if not isinstance(logs, dict):
        return logs
    logs = _flat(logs)
    values = {k: v for k, v in logs.items() if id(v) not in results and _is_scalar(v)}
    model._nbtrain_step_values = set(values)
    if not values:
        return logs
    weight = step.weight()
    parts = [tf.math.multiply_no_nan(tf.cast(v, "float32"), weight) for v in values.values()]
    reduced = tf.unstack(_sum(tf.stack(parts)), num=len(parts))
    return logs | dict(zip(values, reduced, strict=True))


@contextlib.contextmanager
def _noting_results(metrics: list[Any], results: set[int]) -> Iterator[None]:
    """Note the ids of the tensors that metrics give as results; they live as long as the step."""
    kept = []

    def noting(result: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> Any:
            value = result()
            kept.append(value)
            results.update(map(id, keras.tree.flatten(value)))
            return value

        return call

    for metric in metrics:
        object.__setattr__(metric, "result", noting(metric.result))
    try:
        yield
    finally:
        for metric in metrics:
            object.__delattr__(metric, "result")


def _flat(logs: dict[str, Any]) -> dict[str, Any]:
    """Return logs without nesting, as `pythonify_logs` makes them for callbacks."""
    flat: dict[str, Any] = {}
    for name, value in logs.items():
        flat |= _flat(value) if isinstance(value, dict) else {name: value}
    return flat


def _is_scalar(value: Any) -> bool:
    return len(getattr(value, "shape", ())) == 0


def _get_metrics_result_or_logs(original: Callable[..., Any], self: Any, logs: Any) -> Any:
    """Wrap `Trainer._get_metrics_result_or_logs`: a metric's value is that of all workers."""
    values = getattr(self, "_nbtrain_step_values", None)
    if values is None or not isinstance(logs, dict):
        return original(self, logs)
    results = self.get_metrics_result()
    if set(logs) == set(results):
        return results
    return {k: v if k in values else results.get(k, v) for k, v in logs.items()}


def _maybe_symbolic_build(self: Any, iterator: Any = None, data_batch: Any = None) -> None:
    """Replace `TensorFlowTrainer._maybe_symbolic_build`: build from the shapes alone.

    Keras takes a batch to look at, which changes the order of a shuffled dataset.
    """
    if self._distribute_strategy is None:
        return
    if iterator is not None:
        data_batch = keras.tree.map_structure(
            _local_spec, iterator._distributed_dataset.element_spec
        )
    with self.distribute_strategy.scope():
        self._symbolic_build(data_batch=data_batch)


def _local_spec(spec: Any) -> Any:
    while hasattr(spec, "_value_specs"):
        spec = spec._value_specs[0]
    return spec


def _epoch_iterator_init(
    self: Any, distribute_strategy: Any = None, *args: Any, **kwargs: Any
) -> None:
    """Replace `TFEpochIterator.__init__`: shard by example, never by file."""
    EpochIterator.__init__(self, *args, **kwargs)
    self._distribute_strategy = distribute_strategy
    dataset = self.data_adapter.get_tf_dataset()
    if not isinstance(dataset, tf.distribute.DistributedDataset):
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.DATA
        )
        dataset = distribute_strategy.experimental_distribute_dataset(dataset.with_options(options))
    self._distributed_dataset = dataset


# -- keras/src/losses/loss.py ---------------------------------------------------------------------


def _identity(value: Any) -> Any:
    """Replace `scale_loss_for_distribution` and its inverse: the mean is taken of gradients."""
    return value


def _reduce_values(
    original: Callable[..., Any], values: Any, sample_weight: Any = None,
    reduction: Any = "sum_over_batch_size",
) -> Any:  # fmt: skip
    """Wrap `reduce_values`: sums, and divisors that depend on the data, are those of all."""
    step = _step()
    if step is None or tuple(values.shape) == ():
        return original(values, sample_weight, reduction)
    if reduction in (None, "none"):
        raise Refused(
            "a loss with reduction=None",
            "its vector has no mean over the workers.",
            'Use reduction="sum", or the default.',
        )
    if reduction == "sum":
        total = original(values, sample_weight, reduction)
        return tf.math.divide_no_nan(total, tf.cast(step.weight(), total.dtype))
    if reduction == "mean_with_sample_weight" and sample_weight is not None:
        loss = ops.sum(values)
        divisor = _sum(tf.cast(ops.sum(sample_weight), loss.dtype))
        return tf.math.divide_no_nan(loss, divisor * tf.cast(step.weight(), loss.dtype))
    return original(values, sample_weight, reduction)


def _apply_mask(
    original: Callable[..., Any], sample_weight: Any, mask: Any, dtype: Any, reduction: Any
) -> Any:
    """Wrap `apply_mask`: the number of valid entries is that of all workers."""
    step = _step()
    if step is None or mask is None or reduction not in ("mean", "sum_over_batch_size"):
        return original(sample_weight, mask, dtype, reduction)
    valid = ops.sum(ops.cast(mask, "float32"))
    total, valid = tf.unstack(_sum(tf.stack([tf.cast(tf.size(mask), "float32"), valid])))
    factor = ops.cast(tf.math.divide_no_nan(total, valid), dtype)
    weighted = original(sample_weight, mask, dtype, "sum")
    return weighted * factor


# -- keras/src/optimizers -------------------------------------------------------------------------


def _apply(
    original: Callable[..., Any], self: Any, grads: Any, trainable_variables: Any = None
) -> Any:
    """Wrap `apply`: the gradients are reduced first, before clipping or any test of them."""
    step = _step()
    if step is None or step.reducing:
        return original(self, grads, trainable_variables)
    step.reducing = True
    try:
        return original(self, mean_gradients(list(grads), step), trainable_variables)
    finally:
        step.reducing = False


def mean_gradients(grads: list[Any], step: _Step) -> list[Any]:
    """Return the example-weighted mean over the workers, by one collective for each dtype."""
    present = [g for g in grads if g is not None]
    if step.is_even:
        scale = 1.0 / _replicas()
        reduced = iter(_packed_sum([_scaled(g, scale) for g in present]))
    else:
        n = tf.cast(step.n, "float32")
        *sums, n_all = _packed_sum([*(_scaled(g, n) for g in present), n])
        inverse = tf.math.reciprocal_no_nan(n_all)
        reduced = iter([_scaled(g, inverse) for g in sums])
    return [None if g is None else next(reduced) for g in grads]


def _scaled(grad: Any, factor: Any) -> Any:
    if isinstance(grad, tf.IndexedSlices):
        values = _scaled(grad.values, factor)
        return tf.IndexedSlices(values, grad.indices, grad.dense_shape)
    return tf.math.multiply_no_nan(grad, tf.cast(factor, grad.dtype))


def _packed_sum(values: list[Any]) -> list[Any]:
    """Sum over the workers: one call for the dense values of a dtype, one for each sparse one."""
    results: list[Any] = [None] * len(values)
    by_dtype: dict[Any, list[int]] = {}
    for i, value in enumerate(values):
        if isinstance(value, tf.IndexedSlices):
            results[i] = _sum(value)
        else:
            by_dtype.setdefault(value.dtype, []).append(i)
    for indices in by_dtype.values():
        flat = tf.concat([tf.reshape(values[i], [-1]) for i in indices], 0)
        parts = tf.split(_sum(flat), [tf.size(values[i]) for i in indices], num=len(indices))
        for i, part in zip(indices, parts, strict=True):
            shaped = tf.reshape(part, tf.shape(values[i]))
            shaped.set_shape(values[i].shape)
            results[i] = shaped
    return results


def _all_reduce_sum_gradients(original: Callable[..., Any], self: Any, grads_and_vars: Any) -> Any:
    """Wrap `TFOptimizer._all_reduce_sum_gradients`: they are reduced already."""
    step = _step()
    if step is not None and step.reducing:
        return list(grads_and_vars)
    return original(self, grads_and_vars)


# -- layers ---------------------------------------------------------------------------------------


def _moments(original: Callable[..., Any], self: Any, inputs: Any, mask: Any) -> Any:
    """Wrap `BatchNormalization._moments`: mean and variance of the whole batch, as in one process.

    In two passes: the one-pass formula of Keras' `synchronized=True` cancels digits.
    """
    step = _step()
    if step is None:
        return original(self, inputs, mask)
    axes = self._reduction_axes
    weights, guard = tf.ones_like(inputs), 0.0
    if mask is not None:
        weights = tf.cast(mask, inputs.dtype)
        weights = tf.broadcast_to(tf.expand_dims(weights, -1), tf.shape(inputs))
        guard = keras.config.epsilon()
    count = _sum(tf.reduce_sum(weights, axis=axes)) + guard
    mean = _coupled_sum(tf.reduce_sum(inputs * weights, axis=axes), step) / count
    shape = [d if i not in axes else 1 for i, d in enumerate(inputs.shape)]
    centred = (inputs - tf.reshape(mean, shape)) * tf.sqrt(weights)
    variance = _coupled_sum(tf.reduce_sum(tf.square(centred), axis=axes), step) / count
    return mean, variance


def _coupled_sum(value: tf.Tensor, step: _Step) -> tf.Tensor:
    """Sum over the workers in the forward pass, with the gradient that goes with it.

    What comes back on worker w is weighted by n_w / n when the gradients are reduced, so this
    one has to be (1 / n_w) * sum over workers v of n_v * dy_v.
    """

    @tf.custom_gradient
    def summed(x: tf.Tensor) -> Any:
        def gradient(dy: tf.Tensor) -> tf.Tensor:
            if step.is_even:
                return _sum(dy)
            n = tf.cast(step.n, dy.dtype)
            return tf.math.divide_no_nan(_sum(tf.math.multiply_no_nan(dy, n)), n)

        return _sum(x), gradient

    return summed(value)


#: Operations of `keras.src.backend.tensorflow.nn` that fail on a batch of no examples.
_CANNOT_DO_NOTHING = (
    *("conv", "depthwise_conv", "separable_conv", "conv_transpose"),
    *("max_pool", "average_pool", "adaptive_max_pool", "adaptive_average_pool"),
)


def _not_on_nothing(original: Callable[..., Any], inputs: Any, *args: Any, **kwargs: Any) -> Any:
    """Wrap convolutions and pools: an empty shard is computed with a row of zeros.

    oneDNN's convolution of no examples has the shape of its input, and the gradient of its
    max pooling aborts the process (TensorFlow 2.21).
    """
    step = _step()
    if step is None or step.is_even:
        return original(inputs, *args, **kwargs)
    n = tf.shape(inputs)[0]

    def of_zeros() -> Any:
        row = tf.concat([[1], tf.shape(inputs)[1:]], 0)
        zeros = tf.ensure_shape(tf.zeros(row, inputs.dtype), [1, *inputs.shape[1:]])
        return original(zeros, *args, **kwargs)[:0]

    return tf.cond(n > 0, lambda: original(inputs, *args, **kwargs), of_zeros)


# -- metrics, seeds, TensorFlow -------------------------------------------------------------------


def _mean_update_state(
    original: Callable[..., Any], self: Any, values: Any, sample_weight: Any = None
) -> Any:
    """Wrap `Mean.update_state`: a scalar counts for the examples that it is the mean of."""
    step = _step()
    if step is not None and sample_weight is None:
        values = ops.convert_to_tensor(values)
        if len(values.shape) == 0:
            sample_weight = ops.cast(step.weight(), self.dtype)
            values = tf.where(sample_weight > 0, ops.cast(values, self.dtype), 0)
    return original(self, values, sample_weight)


def _seed_next(original: Callable[..., Any], self: Any, ordered: bool = True) -> Any:
    """Wrap `SeedGenerator.next`: workers draw different masks; the state stays the same."""
    seed = original(self, ordered)
    context = tf.distribute.get_replica_context()
    if _step() is None:
        return seed
    replica = tf.cast(context.replica_id_in_sync_group, seed.dtype)
    return seed + tf.stack([replica * tf.cast(0x9E3779B, seed.dtype), tf.zeros_like(replica)])


def _aggregate(
    original: Callable[..., Any], value: Any, aggregation: Any, destinations: Any
) -> Any:
    """Wrap `apply_aggregation_replica_context`: the value is the same on all replicas."""
    if aggregation == tf.VariableAggregation.ONLY_FIRST_REPLICA:
        return value
    return original(value, aggregation, destinations)


_installed = False


def install() -> None:
    """Apply the patches; once, before a model is built."""
    global _installed
    if _installed:
        return
    _installed = True
    trainer = tf_trainer.TensorFlowTrainer
    trainer._make_function = _make_function
    trainer._maybe_symbolic_build = _maybe_symbolic_build
    tf_trainer.TFEpochIterator.__init__ = _epoch_iterator_init
    loss_module.scale_loss_for_distribution = _identity
    loss_module.unscale_loss_for_distribution = _identity
    _wrap(trainer, "_get_metrics_result_or_logs", _get_metrics_result_or_logs)
    _wrap(loss_module, "reduce_values", _reduce_values)
    _wrap(loss_module, "apply_mask", _apply_mask)
    _wrap(BaseOptimizer, "apply", _apply)
    _wrap(LossScaleOptimizer, "apply", _apply)
    _wrap(TFOptimizer, "_all_reduce_sum_gradients", _all_reduce_sum_gradients)
    _wrap(BatchNormalization, "_moments", _moments)
    for name in _CANNOT_DO_NOTHING:
        _wrap(backend.nn, name, _not_on_nothing)
    _wrap(Mean, "update_state", _mean_update_state)
    _wrap(SeedGenerator, "next", _seed_next)
    _wrap(tf_values, "apply_aggregation_replica_context", _aggregate)
    CollectiveAllReduceExtended._use_merge_call = lambda self: False


def _wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    original = getattr(owner, name)

    def patched(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    patched.__name__ = name
    setattr(owner, name, patched)


# -- before training, and between the workers -----------------------------------------------------


def check_compiled(model: keras.Model, strategy: tf.distribute.Strategy) -> list[tuple[str, str]]:
    """Refuse by name what would not be right; return warnings as (code, message)."""
    if strategy.num_replicas_in_sync < 2:
        return []
    if getattr(model, "_distribute_strategy", None) is not strategy:
        raise Refused("model()", "the model was not made by this call.", "Build it in model().")
    warnings = []
    for layer in model._flatten_layers():
        name = type(layer).__name__
        if "Dropout" in name or name.startswith(("Random", "Gaussian")):
            message = (
                f"{name} draws another mask on every worker, as it should: the numbers are good"
                " ones, but not comparable with one process"
            )
            warnings.append(("random-layer", message))
    for loss in keras.tree.flatten(model.loss):
        _check_loss(loss)
    if type(model).train_step is not keras.Model.train_step:
        warnings += _check_train_step(type(model).train_step)
    return list(dict(warnings).items())


def _check_loss(loss: Any) -> None:
    """Refuse the stock losses in which the examples of a batch depend on each other."""
    name = loss if isinstance(loss, str) else type(loss).__name__
    plain = str(name).lower().replace("_", "")
    if plain == "circle":
        raise Refused(
            "loss=Circle()",
            "it compares the examples of a batch with each other, and each worker has its own.",
            "Train with --workers 1, or take a loss that is a mean over examples.",
        )
    if plain in ("dice", "tversky") and getattr(loss, "axis", None) is None:
        raise Refused(
            f"loss={name}() over the whole batch",
            "it is a ratio of sums over the batch, and each worker has only its own part.",
            f"Give it the axes of one example: keras.losses.{name}(axis=(1, 2, 3)).",
        )
    if getattr(loss, "reduction", "") in ("none", None) and hasattr(loss, "reduction"):
        raise Refused(
            f"loss={name}(reduction=None)",
            "its values are not reduced to a mean, and there is none over the workers then.",
            'Leave reduction out, or use reduction="sum".',
        )


def _check_train_step(step: Any) -> list[tuple[str, str]]:
    """Look for what can't be seen from outside: a step that sums over the batch by hand."""
    try:
        source = inspect.getsource(step)
    except (OSError, TypeError):
        return []
    if "reduce_sum" not in source and "ops.sum" not in source:
        return []
    message = (
        "train_step sums by hand (reduce_sum): nbtrain takes a loss for a mean over the examples,"
        " so a sum over the batch comes out divided by the number of workers; use a mean"
    )
    return [("sum-in-train-step", message)]


def agree(values: Sequence[float], op: str, strategy: tf.distribute.Strategy) -> list[float]:
    """Return the maximum (`op="max"`) or sum of host values over all workers."""
    if strategy.num_replicas_in_sync < 2:
        return list(values)
    rows = _gathered(np.asarray(values, "float64"), strategy)
    reduced = rows.max(axis=0) if op == "max" else rows.sum(axis=0)
    return [float(v) for v in reduced]


def _gathered(row: Array, strategy: tf.distribute.Strategy) -> Array:
    """Return the rows of all workers, by one all-reduce."""
    replicas = strategy.num_replicas_in_sync
    worker = strategy.cluster_resolver.task_id
    table = np.zeros((replicas, *row.shape), row.dtype)
    table[worker] = row

    def reduce(value: tf.Tensor) -> tf.Tensor:
        return _sum(tf.identity(value))

    return np.asarray(strategy.run(_traced(reduce), args=(tf.constant(table),)).numpy())


_functions: dict[Any, Any] = {}


def _traced(function: Callable[..., Any]) -> Any:
    return _functions.setdefault(
        function.__qualname__, tf.function(function, reduce_retracing=True)
    )


def check_replicas(model: keras.Model, strategy: tf.distribute.Strategy) -> str:
    """Compare all weights over the workers; return their digest.

    Raises
    ------
    Refused
        If a variable differs; it is named.
    """
    digests = [
        hashlib.blake2b(v.numpy().tobytes(), digest_size=6).digest() for v in model.variables
    ]
    whole = hashlib.sha256(b"".join(digests)).hexdigest()[:16]
    if strategy.num_replicas_in_sync < 2:
        return whole
    # 48 bits are exact in a float64.
    rows = _gathered(np.array([float(int.from_bytes(d, "big")) for d in digests]), strategy)
    different = np.flatnonzero((rows != rows[0]).any(axis=0))
    if different.size:
        path = model.variables[int(different[0])].path
        raise Refused(
            f"the variable {path}",
            "its values differ between the workers; the model would not be what one process gives.",
            "A layer that changes it must do so from what is the same on all workers.",
        )
    return whole


def build_from_spec(model: keras.Model, spec: Any) -> None:
    """Build a model from the shapes and dtypes of a batch, as `fit` would from the batch."""
    batch = _structure(spec)
    model._symbolic_build(data_batch=batch)


def _structure(spec: Any) -> Any:
    if isinstance(spec, dict) and set(spec) == {"shape", "dtype"}:
        return backend.KerasTensor(tuple(spec["shape"]), spec["dtype"])
    if isinstance(spec, dict):
        return {k: _structure(v) for k, v in spec.items()}
    if isinstance(spec, list):
        return tuple(_structure(v) for v in spec)
    return None
