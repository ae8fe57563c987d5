"""All that nbtrain changes in tf_keras (Keras 2), so that N workers give what one process gives.

tf_keras runs under MultiWorkerMirroredStrategy by itself, but what it computes is that of one
process only where all shards are equal: it divides losses by the number of replicas and sums the
gradients. Here it gets the semantic of `keras_mwms`: **every worker computes what one process
would on its shard, and the optimizer gets the example-weighted mean of the gradients**. What
that module changes in TensorFlow (`GradientTape.gradient`, `tf.nn.compute_average_loss`, no
merge_call) is in force here, too.

This is imported, and applied, once `model()` has returned a model of tf_keras. Metrics take their
`update_state` from their class when they are made, so theirs are changed one by one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
import tf_keras
from tensorflow.python.autograph.core import ag_ctx
from tensorflow.python.distribute.values import SyncOnReadVariable
from tf_keras.src import backend, callbacks, losses
from tf_keras.src.engine import compile_utils, data_adapter
from tf_keras.src.layers.convolutional import (
    base_conv,
    base_separable_conv,
    conv1d_transpose,
    conv2d_transpose,
    conv3d_transpose,
    depthwise_conv1d,
    depthwise_conv2d,
    separable_conv1d,
    separable_conv2d,
)
from tf_keras.src.layers.normalization.batch_normalization import BatchNormalizationBase
from tf_keras.src.layers.pooling import base_pooling1d, base_pooling2d, base_pooling3d
from tf_keras.src.metrics.base_metric import Mean, MeanMetricWrapper, Sum
from tf_keras.src.mixed_precision import loss_scale_optimizer
from tf_keras.src.optimizers.legacy.optimizer_v2 import OptimizerV2
from tf_keras.src.optimizers.optimizer import Optimizer
from tf_keras.src.utils import losses_utils, metrics_utils

from . import keras_whole, pipelines, shard
from .data import note_spec
from .keras_callbacks import looks_at_batches
from .keras_mwms import (
    mean_gradients,
    not_on_nothing,
    own_randomness,
    wants_exact_logs,
    whole_moments,
    wrap,
)
from .keras_step import Step, current, entered, reduce_sum, replica_index
from .keras_step import examples as count_examples
from .watch import Watch

_SUM = losses_utils.ReductionV2.SUM
_MEANS = (losses_utils.ReductionV2.AUTO, losses_utils.ReductionV2.SUM_OVER_BATCH_SIZE)


# -- tf_keras/src/engine/training.py --------------------------------------------------------------


class _Step(Step):
    """A step of tf_keras; with `local_results` a metric's result is that of this worker."""

    def __init__(self, n: Any, *, local_results: bool) -> None:
        super().__init__(n)
        self.local_results = local_results


class Function:
    """Replaces what `Model.make_train_function` makes: runs steps on an iterator.

    The step knows its number of examples. Its logs are the local ones, which cost nothing: the
    values of an epoch come from the metrics of all workers. Where a callback looks at the logs of
    every batch, and for custom steps, whose logs may be those of the epoch, they are exact.
    Several steps in one execution are a loop in Python.
    """

    def __init__(self, model: Any, name: str, counter: Any) -> None:
        self._model, self._counter = model, counter
        self._step_function = getattr(model, name)
        self._is_stock = self._step_function.__func__ is getattr(tf_keras.Model, name)
        self._made: dict[bool, Any] = {}
        keras_whole.prepare_losses(losses.Loss)

    def __call__(self, iterator: Any) -> Any:
        """Run `steps_per_execution` steps; return the logs of the last one."""
        logs = None
        for _ in range(int(self._model._steps_per_execution.numpy())):
            logs = self._on_iterator()(iterator)
        return logs

    def trace(self, spec: Any) -> None:
        """Make all variables that a step makes, without running it."""
        tf.function(self._on_batch(exact=False)).get_concrete_function(spec)

    def _on_iterator(self) -> Any:
        exact = wants_exact_logs(self._model) or not self._is_stock
        if exact not in self._made:
            on_batch = self._on_batch(exact=exact)

            @tf.autograph.experimental.do_not_convert
            def on_iterator(iterator: Any) -> Any:
                return on_batch(next(iterator))

            if not self._model.run_eagerly:
                on_iterator = tf.function(on_iterator, reduce_retracing=True)
            self._made[exact] = on_iterator
        return self._made[exact]

    def _on_batch(self, *, exact: bool) -> Any:
        strategy = self._model.distribute_strategy

        def replica_step(data: Any) -> Any:
            with entered(_Step(count_examples(data), local_results=not exact)), own_randomness():
                logs = self._logs(data, exact)
                deps = [v for v in tf.nest.flatten(logs) if isinstance(v, tf.Tensor)][:1]
                with tf.control_dependencies([] if tf.executing_eagerly() else deps):
                    self._counter.assign_add(1)
                return logs

        @tf.autograph.experimental.do_not_convert
        def on_batch(data: Any) -> Any:
            logs = strategy.run(replica_step, args=(data,))
            return tf.nest.map_structure(lambda v: strategy.experimental_local_results(v)[0], logs)

        return on_batch

    def _logs(self, data: Any, exact: bool) -> Any:
        with _autograph():
            function = tf.__internal__.autograph.tf_convert(
                self._step_function, tf.__internal__.autograph.control_status_ctx()
            )
            logs = function(data)
        step = current()
        return logs if step is None or not exact or self._is_stock else _means(logs, step)


