"""All that nbtrain changes in Keras 3, so that N workers give what one process gives.

Keras 3 does not run under MultiWorkerMirroredStrategy by itself, and its way of distributing a
loss (divide by the number of replicas, sum the gradients) is wrong for uneven shards, clipping
and custom steps. Here **every worker computes what one process would on its shard, and the
optimizer gets the example-weighted mean of the gradients**:

    g = sum over workers w of (n_w / n) * g_w

with n_w the examples of worker w in this step and n those of all. n_w rides along with the
gradients, so an ordinary step has no collective that it would not have anyway. What is no mean
over examples is computed from the outputs of all workers (`keras_whole`).

Each patch names the place in Keras that it replaces; `keras_checks.check_versions` sees to it that
these are the ones that were tested.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf
from keras.src import backend, ops
from keras.src.backend.common import global_state
from keras.src.backend.tensorflow import trainer as tf_trainer
from keras.src.backend.tensorflow.optimizer import TFOptimizer
from keras.src.callbacks.callback_list import CallbackList
from keras.src.layers.normalization.batch_normalization import BatchNormalization
from keras.src.losses import loss as loss_module
from keras.src.metrics.reduction_metrics import Mean, Sum
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.optimizers.loss_scale_optimizer import LossScaleOptimizer
from keras.src.random import seed_generator as seed_module
from keras.src.random.seed_generator import SeedGenerator
from keras.src.trainers.compile_utils import CompileLoss
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.epoch_iterator import EpochIterator
from tensorflow.python.data.ops import interleave_op
from tensorflow.python.distribute import values as tf_values
from tensorflow.python.distribute.collective_all_reduce_strategy import (
    CollectiveAllReduceExtended,
)
from tensorflow.python.eager import record

from . import keras_whole, pipelines, shard
from .data import note_spec
from .errors import Refused
from .keras_callbacks import looks_at_batches
from .keras_checks import (
    KERAS_VERSIONS,
    TENSORFLOW_VERSIONS,
    check_compiled,
    check_versions,
)
from .keras_step import (
    Step,
    current,
    entered,
    has_sparse,
    packed_sum,
    reduce_sum,
    replica_index,
    table,
)
from .keras_step import examples as count_examples
from .replicas import agree, broadcast_state, check_replicas, compare_digests, digest
from .watch import Watch

__all__ = [
    "KERAS_VERSIONS",
    "TENSORFLOW_VERSIONS",
    "agree",
    "broadcast_state",
    "build_from_spec",
    "check_compiled",
    "check_replicas",
    "check_versions",
    "compare_digests",
    "digest",
    "exact_batch_logs",
    "install",
]

# -- keras/src/backend/tensorflow/trainer.py ------------------------------------------------------


class _Logs(dict[str, Any]):
    """Logs of a custom step, with what is known of their values.

    Attributes
    ----------
    results
        For what is a metric's result: the metric's place in `model.metrics`, and the place in
        its result, which may be a dict.
    """

    results: Mapping[str, tuple[int, int]] | None = None


class _NeedsExactLogs(Exception):
    """A custom step computes with a metric's result, so that has to be the one of all workers."""


