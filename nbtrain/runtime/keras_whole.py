"""Losses and metrics in which the examples of a batch depend on each other.

A mean over examples can be taken in parts; the Dice loss of a batch, a loss of the user's that
sums by hand, an F1 score of a batch or a metric that keeps a maximum can not. Those get the
outputs of all workers, so that every worker computes what one process would. Which is which is
found out by trying: a function is called once on made-up values, whole and in two parts. What it
would do with other values shows in its graph (`keras_apart`). What Keras itself brings is known and
not tried.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from keras.src.metrics.reduction_metrics import MeanMetricWrapper

from . import keras_step
from .keras_apart import MEANS, has_rows, keeps_apart

#: "examples": one value for each; "mean": the mean over them; "coupled": anything else.
Kind = Literal["examples", "mean", "coupled"]
Array = np.ndarray[Any, Any]

#: Those of Keras in which examples depend on each other, or may, as their `axis` says.
_NOT_KNOWN = {"circle", "dice", "tversky", "pearson_correlation", "concordance_correlation"}
#: Rows of the two parts.
_PARTS = (2, 3)
#: Labels that people use to mark what does not count, beside real ones.
_LABELS = ((0, 1), (-1, 0, 1), (-100, 0, 1), (255, 0, 1))
#: Above this many values in a row fewer things are tried.
_MANY = 100_000


# -- losses ---------------------------------------------------------------------------------------


def loss_call(
    original: Callable[..., Any], self: Any, y_true: Any, y_pred: Any, sample_weight: Any = None
) -> Any:
    """Wrap `Loss.__call__` (keras/src/losses/loss.py): a coupled loss is that of all outputs."""
    step = keras_step.current()
    if step is None or loss_kind(self, y_true, y_pred) != "coupled":
        return original(self, y_true, y_pred, sample_weight)
    y_true, y_pred = _whole(y_true, step), _whole(y_pred, step)
    if sample_weight is not None:
        sample_weight = _whole(sample_weight, step)
    with keras_step.entered(None):
        return original(self, y_true, y_pred, sample_weight)


def prepare_losses(base: Any) -> None:
    """Wrap the `__call__` of all losses that override it, so that `base`'s is not called."""
    for child in base.__subclasses__():
        prepare_losses(child)
        own = vars(child).get("__call__")
        of_keras = child.__module__.startswith(("keras.", "tf_keras."))
        if own is not None and not of_keras and not hasattr(own, "_nbtrain_wrapped"):
            child.__call__ = _own_call(own)


