"""Tells from its graph whether a function keeps the examples of a batch apart.

Trying a function on made-up values (`keras_whole`) can't find what it does with others: a loss that
leaves out labels of -999 is a mean over examples as long as there is no -999. So a function is
also traced, for a prime number of rows. What is computed of the examples has a size that is a
multiple of it, and what several examples were put together to has not. What was put together may
be added up and multiplied by what is no data; where anything else is done with it (a division by a
number of labels), examples depend on each other, whatever the values are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import keras
import tensorflow as tf

#: Two, since one may divide another dimension.
_ROWS = (97, 101)
#: What these give does not depend on values.
_NO_DATA = {"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"}
_LINEAR = {
    *("Identity", "IdentityN", "StopGradient", "Neg", "Cast", "Reshape", "Squeeze", "ExpandDims"),
    *("Mean", "Sum", "AddV2", "Add", "AddN", "Sub", "Pack", "ConcatV2", "StridedSlice"),
}
_PRODUCTS, _QUOTIENTS = {"Mul"}, {"RealDiv", "DivNoNan"}
_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
#: What puts examples together to a mean, or to a sum that is divided by their number.
MEANS = {"Mean", "Sum", "L2Loss"}


def keeps_apart(
    function: Callable[..., Any], arguments: tuple[Any, ...], by: Collection[str] | None
) -> bool:
    """Tell whether a function surely puts examples together by nothing but these operations.

    Parameters
    ----------
    function, arguments
        Tensors among the arguments have a row for each example; other values are given as such.
    by
        Types of operations; None for any.
    """
    try:
        return all(_keeps_apart(function, arguments, rows, by) for rows in _ROWS)
    except Exception:  # it can't be traced for so many rows, or by itself
        return False


def has_rows(value: Any) -> bool:
    """Tell whether something is a tensor with a row for each example."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and len(value.shape) > 0


def _keeps_apart(
    function: Callable[..., Any], arguments: Any, rows: int, by: Collection[str] | None
) -> bool:
    leaves = keras.tree.flatten(arguments)
    places = [i for i, leaf in enumerate(leaves) if has_rows(leaf)]

    def traced(*tensors: Any) -> Any:
        given = dict(zip(places, tensors, strict=True))
        filled = [given.get(i, leaf) for i, leaf in enumerate(leaves)]
        return function(*keras.tree.pack_sequence_as(arguments, filled))

    specs = [
        tf.TensorSpec([rows, *(4 if d is None else int(d) for d in leaf.shape[1:])], leaf.dtype)
        for leaf in (leaves[i] for i in places)
    ]
    graph = tf.function(traced, autograph=False).get_concrete_function(*specs).graph
    given = [True] * len(specs) + [None] * (len(graph.inputs) - len(specs))
    return _followed(graph, given, rows, by) is not None


def _followed(
    graph: Any, given: list[bool | None], rows: int, by: Collection[str] | None
) -> list[bool | None] | None:
    """Return of each output of a graph what `given` says of the inputs; None if in doubt.

    Of what depends on the examples: whether these are apart.
    """
    apart: dict[str, bool | None] = dict(zip((t.name for t in graph.inputs), given, strict=True))
    needed = set(_needed(graph.outputs))
    for operation in graph.get_operations():  # in the order in which they were made
        used = [i for i, tensor in enumerate(operation.outputs) if tensor.name in needed]
        found = [apart.get(tensor.name) for tensor in operation.inputs]
        if not used or operation.type in _NO_DATA or all(one is None for one in found):
            continue
        sizes = [operation.outputs[i].shape.num_elements() for i in used]
        if None in sizes:
            return None
        if operation.type in _CALLS:  # of a `tf.function`
            called = graph._get_function(operation.get_attr("f").name).graph
            results = _followed(called, found, rows, by)
            if results is None:
                return None
            now = [results[i] for i in used]
        else:
            now = [size % rows == 0 for size in sizes]
            if _has_function(operation) or not _is_plain(operation, found, set(now), by):
                return None
        apart |= zip((operation.outputs[i].name for i in used), now, strict=True)
    return [apart.get(tensor.name) for tensor in graph.outputs]


def _is_plain(
    operation: Any, given: list[bool | None], now: Any, by: Collection[str] | None
) -> bool:
    if False not in given:  # of examples, apart
        return False not in now or by is None or operation.type in by
    if True in given or True in now:  # examples, and what was put together
        return False
    if operation.type in _PRODUCTS:
        return None in given
    if operation.type in _QUOTIENTS:
        return given[1] is None
    if operation.type == "Cast" and not operation.outputs[0].dtype.is_floating:
        return False
    return operation.type in _LINEAR


def _needed(outputs: list[Any]) -> Iterator[str]:
    """Yield the names of the tensors that outputs come from, and theirs."""
    seen: set[str] = set()
    waiting = list(outputs)
    while waiting:
        tensor = waiting.pop()
        if tensor.name not in seen:
            seen.add(tensor.name)
            yield tensor.name
            waiting += tensor.op.inputs


def _has_function(operation: Any) -> bool:
    """Tell whether an operation calls a graph of its own (a condition, a loop)."""
    attributes = operation.node_def.attr.values()
    return any(a.HasField("func") or a.list.func for a in attributes)