class _Function:
    """Replaces what `TensorFlowTrainer._make_function` returns: runs steps on an iterator.

    The step knows its number of examples. Logs are the local ones, which cost nothing: the values
    of an epoch come from the metrics of all workers. Where a callback looks at the logs of every
    batch they are exact, by one collective. Several steps in one execution are a loop in Python,
    since Keras' loop in the graph fails under the strategy.
    """

    def __init__(self, model: Any, step_function: Callable[[Any], Any]) -> None:
        self._model, self._step_function = model, step_function
        self._needs_exact = False
        self._results: dict[str, tuple[int, int]] | None = None
        self._made: dict[bool, tuple[Any, Any]] = {}
        keras_whole.prepare_losses(loss_module.Loss)

    def __call__(self, iterator: Any) -> Any:
        """Run `steps_per_execution` steps; return the logs of the last one."""
        try:
            return self._run(iterator, self._functions())
        except _NeedsExactLogs:
            self._needs_exact = True
            return self._run(iterator, self._functions())

    def _functions(self) -> tuple[Any, Any]:
        exact = self._needs_exact or wants_exact_logs(self._model)
        if exact not in self._made:
            self._made[exact] = self._make(exact)
        return self._made[exact]

    def _run(self, iterator: Any, functions: tuple[Any, Any]) -> Any:
        one_step, next_step = functions
        # Reading in the graph is faster, but does not tell of the end in the middle of a loop.
        in_graph = self._model.steps_per_execution == 1 and isinstance(
            iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)
        )
        outputs = None
        for _ in range(self._model.steps_per_execution):
            try:
                outputs = next_step(iterator) if in_graph else one_step(next(iterator))
            except (StopIteration, tf.errors.OutOfRangeError):
                if outputs is None:
                    raise StopIteration from None
                break
        if not isinstance(outputs, dict):
            return outputs
        logs = _Logs(outputs)
        logs.results = self._results
        return logs

    def _make(self, exact: bool) -> tuple[Any, Any]:
        model = self._model
        strategy = model.distribute_strategy

        def replica_step(data: Any) -> Any:
            step = Step(count_examples(data), is_sparse=has_sparse(data))
            with entered(step), own_randomness():
                return self._logs(data, exact)

        @tf.autograph.experimental.do_not_convert
        def one_step(data: Any) -> Any:
            outputs = strategy.run(replica_step, args=(data,))
            return keras.tree.map_structure(
                lambda v: strategy.experimental_local_results(v)[0], outputs
            )

        if not model.run_eagerly:
            one_step = tf.function(one_step, reduce_retracing=True, jit_compile=model.jit_compile)
        one_step = model._autoconvert_optionals(one_step)

        @tf.autograph.experimental.do_not_convert
        def next_step(iterator: Any) -> Any:
            return one_step(iterator.get_next())

        if not model.run_eagerly:
            next_step = tf.function(next_step, reduce_retracing=True)
        return one_step, next_step

    def _logs(self, data: Any, exact: bool) -> Any:
        """Run a step and make of its logs what they would be in one process.

        For a custom step Keras keeps the last step's logs as those of the epoch. A metric's result
        is then read from the metric of all workers (`_get_metrics_result_or_logs`); anything else
        is a value of this batch, of which the example-weighted mean is taken.
        """
        step = current()
        if step is None:
            return self._step_function(data)
        if self._is_stock():
            logs = self._step_function(data)
            return _exact_results(self._model) if exact else logs
        results: dict[int, tuple[int, int]] = {}
        with _noting_results(self._model, results, exact=exact):
            logs = self._step_function(data)
        if not isinstance(logs, dict):
            return logs
        logs = _flat(logs)
        values = {k: v for k, v in logs.items() if id(v) not in results and _is_scalar(v)}
        self._results = {k: results[id(v)] for k, v in logs.items() if id(v) in results}
        if values and not exact and not results.keys() <= {id(v) for v in logs.values()}:
            raise _NeedsExactLogs
        if not values:
            return logs
        parts = [
            tf.math.multiply_no_nan(tf.cast(v, "float32"), step.weight()) for v in values.values()
        ]
        reduced = tf.unstack(reduce_sum(tf.stack(parts)), num=len(parts))
        return logs | dict(zip(values, reduced, strict=True))

    def _is_stock(self) -> bool:
        function = getattr(self._step_function, "__func__", None)
        return function in (keras.Model.train_step, keras.Model.test_step)