@contextlib.contextmanager
def _autograph() -> Iterator[None]:
    """Have autograph convert the user's code again, as tf_keras does; nbtrain's is not."""
    if tf.executing_eagerly():
        yield
        return
    with ag_ctx.ControlStatusCtx(ag_ctx.Status.ENABLED):
        yield


def _means(logs: Any, step: Step) -> Any:
    """Return the example-weighted mean over the workers of what a custom step returns.

    A metric's result is the same on all workers already, and its own mean.
    """
    flat = tf.nest.flatten(logs)
    places = [i for i, v in enumerate(flat) if _is_number(v)]
    if not places:
        return logs
    parts = [tf.math.multiply_no_nan(tf.cast(flat[i], "float32"), step.weight()) for i in places]
    reduced = tf.unstack(reduce_sum(tf.stack(parts)), num=len(parts))
    for i, value in zip(places, reduced, strict=True):
        flat[i] = value
    return tf.nest.pack_sequence_as(logs, flat)


def _is_number(value: Any) -> bool:
    if isinstance(value, tf.Variable) or not hasattr(value, "dtype"):
        return False
    return bool(value.dtype.is_floating and value.shape.rank == 0)


def _make_train_function(self: Any, force: bool = False) -> Any:
    """Replace `Model.make_train_function`."""
    _prepare_metrics(metrics_of(self))
    if self.train_function is None or force:
        self.train_function = Function(self, "train_step", self._train_counter)
    return self.train_function


def _make_test_function(self: Any, force: bool = False) -> Any:
    """Replace `Model.make_test_function`."""
    _prepare_metrics(metrics_of(self))
    if self.test_function is None or force:
        self.test_function = Function(self, "test_step", self._test_counter)
    return self.test_function


def _callback_list_init(
    original: Callable[..., Any], self: Any, callbacks: Any = None, *args: Any, **kwargs: Any
) -> None:
    """Wrap `CallbackList.__init__`: notice callbacks that look at the logs of every batch."""
    original(self, callbacks, *args, **kwargs)
    model = kwargs.get("model")  # an `evaluate` of a callback has a list of its own
    if model is not None and any(looks_at_batches(c, tf_keras.callbacks) for c in self.callbacks):
        object.__setattr__(model, "_nbtrain_batch_hooks", True)


# -- tf_keras/src/engine/data_adapter.py ----------------------------------------------------------


