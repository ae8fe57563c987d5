"""From what `dataset()` returned to the arguments of `fit`, as one process would give them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from . import framework
from .errors import Refused

#: Keras' own default for arrays.
DEFAULT_BATCH = 32
#: Datasets that make elements of others' parts, whose batches are none any more.
_TAKES_APART = ("UnbatchDataset", "FlatMapDataset", "InterleaveDataset")


@dataclass(frozen=True)
class Data:
    """Data as `fit` takes it.

    Attributes
    ----------
    arguments : dict
        Arguments of `fit` for training data: x, y, sample_weight, batch_size.
    batch, steps, examples
        Global batch, steps of an epoch and examples, each None where it is not known beforehand.
    """

    arguments: dict[str, Any]
    batch: int | None
    steps: int | None
    examples: int | None
    found: dict[str, Any] = field(default_factory=dict)
    spec: Any = None

    @property
    def is_generator(self) -> bool:
        """Whether a generator gives the batches."""
        return "generator" in self.found

    @property
    def describe(self) -> dict[str, Any]:
        """Shapes and dtypes, for the model card."""
        seen = _seen.get(id(self.arguments["x"]))
        return self.found if seen is None else {**_described(seen), **self.found}

    @property
    def build(self) -> Any:
        """The structure of a batch as JSON values, for building a model from it."""
        seen = _seen.get(id(self.arguments["x"]))
        return self.spec if seen is None else _spec(seen)

    @property
    def validation_arguments(self) -> dict[str, Any]:
        """The same as arguments of `fit` for validation data."""
        parts = [self.arguments.get(name) for name in ("x", "y", "sample_weight")]
        while len(parts) > 1 and parts[-1] is None:
            parts.pop()
        whole = parts[0] if len(parts) == 1 else tuple(parts)
        arguments = {"validation_data": whole}
        if "batch_size" in self.arguments:
            arguments["validation_batch_size"] = self.arguments["batch_size"]
        return arguments


#: What Keras found the batches of Python's own making to be, by the id of the object.
_seen: dict[int, Any] = {}


def note_spec(source: Any, spec: Any) -> None:
    """Remember the element spec of a PyDataset or generator that `fit` has begun to read.

    Reading a batch beforehand to find out might change what comes: it may draw random numbers.
    """
    if _makes_batches(source) or _is_generator(source):
        _seen[id(source)] = spec


def adapt(value: Any, *, batch: int | None, shuffle: Any = True, what: str = "dataset") -> Data:
    """Return the data of a role.

    Parameters
    ----------
    value
        What the user's function returned, or the data itself.
    batch
        The global batch asked for (`--batch`), or None.
    what
        The role, for messages.

    Raises
    ------
    Refused
        If it is nothing that `fit` could take, or has no batch size, or two of them.
    """
    where = f"{what}()"
    if inspect.isgeneratorfunction(value):
        value = value()
    if isinstance(value, tf.distribute.DistributedDataset):
        raise Refused(where, "it is distributed already.", "Return the plain tf.data.Dataset.")
    if what != "dataset" and _is_batched_itself(value):
        batch = None  # --batch is for training; what validates has batches of its own
    if isinstance(value, tf.data.Dataset):
        return _dataset(value, batch, where)
    if _makes_batches(value):
        return _py_dataset(value, batch, where)
    if _is_generator(value):
        return _generator(value, batch, where)
    return _arrays(value, batch, where)


def _dataset(dataset: tf.data.Dataset, batch: int | None, where: str) -> Data:
    own = _batch_of(dataset)
    if own is None and not _is_batched(dataset):
        varies = _varies(dataset)
        if varies and batch is not None:
            raise Refused(
                where,
                f"its elements are of no fixed shape ({varies}), so --batch can't put them"
                " together.",
                f"Leave --batch out, and have dataset() say .padded_batch({batch}), or"
                f" .batch({batch}) if they are alike in fact.",
            )
        if batch is None:
            how = "Use padded_batch() in it." if varies else "Say --batch, or batch() it."
            raise Refused(where, "the dataset is not batched.", how)
        dataset, own = dataset.batch(batch), batch
    elif batch is not None and own is None:
        raise Refused(
            where,
            f"its elements begin with a dimension of any length, as batches do, and --batch says"
            f" {batch}.",
            "Leave --batch out if they are batches; if each is an example, have dataset() say"
            f" .padded_batch({batch}) instead.",
        )
    elif batch is not None and own is not None and own != batch:
        raise Refused(
            where,
            f"the dataset comes in batches of {own}, and --batch says {batch}.",
            "Leave one of them out: a dataset's own batch is the global batch.",
        )
    steps = int(dataset.cardinality().numpy())
    known = steps if steps >= 0 else None
    if known == 0:
        raise Refused(
            where,
            "the dataset is empty.",
            "Look at what it is made from: the files, a filter, a take() or skip().",
        )
    return Data(
        {"x": dataset},
        batch=own or batch,
        steps=known,
        examples=None,
        found=_described(dataset.element_spec),
        spec=_spec(dataset.element_spec),
    )


def _is_batched_itself(value: Any) -> bool:
    if isinstance(value, tf.data.Dataset):
        return _batch_of(value) is not None or _is_batched(value)
    return isinstance(value, keras.utils.PyDataset) or _is_generator(value)


def _batch_of(dataset: Any) -> int | None:
    """Return the batch size of the last `batch` in a pipeline, where it can be seen.

    Of datasets that are put together (zip, concatenate) all must have the same.
    """
    while dataset is not None:
        size = getattr(dataset, "_batch_size", None)
        if size is not None and "Batch" in type(dataset).__name__:
            value = tf.get_static_value(size)
            return int(value) if value is not None else None
        if type(dataset).__name__.endswith(_TAKES_APART):
            return None
        inputs = getattr(dataset, "_data_inputs", None) or dataset._inputs()
        if len(inputs) > 1:
            sizes = {_batch_of(each) for each in inputs}
            return sizes.pop() if len(sizes) == 1 else None
        dataset = inputs[0] if inputs else None
    return None


def _is_batched(dataset: tf.data.Dataset) -> bool:
    """Guess from the shapes: a first dimension that is unknown is a batch's.

    Where the label is a single number it is an example's: so are ragged rows of one dimension.
    """
    specs = dataset.element_spec
    if isinstance(specs, tuple) and len(specs) > 1:
        labels = [leaf.shape.rank for _, leaf in _shaped(specs[1])]
        if labels and not any(rank is None or rank > 0 for rank in labels):
            return False
    shapes = [leaf.shape for _, leaf in _shaped(specs) if not _is_one_row(leaf)]
    return any(s.rank is None or (s.rank > 0 and s[0] is None) for s in shapes)


def _varies(dataset: tf.data.Dataset) -> str:
    """Return the names of the parts of an element that are of any length."""
    dense = [(n, s) for n, s in _shaped(dataset.element_spec) if isinstance(s, tf.TensorSpec)]
    return ", ".join(f"{n}: {s.shape}" for n, s in dense if not s.shape.is_fully_defined())


def _shaped(structure: Any) -> list[tuple[str, Any]]:
    return [(name, leaf) for name, leaf in parts_of(structure) if hasattr(leaf, "shape")]


def _is_one_row(spec: Any) -> bool:
    return isinstance(spec, tf.RaggedTensorSpec) and spec.ragged_rank == 0


def _makes_batches(value: Any) -> bool:
    return isinstance(value, keras.utils.PyDataset) or framework.is_sequence(value)


def _py_dataset(value: Any, batch: int | None, where: str) -> Data:
    if batch is not None:
        kind = "Sequence" if framework.is_sequence(value) else "PyDataset"
        raise Refused(where, f"a {kind} makes its own batches.", "Leave --batch out.")
    own = getattr(value, "batch_size", None)  # what most call it; it is for showing only
    return Data(
        {"x": value},
        batch=own if isinstance(own, int) else None,
        steps=len(value) if framework.is_sequence(value) else value.num_batches,
        examples=None,
    )


def _is_generator(value: Any) -> bool:
    return inspect.isgenerator(value) or (
        hasattr(value, "__next__") and not hasattr(value, "shape")
    )


def _generator(value: Any, batch: int | None, where: str) -> Data:
    if batch is not None:
        raise Refused(where, "a generator makes its own batches.", "Leave --batch out.")
    return Data({"x": value}, None, None, None, found={"generator": True})


def _arrays(value: Any, batch: int | None, where: str) -> Data:
    parts = value if isinstance(value, tuple) else (value,)
    if not 1 <= len(parts) <= 3:
        raise Refused(where, f"it returned a tuple of {len(parts)}.", "Return (x, y).")
    if isinstance(value, list):
        raise Refused(where, "it returned a list.", "Return a tuple (x, y) of arrays.")
    leaves = [leaf for part in parts for leaf in keras.tree.flatten(part) if leaf is not None]
    lengths = set()
    for leaf in leaves:
        if not hasattr(leaf, "shape") or not len(leaf.shape):
            raise Refused(
                where,
                f"it returned {type(leaf).__name__} where data is wanted.",
                "Return (x, y) arrays, a tf.data.Dataset, a PyDataset or DataFrames.",
            )
        lengths.add(int(leaf.shape[0]))
    if len(lengths) > 1:
        raise Refused(
            where,
            f"its arrays have different lengths: {sorted(lengths)}.",
            "Give all of them one row for each example.",
        )
    if lengths in (set(), {0}):
        raise Refused(
            where, "it returned no examples.", "Look at how the rows of its arrays are chosen."
        )
    (examples,) = lengths
    size = batch or DEFAULT_BATCH
    names = ("x", "y", "sample_weight")
    arguments = dict(zip(names, parts, strict=False))
    return Data(
        {**arguments, "batch_size": size},
        batch=size,
        steps=math.ceil(examples / size),
        examples=examples,
        found={**_described(parts), "examples": examples},
        spec=_spec(parts, with_batch=False),
    )


def _described(structure: Any) -> dict[str, Any]:
    """Return names, shapes and dtypes, for reading."""
    found = {}
    for path, leaf in _leaves(structure):
        if hasattr(leaf, "shape"):
            shape = [None if d is None else int(d) for d in leaf.shape]
            found[path] = {"shape": shape, "dtype": _dtype(leaf)}
    return found


def parts_of(structure: Any) -> list[tuple[str, Any]]:
    """Return the parts of a batch, or of its spec, with their names, in one order."""
    return list(_leaves(structure))


def _leaves(structure: Any, path: str = "") -> Any:
    if isinstance(structure, Mapping):
        for key, value in structure.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(structure, tuple):
        names: list[str] = ["x", "y", "sample_weight"] if not path else []
        for i, value in enumerate(structure):
            name = names[i] if i < len(names) else f"{path}[{i}]"
            yield from _leaves(value, name)
    elif structure is not None:
        yield path or "x", structure


def _dtype(leaf: Any) -> str:
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:  # a DataFrame
        return ", ".join(sorted({str(d) for d in leaf.dtypes}))
    return getattr(dtype, "name", str(dtype))


def _spec(structure: Any, *, with_batch: bool = True) -> Any:
    """Return the structure of a batch with shapes and dtypes; the batch dimension is open."""
    if isinstance(structure, Mapping):
        return {str(k): _spec(v, with_batch=with_batch) for k, v in structure.items()}
    if isinstance(structure, (tuple, list)):
        return [_spec(v, with_batch=with_batch) for v in structure]
    if structure is None or not hasattr(structure, "shape"):
        return None
    shape = structure.shape
    if getattr(shape, "rank", 0) is None:  # a tf.TensorShape of which nothing is known
        return None
    dimensions = [None, *(None if d is None else int(d) for d in shape[1:])][: len(shape)]
    dtype = getattr(structure, "dtype", None)
    name = "float32" if dtype is None else getattr(dtype, "name", str(dtype))
    return {"shape": dimensions, "dtype": name}