def _make_function(self: Any, step_function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Replace `TensorFlowTrainer._make_function`."""
    return _Function(self, step_function)


@contextlib.contextmanager
def own_randomness() -> Iterator[None]:
    """Have `tf.random` operations of a traced step draw differently on each worker."""
    if tf.executing_eagerly() or not replica_index():
        yield
        return
    graph = tf.compat.v1.get_default_graph()
    before = graph.seed
    graph.seed = ((before or 0) + 0x9E3779B * replica_index()) % 2**31
    try:
        yield
    finally:
        graph.seed = before


@contextlib.contextmanager
def _noting_results(
    model: Any, results: dict[int, tuple[int, int]], *, exact: bool
) -> Iterator[None]:
    """Note by id the tensors that metrics give as results; they live as long as the step."""
    kept = []
    metrics = model.metrics

    def noting(place: int, metric: Any, result: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> Any:
            if exact:
                with _summed([metric]):
                    value = result()
            else:
                value = result()
            value = keras.tree.map_structure(tf.convert_to_tensor, value)
            kept.append(value)
            leaves = keras.tree.flatten(value)
            results.update({id(leaf): (place, i) for i, leaf in enumerate(leaves)})
            return value

        return call

    for place, metric in enumerate(metrics):
        object.__setattr__(metric, "result", noting(place, metric, metric.result))
    try:
        yield
    finally:
        for metric in metrics:
            object.__delattr__(metric, "result")


def _exact_results(model: Any) -> dict[str, Any]:
    """Return the metrics' results over all workers, inside a step; one collective."""
    with _summed(list(model.metrics)):
        results = model.get_metrics_result()
    # Some metrics give their variable, which can't leave the step.
    return dict(keras.tree.map_structure(tf.convert_to_tensor, results))


@contextlib.contextmanager
def _summed(metrics: list[Any]) -> Iterator[None]:
    """Have the metrics' variables read as their sums over the workers."""
    variables = _summable(metrics)
    sums = packed_sum([tf.convert_to_tensor(v.value) for v in variables])
    with keras.StatelessScope(state_mapping=list(zip(variables, sums, strict=True))):
        yield


def _summable(metrics: list[Any]) -> list[Any]:
    found: dict[int, Any] = {}
    for metric in metrics:
        for part in [metric, *(getattr(metric, "metrics", None) or [])]:
            if not keras_whole.is_whole(part):
                found |= {id(v): v for v in part.variables}
    for metric in metrics:  # those of `compile` are in the list of their container as well
        for part in getattr(metric, "metrics", None) or []:
            if keras_whole.is_whole(part):
                for variable in part.variables:
                    found.pop(id(variable), None)
    return list(found.values())


def _flat(logs: dict[str, Any]) -> dict[str, Any]:
    """Return logs without nesting, as `pythonify_logs` makes them for callbacks."""
    flat: dict[str, Any] = {}
    for name, value in logs.items():
        flat |= _flat(value) if isinstance(value, dict) else {name: value}
    return flat


def _is_scalar(value: Any) -> bool:
    return len(getattr(value, "shape", ())) == 0


def _get_metrics_result_or_logs(original: Callable[..., Any], self: Any, logs: Any) -> Any:
    """Wrap `Trainer._get_metrics_result_or_logs`: a metric's value is that of all workers.

    Keras would read variable after variable, each by a collective; here it is one for all.
    """
    strategy = self.distribute_strategy
    if strategy.num_replicas_in_sync < 2 or not self.metrics:
        return original(self, logs)
    variables = _summable(list(self.metrics))
    sums = _sums_of(strategy, variables)
    with keras.StatelessScope(state_mapping=list(zip(variables, sums, strict=True))):
        known = getattr(logs, "results", None)
        # A custom step: what it returns is what counts, unless Keras takes it for the metrics.
        if known is not None and set(logs) != set(self.get_metrics_result()):
            results = [keras.tree.flatten(m.result()) for m in _named(self.metrics, known)]
            of_all = {k: results[i][j] for k, (i, j) in known.items()}
            return logs | keras.tree.map_structure(tf.convert_to_tensor, of_all)
        found = keras.tree.map_structure(tf.convert_to_tensor, self.get_metrics_result())
    return found if isinstance(logs, dict) else logs


def _named(metrics: list[Any], known: Mapping[str, tuple[int, int]]) -> Iterator[Any]:
    """Yield the metrics; for one that the logs don't have, which may not be built, a stand-in."""
    wanted = {place for place, _ in known.values()}
    yield from (m if i in wanted else keras.metrics.Sum() for i, m in enumerate(metrics))


def _sums_of(strategy: Any, variables: list[Any]) -> list[Any]:
    if not variables:
        return []
    # Made anew where a model has been compiled anew; an epoch is long enough for a small trace.
    key = tuple(id(v) for v in variables)
    if _sum_functions.get("key") != key:

        def sums() -> Any:
            return packed_sum([tf.convert_to_tensor(v.value) for v in variables])

        function = tf.function(sums, autograph=False)
        _sum_functions.setdefault("kept", {})[key] = (variables, function)
        _sum_functions["key"] = key
    function = _sum_functions["kept"][key][1]
    values = strategy.run(function)
    return [strategy.experimental_local_results(v)[0] for v in values]


_sum_functions: dict[str, Any] = {}
_exact_batch_logs = False


def exact_batch_logs(wanted: bool) -> None:
    """Have the logs of every batch be those of all workers, which costs a collective a step.

    Not needed for callbacks with a hook for batches: these are recognized.
    """
    global _exact_batch_logs
    _exact_batch_logs = wanted


def wants_exact_logs(model: Any) -> bool:
    return _exact_batch_logs or bool(vars(model).get("_nbtrain_batch_hooks"))


def _callback_list_init(
    original: Callable[..., Any], self: Any, callbacks: Any = None, *args: Any, **kwargs: Any
) -> None:
    """Wrap `CallbackList.__init__`: notice callbacks that look at the logs of every batch.

    One that stops on them (TerminateOnNaN) would else stop one worker and leave the others
    waiting for it.
    """
    original(self, callbacks, *args, **kwargs)
    model = kwargs.get("model")
    looks = any(looks_at_batches(c, keras.callbacks) for c in self.callbacks)
    if model is not None and (looks or kwargs.get("add_history")):
        object.__setattr__(model, "_nbtrain_batch_hooks", looks)


def _maybe_symbolic_build(self: Any, iterator: Any = None, data_batch: Any = None) -> None:
    """Replace `TensorFlowTrainer._maybe_symbolic_build`: build from the shapes alone.

    Keras takes a batch to look at, which changes the order of a shuffled dataset.
    """
    if self._distribute_strategy is None:
        return
    if data_batch is not None:
        data_batch = keras.tree.map_structure(_with_dtype, data_batch)
    if iterator is not None:
        data_batch = keras.tree.map_structure(
            _local_spec, iterator._distributed_dataset.element_spec
        )
    with self.distribute_strategy.scope(), _refusing_ragged(data_batch):
        self._symbolic_build(data_batch=data_batch)
        keras_whole.prepare_metrics(self)


@contextlib.contextmanager
def _refusing_ragged(batch: Any) -> Iterator[None]:
    """Refuse a model that can't be called on rows of any length as if they were dense.

    Keras builds loss and metrics by calling the model on a stand-in, which for ragged rows is dense
    (`Trainer._symbolic_build`). Without a strategy it leaves that to the first batch.
    """
    try:
        yield
    except Exception as error:
        leaves = keras.tree.flatten(batch)
        if not any(isinstance(leaf, (tf.RaggedTensorSpec, tf.RaggedTensor)) for leaf in leaves):
            raise
        raise Refused(
            "ragged rows",
            "Keras calls the model with dense rows before it trains with several workers, and that"
            " failed.",
            "Give dense rows, padded: x.to_tensor() in dataset(), and a mask in the model"
            " (mask_zero=True).",
        ) from error


def _with_dtype(value: Any) -> Any:
    """Return what `train_on_batch` was given so that it has a dtype."""
    return value if value is None or hasattr(value, "dtype") else ops.convert_to_tensor(value)


def _local_spec(spec: Any) -> Any:
    while hasattr(spec, "_value_specs"):
        spec = spec._value_specs[0]
    return spec


def _epoch_iterator_init(
    self: Any, distribute_strategy: Any = None, *args: Any, **kwargs: Any
) -> None:
    """Replace `TFEpochIterator.__init__`: nbtrain owns the sharding."""
    EpochIterator.__init__(self, *args, **kwargs)
    self._distribute_strategy = distribute_strategy
    self._nbtrain_watch = None
    dataset = self.data_adapter.get_tf_dataset()
    if not isinstance(dataset, tf.distribute.DistributedDataset):
        source = kwargs.get("x")
        note_spec(source, dataset.element_spec)
        several = distribute_strategy.num_replicas_in_sync > 1
        if several and _is_watched(self.data_adapter, source):
            dataset = pipelines.evenly(dataset)
            counts = self.steps_per_epoch is None and self._num_batches is None
            self._nbtrain_watch = Watch(counts=counts)
            dataset = self._nbtrain_watch.over(dataset)
        # Keras makes the batches of arrays by a flat_map, which does not tell how many there are.
        is_counted = isinstance(self.data_adapter, ArrayDataAdapter)
        dataset = shard.distributed(dataset, source, distribute_strategy, is_counted=is_counted)
    self._distributed_dataset = dataset


def _is_watched(adapter: Any, source: Any) -> bool:
    """Tell whether data comes batch by batch; arrays are compared before training."""
    return not isinstance(adapter, ArrayDataAdapter) and not shard.is_by_file(source)


# -- keras/src/losses/loss.py, keras/src/trainers/compile_utils.py --------------------------------


def _identity(value: Any) -> Any:
    """Replace `scale_loss_for_distribution` and its inverse: the mean is taken of gradients."""
    return value


def _reduce_values(
    original: Callable[..., Any], values: Any, sample_weight: Any = None,
    reduction: Any = "sum_over_batch_size",
) -> Any:  # fmt: skip
    """Wrap `reduce_values`: sums, and divisors that depend on the data, are those of all."""
    step = current()
    if step is None or tuple(values.shape) == ():
        return original(values, sample_weight, reduction)
    if reduction == "sum":
        total = ops.sum(values)
        return tf.math.divide_no_nan(total, tf.cast(step.weight(), total.dtype))
    if reduction == "mean_with_sample_weight" and sample_weight is not None:
        loss = ops.sum(values)
        divisor = reduce_sum(tf.cast(ops.sum(sample_weight), loss.dtype))
        return tf.math.divide_no_nan(loss, divisor * tf.cast(step.weight(), loss.dtype))
    if reduction in ("mean", "sum_over_batch_size") and tuple(values.shape) == (0,):
        return ops.sum(values)  # Keras gives an eager step back the values, which are none
    return original(values, sample_weight, reduction)


def _apply_mask(
    original: Callable[..., Any], sample_weight: Any, mask: Any, dtype: Any, reduction: Any
) -> Any:
    """Wrap `apply_mask`: the number of valid entries is that of all workers."""
    step = current()
    if step is None or mask is None or reduction not in ("mean", "sum_over_batch_size"):
        return original(sample_weight, mask, dtype, reduction)
    valid = ops.sum(ops.cast(mask, "float32"))
    total, valid = tf.unstack(reduce_sum(tf.stack([tf.cast(tf.size(mask), "float32"), valid])))
    factor = ops.cast(tf.math.divide_no_nan(total, valid), dtype)
    weighted = original(sample_weight, mask, dtype, "sum")
    return weighted * factor


def _compile_loss_call(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
    """Wrap `CompileLoss.call`: with `reduction=None` the gradient is that of the sum."""
    loss = original(self, *args, **kwargs)
    step = current()
    if step is None or loss is None or not len(loss.shape):
        return loss

    @tf.custom_gradient
    def summed(values: Any) -> Any:
        return tf.identity(values), lambda dy: tf.math.divide_no_nan(
            dy, tf.cast(step.weight(), dy.dtype)
        )

    return summed(loss)


def _compute_average_loss(
    original: Callable[..., Any], per_example_loss: Any, sample_weight: Any = None,
    global_batch_size: Any = None,
) -> Any:  # fmt: skip
    """Wrap `tf.nn.compute_average_loss`, which divides by the batch of all workers."""
    step = current()
    if step is None:
        return original(per_example_loss, sample_weight, global_batch_size)
    values = tf.convert_to_tensor(per_example_loss)
    if sample_weight is not None:
        values = values * tf.cast(sample_weight, values.dtype)
    total = tf.reduce_sum(values)
    size = step.n_all() if global_batch_size is None else global_batch_size
    divisor = tf.cast(size, total.dtype) * tf.cast(step.weight(), total.dtype)
    return tf.math.divide_no_nan(total, divisor)


def _scale_regularization_loss(original: Callable[..., Any], loss: Any) -> Any:
    """Wrap `tf.nn.scale_regularization_loss`: the mean over the workers takes care of it."""
    return original(loss) if current() is None else tf.reduce_sum(loss)


# -- keras/src/optimizers, tf.GradientTape --------------------------------------------------------


def _gradient(
    original: Callable[..., Any], self: Any, target: Any, sources: Any, *args: Any, **kwargs: Any
) -> Any:
    """Wrap `GradientTape.gradient`: a gradient by variables is the mean over the workers.

    So it is before a custom step looks at it, clips it by hand or adds it up. Other gradients (by
    the inputs: saliency, gradient penalties) are each example's own.
    """
    grads = original(self, target, sources, *args, **kwargs)
    step = current()
    flat = tf.nest.flatten(sources)
    if step is None or not flat or not all(_is_variable(s) for s in flat):
        return grads
    return tf.nest.pack_sequence_as(sources, mean_gradients(tf.nest.flatten(grads), step))


def _is_variable(source: Any) -> bool:
    return isinstance(source, (keras.Variable, tf.Variable))


def _apply(
    original: Callable[..., Any], self: Any, grads: Any, trainable_variables: Any = None
) -> Any:
    """Wrap `apply`: the gradients are reduced first, before clipping or any test of them."""
    step = current()
    if step is None or step.reducing:
        return original(self, grads, trainable_variables)
    step.reducing = True
    try:
        return original(self, mean_gradients(list(grads), step), trainable_variables)
    finally:
        step.reducing = False


def mean_gradients(grads: list[Any], step: Step) -> list[Any]:
    """Return the example-weighted mean over the workers, by one collective for each dtype.

    Gradients that are such means already stay as they are. Others may be made of such ones
    (clipped by hand): the mean of what is equal on all workers is itself.
    """
    local = [g for g in grads if g is not None and id(g) not in step.reduced]
    reduced = iter(_mean(local, step) if local else [])
    means = [g if g is None or id(g) in step.reduced else next(reduced) for g in grads]
    step.reduced |= {id(g): g for g in means if g is not None}
    return means


def _mean(grads: list[Any], step: Step) -> list[Any]:
    if step.is_sparse and tf.executing_eagerly():
        _refuse_sparse(grads)
    # An outer tape wants gradients of these.
    nested = record.should_record_backprop(_tensors(grads))
    differentiated = step if nested else None
    if step.is_even:
        means = packed_sum([_scaled(g, step.weight()) for g in grads], differentiated)
    else:
        n = tf.cast(step.n, "float32")
        *sums, n_all = packed_sum([*(_scaled(g, n) for g in grads), n], differentiated)
        inverse = tf.math.reciprocal_no_nan(n_all)
        means = [_scaled(g, inverse) for g in sums]
    pairs = zip(grads, means, strict=True)
    return [_added_up(mean) if _has_rows_once(grad) else mean for grad, mean in pairs]


def _tensors(grads: list[Any]) -> list[Any]:
    return [g.values if isinstance(g, tf.IndexedSlices) else g for g in grads]


def _has_rows_once(grad: Any) -> bool:
    """Tell whether a sparse gradient has each row once, as that of `embedding_lookup_sparse` has.

    Keras' optimizers square the rows one by one, so it matters: the sum over the workers has a row
    several times, where one process has it once. An Embedding's gradient has a row for each use of
    a word, in one process and in several.
    """
    if not isinstance(grad, tf.IndexedSlices):
        return False
    operation = getattr(grad.indices, "op", None)  # there is none in an eager step: refused
    while operation is not None and operation.type in ("Reshape", "Cast", "Identity"):
        operation = operation.inputs[0].op
    return operation is not None and operation.type == "Unique"


def _refuse_sparse(grads: list[Any]) -> None:
    """Refuse gradients in an eager step of which `_has_rows_once` can't tell."""
    if any(isinstance(grad, tf.IndexedSlices) for grad in grads):
        raise Refused(
            "run_eagerly with sparse rows",
            "it can't be told there which rows of a gradient one process would add up.",
            "Compile without run_eagerly, or make the rows dense in dataset():"
            " tf.sparse.to_dense(x).",
        )


def _added_up(grad: tf.IndexedSlices) -> tf.IndexedSlices:
    rows, places = tf.unique(grad.indices)
    values = tf.math.unsorted_segment_sum(grad.values, places, tf.size(rows))
    return tf.IndexedSlices(values, rows, grad.dense_shape)


def _scaled(grad: Any, factor: Any) -> Any:
    if isinstance(grad, tf.IndexedSlices):
        values = _scaled(grad.values, factor)
        return tf.IndexedSlices(values, grad.indices, grad.dense_shape)
    return tf.math.multiply_no_nan(grad, tf.cast(factor, grad.dtype))


def _all_reduce_sum_gradients(original: Callable[..., Any], self: Any, grads_and_vars: Any) -> Any:
    """Wrap `TFOptimizer._all_reduce_sum_gradients`: they are reduced already."""
    step = current()
    if step is not None and step.reducing:
        return list(grads_and_vars)
    return original(self, grads_and_vars)


# -- layers ---------------------------------------------------------------------------------------


def _moments(original: Callable[..., Any], self: Any, inputs: Any, mask: Any) -> Any:
    """Wrap `BatchNormalization._moments`: mean and variance of the whole batch, as in one process.

    Each worker's own moments go round, by one collective, and are put together; the formula of
    Keras' `synchronized=True` (mean of squares less square of mean) cancels digits.
    """
    step = current()
    if step is None:
        return original(self, inputs, mask)
    axes, channels = self._reduction_axes, inputs.shape[self.axis]
    mean, variance, _ = whole_moments(
        inputs, axes, channels, mask, step, guard=keras.config.epsilon()
    )
    return mean, variance


def whole_moments(
    inputs: Any, axes: list[int], channels: int, mask: Any, step: Step, *, guard: float = 0.0
) -> tuple[Any, Any, Any]:
    """Return mean, variance and number of the values of each channel, over all workers.

    `guard` is added to the number of values that a mask leaves.
    """
    shape = [1 if i in axes else d for i, d in enumerate(inputs.shape)]
    if mask is None:
        weights, guard = tf.ones([1] * len(shape), inputs.dtype), 0.0
        count = tf.cast(tf.size(inputs) // channels, inputs.dtype)
    else:
        # Keras takes the mask for one value for each position, and the channels for the last axis.
        weights = tf.cast(tf.expand_dims(mask, -1), inputs.dtype)
        count = tf.reduce_sum(weights * tf.ones_like(inputs[..., :1]))
    mean = tf.math.divide_no_nan(tf.reduce_sum(inputs * weights, axis=axes), count)
    centred = tf.square(inputs - tf.reshape(mean, shape)) * weights
    row = tf.concat([mean, tf.reduce_sum(centred, axis=axes), [tf.stop_gradient(count)]], 0)
    means, spreads, counts = tf.split(table(row, step), [channels, channels, 1], axis=1)
    counts = tf.stop_gradient(counts)
    whole = tf.reduce_sum(counts) + guard
    mean = tf.reduce_sum(counts * means, axis=0) / whole
    between = tf.reduce_sum(counts * tf.square(means - mean), axis=0)
    variance = (tf.reduce_sum(spreads, axis=0) + between) / whole
    return mean, variance, whole


#: Operations of `keras.src.backend.tensorflow.nn` that fail on a batch of no examples.
_CANNOT_DO_NOTHING = (
    *("conv", "depthwise_conv", "separable_conv", "conv_transpose"),
    *("max_pool", "average_pool", "adaptive_max_pool", "adaptive_average_pool"),
)


def not_on_nothing(original: Callable[..., Any], inputs: Any, *args: Any, **kwargs: Any) -> Any:
    """Wrap convolutions and pools: an empty shard is computed with a row of zeros.

    oneDNN's convolution of no examples has the shape of its input, and the gradient of its
    max pooling aborts the process (TensorFlow 2.21).
    """
    step = current()
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
    """Wrap `Mean.update_state`: a scalar counts for the examples that it is the mean of.

    Without examples it is NaN, and must not count.
    """
    step = current()
    if step is None:
        return original(self, values, sample_weight)
    values = ops.cast(values, self.dtype)
    if sample_weight is None:
        if len(values.shape):
            return original(self, values)
        sample_weight = ops.cast(step.weight(), self.dtype)
    elif len(ops.convert_to_tensor(sample_weight).shape):
        return original(self, values, sample_weight)
    if not step.is_even:
        if len(values.shape):  # a loss with reduction=None; Keras takes its mean here, too
            values = tf.reduce_mean(values)
        values = tf.where(step.n > 0, values, 0)
    return original(self, values, sample_weight)


def _sum_update_state(
    original: Callable[..., Any], self: Any, values: Any, sample_weight: Any = None
) -> Any:
    """Wrap `Sum.update_state`: a number that all workers add (a count of steps) counts once."""
    step = current()
    if step is None or sample_weight is not None or not step.is_same(values):
        return original(self, values, sample_weight)
    return original(self, values, ops.cast(step.weight(), self.dtype))


def _seed_next(original: Callable[..., Any], self: Any, ordered: bool = True) -> Any:
    """Wrap `SeedGenerator.next`: workers draw different masks; the state stays the same."""
    seed = original(self, ordered)
    context = tf.distribute.get_replica_context()
    if current() is None:
        return seed
    replica = tf.cast(context.replica_id_in_sync_group, seed.dtype)
    return seed + tf.stack([replica * tf.cast(0x9E3779B, seed.dtype), tf.zeros_like(replica)])


def _global_seed_generator(original: Callable[..., Any]) -> Any:
    """Wrap `global_seed_generator`, for draws without a seed: all threads have the same one.

    Keras has one for each thread, and the strategy traces a step in a new thread each time.
    """
    name = seed_module.GLOBAL_SEED_GENERATOR
    if _global_seeds and global_state.get_global_attribute(name) is None:
        global_state.set_global_attribute(name, _global_seeds[0])
    with tf.init_scope():  # it may be the branch of a `cond` that draws first
        _global_seeds[:] = [original()]
    return _global_seeds[0]


_global_seeds: list[Any] = []


def global_seeds(*, make: bool = False) -> list[Any]:
    """Return the state of the generator for draws without a seed; nothing while there is none."""
    if make:
        seed_module.global_seed_generator()
    return [generator.state for generator in _global_seeds]


def forget_global_seeds() -> None:
    """Have the next draw without a seed make its generator, as in a new process."""
    _global_seeds.clear()


def _interleave_init(
    original: Callable[..., Any], self: Any, *args: Any, deterministic: Any = None, **kwargs: Any
) -> None:
    """Wrap `_ParallelInterleaveDataset.__init__`: keep whether it may give any order (`replay`)."""
    original(self, *args, deterministic=deterministic, **kwargs)
    self._deterministic = "false" if deterministic is False else "default"


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
    wrap(CallbackList, "__init__", _callback_list_init)
    wrap(loss_module.Loss, "__call__", keras_whole.loss_call)
    wrap(CompileLoss, "call", _compile_loss_call)
    wrap(tf.nn, "compute_average_loss", _compute_average_loss)
    wrap(tf.nn, "scale_regularization_loss", _scale_regularization_loss)
    wrap(tf.GradientTape, "gradient", _gradient)
    wrap(trainer, "_get_metrics_result_or_logs", _get_metrics_result_or_logs)
    wrap(loss_module, "reduce_values", _reduce_values)
    wrap(loss_module, "apply_mask", _apply_mask)
    wrap(BaseOptimizer, "apply", _apply)
    wrap(LossScaleOptimizer, "apply", _apply)
    wrap(TFOptimizer, "_all_reduce_sum_gradients", _all_reduce_sum_gradients)
    wrap(BatchNormalization, "_moments", _moments)
    for name in _CANNOT_DO_NOTHING:
        wrap(backend.nn, name, not_on_nothing)
    wrap(Mean, "update_state", _mean_update_state)
    wrap(Sum, "update_state", _sum_update_state)
    wrap(SeedGenerator, "next", _seed_next)
    wrap(seed_module, "global_seed_generator", _global_seed_generator)
    wrap(tf_values, "apply_aggregation_replica_context", _aggregate)
    wrap(interleave_op._ParallelInterleaveDataset, "__init__", _interleave_init)
    CollectiveAllReduceExtended._use_merge_call = lambda self: False


def wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace a function by `wrapper`, which gets the original first."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def patched(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    setattr(owner, name, patched)


# -- building -------------------------------------------------------------------------------------


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