class Feed:
    """The data that the next `fit` of a model reads, of which `done` epochs are done."""

    def __init__(self, model: Any, done: int) -> None:
        self._model, self._done = model, done
        self._handler: Any = None
        self._advance: Callable[[], None] = lambda: None
        object.__setattr__(model, "_nbtrain_feed", self)

    def begin(self, handler: Any, first: int) -> int:
        """Note the data handler of `fit`; return the epoch that its data begin with."""
        if self._handler is None:
            self._handler = handler
        return first - self.skipped(handler)

    def skipped(self, handler: Any) -> int:
        """Return how many epochs a handler has to read and not to train on."""
        return self._done if handler is self._handler else 0

    def build(self) -> None:
        """Make all variables by tracing a step: tf_keras makes them only when it runs one."""
        self._model.train_function.trace(self._handler._dataset.element_spec)

    def replay(self, advance: Callable[[], None]) -> None:
        """Have the epochs that are done read before the others; `advance` shows progress."""
        self._advance = advance

    def why_not_by_step(self) -> str:
        """Return why it can't be gone on with in the middle of an epoch."""
        return "a model of tf_keras goes on at the beginning of an epoch"

    def skip(self, steps: int, advance: Callable[[], None]) -> None:
        """Not called: there are no checkpoints in the middle of an epoch."""
        raise NotImplementedError

    def watch(self, *, validation: bool = False) -> Watch | None:
        """Return what was seen of the data, where that is watched."""
        handler = self._model._eval_data_handler if validation else self._handler
        found: Watch | None = vars(handler).get("_nbtrain_watch")
        return found

    def read(self, handler: Any, iterator: Any) -> None:
        """Read an epoch."""
        with handler.catch_stop_iteration():
            for _ in handler.steps():
                self._advance()
                for _ in range(int(handler._steps_per_execution.numpy())):
                    next(iterator)


def _feed(handler: Any) -> Feed | None:
    return vars(handler._model).get("_nbtrain_feed") if handler._model is not None else None


