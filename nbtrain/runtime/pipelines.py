"""What a `tf.data` pipeline does that several workers can't do alike."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from . import shard
from .data import parts_of
from .errors import Refused

#: Beginnings of the kinds of graph nodes that draw numbers from, or change, a state of their own.
STATEFUL_OPS = ("Random", "Stateful", "Multinomial", "TruncatedNormal", "Parameterized", "Assign",
                "SampleDistorted", "Rng")  # fmt: skip
#: A call of a function, whose own nodes are looked at as well.
_CALL = "StatefulPartitionedCall"
#: Datasets that call their function in parallel, whatever they are told.
_PARALLEL = ("ParallelInterleave", "MapAndBatch", "LegacyParallel", "ParallelMap")
_UNEVEN = "nbtrain: rows of the parts of a batch"


def check(dataset: Any, where: str) -> None:
    """Refuse a pipeline that would give the workers different batches, by chance.

    Raises
    ------
    Refused
        If its order is not determined, if it draws random numbers in parallel calls, or if it
        keeps its elements in a file that several workers would write.
    """
    if not isinstance(dataset, tf.data.Dataset):
        return
    if shard.is_by_file(dataset):
        _check_rows(dataset)
    if dataset.options().deterministic is False:
        raise _by_chance(where, "options.deterministic = False")
    for part in shard.inputs(dataset):
        if is_unordered(part):
            raise _by_chance(where, f"{_name(part)} with deterministic=False")
        if _draws_in_parallel(part):
            raise Refused(
                where,
                f"{_name(part)} draws random numbers, or changes a variable, in parallel calls."
                " No seed puts these in order, so the workers' data would differ.",
                "Leave num_parallel_calls out there, or draw by tf.random.stateless_* with a seed"
                " for each example: zip the dataset with tf.data.Dataset.random(seed=1).batch(2).",
            )
        _check_cache(part, where)


def _by_chance(where: str, what: str) -> Refused:
    return Refused(
        where,
        f"its order is a matter of chance ({what}), so the workers would share out different"
        " batches: some examples would be seen twice and others never.",
        "Say deterministic=True, which is TensorFlow's default.",
    )


def is_unordered(dataset: Any) -> bool:
    """Tell whether a dataset by itself was allowed to give its elements in any order."""
    if getattr(dataset, "_deterministic", "default") == "false":
        return True
    return any(
        ("deterministic" in node.attr and node.attr["deterministic"].s == b"false")
        or ("sloppy" in node.attr and node.attr["sloppy"].b)
        for node in shard.nodes(dataset)
    )


def _draws_in_parallel(dataset: Any) -> bool:
    kinds = shard.ops(dataset)
    if not any(kind.startswith(STATEFUL_OPS) and kind != _CALL for kind in kinds):
        return False
    if type(dataset).__name__.lstrip("_").startswith(_PARALLEL):
        calls = getattr(dataset, "_num_parallel_calls", None)
        # One call at a time is made in order.
        return calls is None or tf.get_static_value(calls) != 1
    return any(kind.startswith(_PARALLEL) for kind in kinds)


def _name(dataset: Any) -> str:
    name = getattr(dataset, "_transformation_name", None)
    return name() if name is not None else type(dataset).__name__.lstrip("_")


def _check_cache(dataset: Any, where: str) -> None:
    """Refuse a file for `cache`, in a worker's own folder as well.

    An iterator that was not read to its end, of a worker that was killed or of one that goes on
    after a restart, leaves a lock that stops all others.
    """
    name = getattr(dataset, "_filename", None) if "Cache" in type(dataset).__name__ else None
    path = "" if name is None else tf.get_static_value(name)
    if path not in ("", b""):
        shown = path.decode() if isinstance(path, bytes) else path
        raise Refused(
            where,
            f"cache({shown!r}) writes a file that several workers, or those of a run that was"
            " started again, can't share.",
            "Say cache() to keep the elements in memory, or write them to TFRecord files once.",
        )


# -- the rows of a batch --------------------------------------------------------------------------


def evenly(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return the dataset; it fails at a batch whose parts do not have as many rows each.

    A worker gets its part of the rows, of each part of a batch by itself. `refusing` tells of it.
    """
    specs = {name: spec for name, spec in parts_of(dataset.element_spec) if hasattr(spec, "shape")}
    static = _static_rows(dataset)
    if len(static) < 2 or (len(set(static.values())) == 1 and None not in static.values()):
        return dataset
    names = ",".join(specs)

    def look(*batch: Any) -> Any:
        whole = batch if isinstance(dataset.element_spec, tuple) else batch[0]
        rows = tf.stack([_rows(part) for name, part in parts_of(whole) if name in specs])
        most = tf.reduce_max(rows)
        alike = tf.reduce_all((rows == most) | (rows == -1))
        seen = tf.debugging.Assert(alike, [_UNEVEN, names, rows], summarize=len(specs))
        with tf.control_dependencies([seen]):
            return tf.nest.map_structure(tf.identity, whole, expand_composites=True)

    return dataset.map(tf.autograph.experimental.do_not_convert(look))


def _static_rows(dataset: tf.data.Dataset) -> dict[str, int | None]:
    """Return how many rows the parts of all batches have, None where that is not said."""
    shapes = {n: s.shape for n, s in parts_of(dataset.element_spec) if hasattr(s, "shape")}
    return {n: None if s.rank is None else s[0] for n, s in shapes.items() if s.rank != 0}


def _check_rows(dataset: tf.data.Dataset) -> None:
    """Refuse batches that are shared out by file, as far as their shapes tell.

    A `map` after the last `batch` changes how TensorFlow makes these smaller (`evenly` is one).
    """
    static = _static_rows(dataset)
    if len(set(static.values())) > 1:
        found = ((n, "any number" if rows is None else str(rows)) for n, rows in static.items())
        raise _uneven(", ".join(f"{name}: {rows}" for name, rows in found))


def _rows(part: Any) -> Any:
    """Return how many rows a part of a batch has; -1 for a scalar, which all workers get."""
    if isinstance(part, tf.RaggedTensor):
        return tf.cast(part.nrows(), tf.int64)
    shape = part.dense_shape if isinstance(part, tf.SparseTensor) else tf.shape(part, tf.int64)
    return tf.concat([shape[:1], tf.constant([-1], tf.int64)], 0)[0]


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Have what `evenly` finds be a refusal, by the names of the parts."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(re.escape(f"[{_UNEVEN}] ") + r"\[(.*?)\] \[([-\d ]+)\]", str(error))
        if found is None:
            raise
        names, counts = found[1].split(","), found[2].split()
        rows = ", ".join(f"{n}: {c}" for n, c in zip(names, counts, strict=True) if c != "-1")
        raise _uneven(rows) from None


def _uneven(rows: str) -> Refused:
    return Refused(
        "a batch",
        f"its parts have different numbers of rows ({rows}), and workers share it out by rows.",
        "Give every part one row for each example: repeat what all examples share, or put it"
        " into the model. Or train with --workers 1.",
    )