def _own_call(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        step = keras_step.current()
        if step is None or not in_parts(args, kwargs):
            return original(self, *args, **kwargs)

        def called(args: Any, kwargs: Any) -> Any:
            return original(self, *args, **kwargs)

        def find() -> Kind:
            return kind(called, (args, kwargs))

        if remembered(self, (args, kwargs), find, of="__call__") != "coupled":
            return original(self, *args, **kwargs)
        args, kwargs = whole_tensors((args, kwargs), step)
        with keras_step.entered(None):
            return original(self, *args, **kwargs)

    call._nbtrain_wrapped = True  # type: ignore[attr-defined]
    return call


def loss_kind(loss: Any, y_true: Any, y_pred: Any) -> Kind:
    """Return how a loss depends on the examples; tried once for each shape."""
    function = getattr(loss, "fn", None)
    if is_known(function if function is not None else type(loss)):
        return "examples"

    def call(y: Any, p: Any) -> Any:
        y, p = keras.tree.map_structure(
            lambda v: keras.ops.convert_to_tensor(v, loss.dtype), (y, p)
        )
        return loss.call(y, p)

    return remembered(loss, (y_true, y_pred), lambda: kind(call, (y_true, y_pred)))


def is_known(function: Any) -> bool:
    """Tell whether a function or class is one of Keras' that treats each example by itself."""
    module = getattr(function, "__module__", None) or ""
    name = getattr(function, "__name__", "")
    return module.startswith(("keras.", "tf_keras.")) and name.lower() not in _NOT_KNOWN


def _whole(structure: Any, step: keras_step.Step) -> Any:
    """Return the rows of all workers, masks included."""

    def gather(value: Any) -> Any:
        gathered = step.whole(value)
        mask = keras.src.backend.get_keras_mask(value)
        if mask is not None:
            keras.src.backend.set_keras_mask(gathered, step.whole(mask))
        return gathered

    return keras.tree.map_structure(gather, structure)


# -- metrics --------------------------------------------------------------------------------------


def leaf_metrics(model: keras.Model) -> Iterator[Any]:
    """Yield the metrics of a model, those of `compile` one by one."""
    for metric in model.metrics:
        yield from getattr(metric, "metrics", None) or [metric]


def prepare_metrics(model: keras.Model) -> None:
    """See to it that metrics of the user's own get what they need; for built models."""
    for metric in leaf_metrics(model):
        if is_known(getattr(metric, "_fn", None) or type(metric)):
            continue
        if "update_state" in vars(metric):
            continue
        object.__setattr__(metric, "update_state", _update_state(metric, metric.update_state))
        if any(np.any(np.asarray(v)) for v in metric.stateless_reset_state()):
            _mark_whole(metric)  # what does not start from zero can't be summed


def is_whole(metric: Any) -> bool:
    """Tell whether each worker's state of a metric is that of all examples."""
    return bool(vars(metric).get("_nbtrain_whole"))


def _mark_whole(metric: Any) -> None:
    """Have the state read from the first replica: it is the same on all of them."""
    object.__setattr__(metric, "_nbtrain_whole", True)
    for variable in metric.variables:
        variable._value._aggregation = tf.VariableAggregation.ONLY_FIRST_REPLICA


def _update_state(metric: Any, original: Callable[..., Any]) -> Callable[..., Any]:
    def update_state(*args: Any, **kwargs: Any) -> Any:
        step = keras_step.current()
        if step is None or not in_parts(args, kwargs):
            return original(*args, **kwargs)
        if not is_whole(metric):
            if _metric_kind(metric, original, args, kwargs) != "coupled":
                return original(*args, **kwargs)
            _mark_whole(metric)
        args, kwargs = whole_tensors(args, step), whole_tensors(kwargs, step)
        with keras_step.entered(None):
            return original(*args, **kwargs)

    return update_state


def in_parts(*structure: Any) -> bool:
    """Tell whether all that a metric was given has a row for each example."""
    tensors = [v for v in keras.tree.flatten(structure) if has_rows(v)]
    return bool(tensors) and all(v.shape.rank for v in map(tf.convert_to_tensor, tensors))


def whole_tensors(structure: Any, step: keras_step.Step) -> Any:
    """Return what a loss or metric was given with the rows of all workers."""
    return keras.tree.map_structure(
        lambda v: _whole(v, step) if has_rows(v) else v, structure
    )  # fmt: skip


def _metric_kind(metric: Any, update: Callable[..., Any], args: Any, kwargs: Any) -> Kind:
    function = getattr(metric, "_fn", None)
    if isinstance(metric, MeanMetricWrapper) and function is not None and len(args) >= 2:
        options = getattr(metric, "_fn_kwargs", {})
        return remembered(
            metric, args[:2], lambda: kind(lambda y, p: function(y, p, **options), args[:2])
        )
    return remembered(
        metric, (args, kwargs), lambda: _state_kind(metric, update, (args, kwargs))
    )  # fmt: skip


def _state_kind(metric: Any, update: Callable[..., Any], arguments: Any) -> Kind:
    """Return "examples" if the state after some examples is the sum over these."""

    def after(state: list[Any], rows: Any) -> list[Any]:
        pairs = list(zip(metric.variables, state, strict=True))
        with keras.StatelessScope(state_mapping=pairs) as scope:
            args, kwargs = rows
            update(*args, **kwargs)
        found = [scope.get_current_value(v) for v in metric.variables]
        return [tf.convert_to_tensor(s if f is None else f) for s, f in zip(state, found)]  # noqa: B905

    def call(rows: Any) -> list[Array]:
        zero = [tf.zeros(v.shape, v.dtype) for v in metric.variables]
        once = after(zero, rows)
        again = after(once, rows)
        return [np.stack([np.float64(a), np.float64(b) - a]) for a, b in zip(once, again)]  # noqa: B905

    def judge(a: list[Array], b: list[Array], whole: list[Array]) -> Kind | None:
        if not all(np.isfinite(w).all() for w in whole):
            return None
        steady = all(_close(w[0], w[1]) for w in whole)
        sums = all(_close(x + y, w) for x, y, w in zip(a, b, whole, strict=True))
        return "examples" if steady and sums else "coupled"

    def sums(*rows: Any) -> list[Any]:
        return after([tf.zeros(v.shape, v.dtype) for v in metric.variables], rows)

    found = _tried(call, arguments, judge)
    return found if found == "coupled" or _keeps_apart(sums, arguments, None) else "coupled"


# -- trying ---------------------------------------------------------------------------------------


def kind(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Kind:
    """Return how the value of a function of (y_true, y_pred) depends on the examples."""

    def call(rows: Any) -> Array:
        return np.asarray(function(*rows), "float64")

    def judge(a: Array, b: Array, whole: Array) -> Kind | None:
        if not np.isfinite(whole).all():
            return None
        if whole.ndim == a.ndim == b.ndim == 0:
            mean = (_PARTS[0] * a + _PARTS[1] * b) / sum(_PARTS)
            return "mean" if _close(mean, whole) else "coupled"
        if whole.ndim and [len(v) for v in (a, b)] == list(_PARTS):
            parts = np.concatenate([a, b])
            if parts.shape == whole.shape and _close(parts, whole):
                return "examples"
        return "coupled"

    found = _tried(call, arguments, judge)
    by = MEANS if found == "mean" else ()
    return found if found == "coupled" or _keeps_apart(function, arguments, by) else "coupled"


def _keeps_apart(function: Callable[..., Any], arguments: Any, by: Any) -> bool:
    with tf.init_scope(), keras_step.entered(None):
        return keeps_apart(function, arguments, by)


def _tried(
    call: Callable[[Any], Any], arguments: Any, judge: Callable[[Any, Any, Any], Kind | None]
) -> Kind:
    """Return what `judge` says of all the values that `call` is tried on; "coupled" if in doubt.

    A function may fail on some of them (a class that is none): these say nothing.
    """
    found: set[Kind] = set()
    with tf.init_scope(), keras_step.entered(None):
        for rows in _samples(arguments):
            parts = (slice(0, _PARTS[0]), slice(_PARTS[0], None), slice(None))
            try:
                values = [call(keras.tree.map_structure(_cut(part), rows)) for part in parts]
                verdict = judge(*values)
            except Exception:
                continue
            if verdict is not None:
                found.add(verdict)
    return found.pop() if len(found) == 1 else "coupled"


def _cut(part: slice) -> Callable[[Any], Any]:
    return lambda v: tf.constant(v[part]) if isinstance(v, np.ndarray) else v


def _samples(arguments: Any) -> Iterator[Any]:
    """Yield values of the shapes and dtypes of the arguments, the first of which are labels."""
    rng = np.random.default_rng(0)
    leaves = keras.tree.flatten(arguments)
    first = next((i for i, v in enumerate(leaves) if has_rows(v)), 0)
    several = sum(map(has_rows, leaves)) > 1
    small = sum(np.prod(_shape(v), dtype=float) for v in leaves if has_rows(v)) < _MANY * 5
    labels = _LABELS if small else _LABELS[:1]
    for of_labels, of_logits in itertools.product([*labels, "one_hot", "any"], (False, True)):
        if of_logits and not small:
            continue
        values = []
        for i, leaf in enumerate(leaves):
            if not has_rows(leaf):
                values.append(leaf)
                continue
            like = of_labels if i == first and several else "any"
            value = _random(rng, _shape(leaf), like, logits=of_logits and i == first + 1)
            values.append(value.astype(tf.as_dtype(leaf.dtype).as_numpy_dtype))
        yield keras.tree.pack_sequence_as(arguments, values)


def _random(rng: np.random.Generator, shape: list[int], like: Any, *, logits: bool) -> Array:
    if logits:
        return rng.normal(size=shape)
    if like == "any":
        return rng.uniform(0.05, 0.95, size=shape)
    if like == "one_hot":
        scores = rng.uniform(size=shape)
        return scores == scores.max(axis=-1, keepdims=True) if len(shape) > 1 else scores > 0.5
    return rng.choice(np.array(like), size=shape)


def _shape(value: Any) -> list[int]:
    return [sum(_PARTS), *(4 if d is None else int(d) for d in value.shape[1:])]


def _close(a: Any, b: Any) -> bool:
    scale = max(float(np.abs(b).max(initial=0.0)), 1e-6)
    return bool(np.abs(np.asarray(a) - b).max(initial=0.0) <= 2e-5 * scale)


def remembered(owner: Any, arguments: Any, find: Callable[[], Kind], of: str = "") -> Kind:
    """Return what was found before for these shapes; kept with the loss or metric itself."""
    kinds = vars(owner).get("_nbtrain_kinds")
    if kinds is None:
        kinds = {}
        object.__setattr__(owner, "_nbtrain_kinds", kinds)
    leaves = keras.tree.flatten(arguments)
    key = (of, *(str(getattr(v, "shape", [])[1:]) for v in leaves if has_rows(v)))
    if key not in kinds:
        kinds[key] = find()
    return kinds[key]  # type: ignore[no-any-return]