def _handler_init(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> None:
    """Wrap `DataHandler.__init__`: the data begin with the first epoch, whatever is done."""
    self._model = kwargs.get("model")
    feed = _feed(self)
    if feed is not None and "initial_epoch" in kwargs:
        kwargs["initial_epoch"] = feed.begin(self, kwargs["initial_epoch"])
    original(self, *args, **kwargs)


def _enumerate_epochs(original: Callable[..., Any], self: Any) -> Iterator[Any]:
    """Wrap `DataHandler.enumerate_epochs`: epochs that are done are read before the first."""
    feed = _feed(self)
    if feed is None or not feed.skipped(self):
        yield from original(self)
        return
    first = self._initial_epoch  # `fit` has set it to the one to train on
    self._initial_epoch = first - feed.skipped(self)
    for epoch, iterator in original(self):
        if epoch < first:
            feed.read(self, iterator)
        else:
            yield epoch, iterator


def _configure_dataset(
    original: Callable[..., Any], self: Any, strategy: Any, x: Any, *args: Any
) -> None:
    """Wrap `DataHandler._configure_dataset_and_inferred_steps`: shard by example, not by file."""
    adapter = self._adapter
    dataset = adapter.get_dataset()
    if isinstance(dataset, tf.data.Dataset):
        note_spec(x, dataset.element_spec)
        if strategy.num_replicas_in_sync > 1:
            shard.check_dense(dataset, "a dataset for tf_keras")
        if not isinstance(adapter, data_adapter.TensorLikeDataAdapter) and not shard.is_by_file(x):
            if strategy.num_replicas_in_sync > 1:
                dataset = pipelines.evenly(dataset)
            counts = self._steps_per_epoch is None and adapter.get_size() is None
            self._nbtrain_watch = Watch(counts=counts)
            dataset = self._nbtrain_watch.over(dataset)
        dataset = dataset.with_options(shard.options(x))
        adapter.get_dataset = lambda: dataset
    original(self, strategy, x, *args)


# -- losses: tf_keras/src/losses.py, utils/losses_utils.py, engine/compile_utils.py ---------------


def _identity(value: Any) -> Any:
    """Replace `scale_loss_for_distribution`: the mean is taken of gradients."""
    return value


def _loss_call(
    original: Callable[..., Any], self: Any, y_true: Any, y_pred: Any, sample_weight: Any = None
) -> Any:
    """Wrap `Loss.__call__`: a loss that couples examples is that of all outputs."""
    step = current()
    if step is None or _loss_kind(self, y_true, y_pred) != "coupled":
        return original(self, y_true, y_pred, sample_weight)
    rows = keras_whole.whole_tensors((y_true, y_pred, sample_weight), step)
    with entered(None):
        return original(self, *rows)


def _loss_kind(loss: Any, y_true: Any, y_pred: Any) -> keras_whole.Kind:
    if keras_whole.is_known(getattr(loss, "fn", None) or type(loss)):
        return "examples"
    rows = (y_true, y_pred)
    return keras_whole.remembered(loss, rows, lambda: keras_whole.kind(loss.call, rows))


def _get_reduction(original: Callable[..., Any], self: Any) -> Any:
    """Wrap `Loss._get_reduction`: a mean is right in a custom step, too; tf_keras refuses it."""
    step = current()
    if step is not None and self.reduction in _MEANS:
        return losses_utils.ReductionV2.SUM_OVER_BATCH_SIZE
    return original(self)


def _reduce_weighted_loss(
    original: Callable[..., Any], weighted_losses: Any, reduction: Any = _MEANS[1]
) -> Any:
    """Wrap `reduce_weighted_loss`: a sum is that of all workers, of which the mean is taken."""
    loss = original(weighted_losses, reduction)
    step = current()
    if step is None or reduction != _SUM:
        return loss
    return tf.math.divide_no_nan(loss, tf.cast(step.weight(), loss.dtype))


def _apply_valid_mask(
    original: Callable[..., Any], values: Any, sample_weight: Any, mask: Any, reduction: Any
) -> Any:
    """Wrap `apply_valid_mask`: the number of valid entries is that of all workers."""
    step = current()
    if step is None or mask is None or reduction not in _MEANS:
        return original(values, sample_weight, mask, reduction)
    mask = tf.cast(mask, values.dtype)
    counts = tf.stack([tf.cast(tf.size(mask), values.dtype), tf.reduce_sum(mask)])
    total, valid = tf.unstack(reduce_sum(counts), num=2)
    mask *= tf.math.divide_no_nan(total, valid)
    return losses_utils.apply_mask(values, sample_weight, mask)


class _Sum:
    """A loss with `reduction="sum"` that does not say so.

    `LossesContainer` would multiply it by the number of replicas for the history.
    """

    reduction = losses_utils.ReductionV2.NONE

    def __init__(self, loss: Any) -> None:
        self._loss = loss
        self.name = loss.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._loss(*args, **kwargs)


def _losses_build(original: Callable[..., Any], self: Any, y_pred: Any) -> None:
    """Wrap `LossesContainer.build`."""
    original(self, y_pred)
    prepare_losses(self)


def prepare_losses(container: Any) -> None:
    """See to it that the losses of a built `LossesContainer`, and their means, are right."""
    container._losses = [
        _Sum(loss) if getattr(loss, "reduction", None) == _SUM else loss
        for loss in container._losses
    ]
    _prepare_metrics(container.metrics)


# -- metrics: tf_keras/src/metrics, utils/metrics_utils.py, engine/compile_utils.py ----------------


def _sync_on_read(original: Callable[..., Any]) -> Any:
    """Wrap `variable_sync_on_read_context`, in which a metric is read over all workers."""
    step = current()
    if isinstance(step, _Step) and step.local_results:
        return contextlib.nullcontext()
    return original()


def _metrics_build(original: Callable[..., Any], self: Any, y_pred: Any, y_true: Any) -> None:
    """Wrap `MetricsContainer.build`."""
    original(self, y_pred, y_true)
    _prepare_metrics(self.metrics)


def metrics_of(model: Any) -> list[Any]:
    """Return all metrics of a model, also those that its `metrics` leaves out."""
    kept = [m for layer in model._flatten_layers() for m in layer._metrics]
    return list({id(m): m for m in [*model.metrics, *kept]}.values())


def _prepare_metrics(metrics: list[Any]) -> None:
    """Have metrics take what they need of all workers; those of tf_keras sum over examples."""
    for metric in metrics:
        if "_nbtrain_prepared" in vars(metric):
            continue
        object.__setattr__(metric, "_nbtrain_prepared", True)
        function = getattr(metric, "_fn", None)
        if not keras_whole.is_known(function or type(metric)):
            changed = _of_all(metric, metric.update_state)
        elif type(metric) is Mean:
            changed = _weighted(metric.update_state)
        elif type(metric) is Sum:
            changed = _once(metric.update_state)
        else:
            continue
        object.__setattr__(metric, "update_state", changed)


def _weighted(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return an `update_state` of Mean in which a number counts for the examples it is of."""

    def update_state(values: Any, sample_weight: Any = None) -> Any:
        step = current()
        if step is None or tf.convert_to_tensor(values).shape.rank != 0:
            return original(values, sample_weight=sample_weight)
        if sample_weight is None:
            sample_weight = step.weight()
        if not step.is_even:  # without examples it is NaN, and must not count
            values = tf.where(step.n > 0, values, 0)
        return original(values, sample_weight=sample_weight)

    return update_state


def _once(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return an `update_state` of Sum in which a number that all workers add counts once."""

    def update_state(values: Any, sample_weight: Any = None) -> Any:
        step = current()
        if step is not None and sample_weight is None and step.is_same(values):
            sample_weight = step.weight()
        return original(values, sample_weight=sample_weight)

    return update_state


def _of_all(metric: Any, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return an `update_state` of a user's metric that gets the rows of all workers.

    A function whose values are one for each example needs no more than its own.
    """
    weighted = _weighted(original)

    def update_state(*args: Any, **kwargs: Any) -> Any:
        step = current()
        if step is None:
            return original(*args, **kwargs)
        if not keras_whole.in_parts(args, kwargs):
            plain = isinstance(metric, Mean) and len(args) == 1
            return weighted(*args, **kwargs) if plain else original(*args, **kwargs)
        if isinstance(metric, MeanMetricWrapper) and _is_by_example(metric, args):
            return original(*args, **kwargs)
        for variable in metric.variables:
            read_first_replica(variable)
        args, kwargs = keras_whole.whole_tensors((args, kwargs), step)
        with entered(None):
            return original(*args, **kwargs)

    return update_state


def _is_by_example(metric: Any, args: tuple[Any, ...]) -> bool:
    def call(y_true: Any, y_pred: Any) -> Any:
        return metric._fn(y_true, y_pred, **metric._fn_kwargs)

    rows = args[:2]
    found = keras_whole.remembered(metric, rows, lambda: keras_whole.kind(call, rows))
    return found == "examples"


def read_first_replica(variable: Any) -> None:
    """Have a variable that is equal on all workers read without a collective.

    tf_keras takes the mean (of moving averages) or the sum (of metrics) at every reading, for
    which all workers have to be there.
    """
    if isinstance(variable, SyncOnReadVariable):
        variable._aggregation = tf.VariableAggregation.ONLY_FIRST_REPLICA


# -- optimizers -----------------------------------------------------------------------------------


def _aggregate_gradients(original: Callable[..., Any], self: Any, grads_and_vars: Any) -> Any:
    """Wrap `Optimizer.aggregate_gradients`: gradients are means already, or are made so."""
    step = current()
    if step is None:
        return original(self, grads_and_vars)
    grads, variables = zip(*grads_and_vars, strict=True)
    return list(zip(mean_gradients(list(grads), step), variables, strict=True))


def _get_unscaled_gradients(original: Callable[..., Any], self: Any, grads: Any) -> Any:
    """Wrap `LossScaleOptimizer.get_unscaled_gradients`: what was a mean still is one."""
    unscaled = original(self, grads)
    step = current()
    if step is not None:
        pairs = zip(grads, unscaled, strict=True)
        step.reduced |= {id(new): new for old, new in pairs if id(old) in step.reduced}
    return unscaled


# -- layers ---------------------------------------------------------------------------------------


def _moments(
    original: Callable[..., Any], self: Any, inputs: Any, reduction_axes: Any, keep_dims: Any,
    mask: Any = None,
) -> Any:  # fmt: skip
    """Wrap `BatchNormalizationBase._moments`: those of the whole batch, as in one process."""
    step = current()
    if step is None:
        return original(self, inputs, reduction_axes, keep_dims, mask=mask)
    channels = inputs.shape[self.axis[0]]
    mean, variance, _ = whole_moments(inputs, list(reduction_axes), channels, mask, step)
    return mean, variance


def _fused_batch_norm(
    original: Callable[..., Any], self: Any, inputs: Any, mask: Any, training: Any
) -> Any:
    """Wrap `BatchNormalizationBase._fused_batch_norm`, whose kernel knows only one worker.

    It keeps a variance with Bessel's correction, and ignores masks.
    """
    step = current()
    if step is None or not tf.get_static_value(training):
        return original(self, inputs, mask, training)
    axis = self.axis[0]
    values = tf.cast(inputs, self._param_dtype)
    axes = [i for i in range(len(inputs.shape)) if i != axis]
    mean, variance, count = whole_moments(values, axes, inputs.shape[axis], None, step)
    spread = variance * count / tf.maximum(count - 1.0, 1.0)
    self._assign_moving_average(self.moving_mean, mean, self.momentum, None)
    self._assign_moving_average(self.moving_variance, spread, self.momentum, None)
    shape = [-1 if i == axis else 1 for i in range(len(inputs.shape))]
    mean, variance, beta, gamma = (
        v if v is None else tf.reshape(v, shape)
        for v in (mean, variance, self.beta, self.gamma)
    )  # fmt: skip
    outputs = tf.nn.batch_normalization(values, mean, variance, beta, gamma, self.epsilon)
    return tf.cast(outputs, inputs.dtype)


def _support_zero_size_input(original: Callable[..., Any], self: Any) -> bool:
    """Wrap the test whether moments may be of no examples: those of all workers are not."""
    return False if current() is not None else bool(original(self))


#: Layers whose operations fail on a batch of no examples; see `keras_mwms.not_on_nothing`.
_CANNOT_DO_NOTHING = (
    base_conv.Conv,
    base_separable_conv.SeparableConv,
    conv1d_transpose.Conv1DTranspose,
    conv2d_transpose.Conv2DTranspose,
    conv3d_transpose.Conv3DTranspose,
    depthwise_conv1d.DepthwiseConv1D,
    depthwise_conv2d.DepthwiseConv2D,
    separable_conv1d.SeparableConv1D,
    separable_conv2d.SeparableConv2D,
    base_pooling1d.Pooling1D,
    base_pooling2d.Pooling2D,
    base_pooling3d.Pooling3D,
)


def _compute_nothing_apart(layer: type) -> None:
    """Replace the `call` of a kind of layer; its arguments are what tf_keras looks at."""
    original = layer.call  # type: ignore[attr-defined]

    @functools.wraps(original)
    def call(self: Any, inputs: Any) -> Any:
        return not_on_nothing(functools.partial(original, self), inputs)

    layer.call = call  # type: ignore[attr-defined]


def _make_seed(original: Callable[..., Any], self: Any) -> Any:
    """Wrap `RandomGenerator.make_seed_for_stateless_op`: workers draw different masks."""
    seed = original(self)
    if seed is None or current() is None:
        return seed
    seed = tf.convert_to_tensor(seed)
    return seed + tf.cast(tf.stack([0x9E3779B * replica_index(), 0]), seed.dtype)


_installed = False


def install() -> None:
    """Apply the changes; once, before `fit`."""
    global _installed
    if _installed:
        return
    _installed = True
    tf_keras.Model.make_train_function = _make_train_function
    tf_keras.Model.make_test_function = _make_test_function
    wrap(callbacks.CallbackList, "__init__", _callback_list_init)
    handler = data_adapter.DataHandler
    wrap(handler, "__init__", _handler_init)
    wrap(handler, "enumerate_epochs", _enumerate_epochs)
    wrap(handler, "_configure_dataset_and_inferred_steps", _configure_dataset)
    losses_utils.scale_loss_for_distribution = _identity
    wrap(losses_utils, "reduce_weighted_loss", _reduce_weighted_loss)
    wrap(losses_utils, "apply_valid_mask", _apply_valid_mask)
    wrap(losses.Loss, "__call__", _loss_call)
    wrap(losses.Loss, "_get_reduction", _get_reduction)
    wrap(compile_utils.LossesContainer, "build", _losses_build)
    wrap(compile_utils.MetricsContainer, "build", _metrics_build)
    distribute = metrics_utils.tf.__internal__.distribute
    wrap(distribute, "variable_sync_on_read_context", _sync_on_read)
    wrap(Optimizer, "aggregate_gradients", _aggregate_gradients)
    wrap(OptimizerV2, "_aggregate_gradients", _aggregate_gradients)
    for kind in (
        loss_scale_optimizer.LossScaleOptimizer,
        loss_scale_optimizer.LossScaleOptimizerV3,
    ):
        wrap(kind, "get_unscaled_gradients", _get_unscaled_gradients)
    wrap(BatchNormalizationBase, "_moments", _moments)
    wrap(BatchNormalizationBase, "_fused_batch_norm", _fused_batch_norm)
    wrap(BatchNormalizationBase, "_support_zero_size_input", _support_zero_size_input)
    for layer in _CANNOT_DO_NOTHING:
        _compute_nothing_apart(layer)
    wrap(backend.RandomGenerator, "make_seed_for_stateless_op", _make_seed)
