"""What is looked at before training: versions, and forms that would not be right.

What is known to come out different from one process is refused by name; what might, or what can't
be compared, is warned of.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from . import framework
from .errors import Refused, VersionMismatch
from .keras_sources import SOURCES, TENSORFLOW_SOURCES

KERAS_VERSIONS = ("3.15",)
TENSORFLOW_VERSIONS = ("2.20", "2.21")

#: Functions of TensorFlow whose state is the process' own.
_DRAWS_ANEW = re.compile(
    r"\btf\.(random\.(?!stateless_|Generator|experimental|get_|set_|create_|fold_|split)|nn\.dropout"
    r"|image\.random_)"
)
DRAWN_ANEW = (
    "what tf.random draws is drawn anew after a restart, so a run that loses a worker does not end"
    " as if it had not; draw with keras.random and seed=keras.random.SeedGenerator(...), or with a"
    " tf.random.Generator, which the model makes in __init__"
)

_checked: list[bool] = []


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
    if not _checked:  # once: afterwards the functions are nbtrain's
        check_sources("Keras", "keras", keras.__version__, SOURCES)
        check_sources("TensorFlow", "tensorflow", tf.__version__, TENSORFLOW_SOURCES)
        _checked.append(True)


def check_sources(
    name: str, package: str, version: str, sources: Mapping[str, tuple[str, ...]]
) -> None:
    """Refuse a known version whose functions are others: a changed or mixed install."""
    for path, known in sources.items():
        found = source_digest(path)
        if found is not None and found not in known:
            raise VersionMismatch(
                f"{path} of {name} {version}",
                "it is not the function that nbtrain's changes were tested with.",
                f"Install it anew: pip install --force-reinstall {package}=={version}",
            )


def source_digest(path: str) -> str | None:
    """Return the digest of the source of "module:name.name"; None where there is no source."""
    module, _, names = path.partition(":")
    found: Any = importlib.import_module(module)
    for name in names.split("."):
        found = getattr(found, name, None)
        if found is None:
            return "missing"
    try:
        source = inspect.getsource(inspect.unwrap(found))
    except (OSError, TypeError):
        return None
    return hashlib.sha256(source.encode()).hexdigest()[:12]


# -- a compiled model -----------------------------------------------------------------------------


def check_compiled(model: keras.Model, strategy: tf.distribute.Strategy) -> list[tuple[str, str]]:
    """Refuse by name what would not be right with several workers.

    Returns warnings as (code, message).
    """
    if getattr(model, "_distribute_strategy", None) is not strategy:
        raise Refused("model()", "the model was not made by this call.", "Build it in model().")
    _check_variables(model, strategy)
    layers = list(model._flatten_layers())
    for layer in layers:
        _check_layer(layer)
    _check_inputs(model)
    _check_compile_options(model)
    warnings: list[tuple[str, str]] = []
    for layer in layers:
        warnings += _warnings_of_layer(layer)
    warnings += warnings_of_steps(type(model), keras.Model)
    return list(dict(warnings).items())


def _check_variables(model: keras.Model, strategy: tf.distribute.Strategy) -> None:
    """Refuse variables made before `model()` was called: they would be each worker's own."""
    owners = [("the layer variable", model.variables), ("the metric", model.metrics_variables)]
    optimizers = framework.optimizers(model).values()
    owners += [("the optimizer variable", one.variables) for one in optimizers]
    for what, variables in owners:
        for variable in variables:
            own = getattr(variable._value, "_distribute_strategy", None)
            if variable._value is not None and own is not strategy:
                raise Refused(
                    f"{what} {variable.path}",
                    "it was made outside model(), so that each worker would train a copy of its"
                    " own.",
                    "Make layers, metrics and optimizers inside model().",
                )


def _check_inputs(model: keras.Model) -> None:
    for tensor in keras.tree.flatten(getattr(model, "inputs", None) or []):
        if tensor.shape and tensor.shape[0] is not None:
            raise Refused(
                f"Input(batch_size={tensor.shape[0]})",
                "every worker gets a part of the batch, and the model takes only the whole.",
                "Leave the batch size out of Input: Input(shape).",
            )


def _check_compile_options(model: keras.Model) -> None:
    optimizer = model.optimizer
    if type(optimizer).__name__ == "ScheduleFreeAdamW" and not optimizer.built:
        raise Refused(
            "ScheduleFreeAdamW",
            "Keras sets its averages back at every step where fit builds it.",
            "Build it in model(): model.optimizer.build(model.trainable_variables).",
        )
    if model.jit_compile is True and not tf.config.list_logical_devices("GPU"):
        raise Refused(
            "compile(jit_compile=True)",
            "TensorFlow has no collectives inside XLA on CPUs.",
            'Leave it out: "auto" is right.',
        )


def _check_layer(layer: Any) -> None:
    if getattr(layer, "stateful", False):
        raise Refused(
            f"{type(layer).__name__}(stateful=True)",
            "its state belongs to the rows of a batch, and each worker has only some of them.",
            "Train with --workers 1, or give the state as an input.",
        )


def _warnings_of_layer(layer: Any) -> Iterator[tuple[str, str]]:
    name = type(layer).__name__
    if draws(layer):
        yield (
            "random-layer",
            f"{name} draws other numbers on every worker, as it should: the results are good"
            " ones, but not comparable with one process",
        )
    if type(layer).__module__.startswith("keras."):
        return
    seeds = {id(g.state) for g in getattr(layer, "_seed_generators", [])}
    if any(id(v) not in seeds for v in layer._non_trainable_variables):
        yield (
            "layer-state",
            f"{name} keeps values of its own: what it computes from a batch comes from each"
            " worker's part of it. Values that differ between workers end the run; a number of"
            " examples that is counted comes out as that of one worker",
        )
    if not isinstance(layer, keras.Model) and "add_loss" in _source(type(layer).call):
        yield from _warning_of_sum(type(layer).call, f"{name}.call")


def draws(layer: Any) -> bool:
    """Tell whether a layer draws numbers; recurrent ones have a generator even if they don't."""
    if not getattr(layer, "_seed_generators", None):
        return False
    rates = [getattr(layer, n, None) for n in ("rate", "dropout", "recurrent_dropout", "stddev")]
    known = [r for r in rates if isinstance(r, (int, float))]
    return any(known) if known else type(layer).__name__ != "MultiHeadAttention"


def warnings_of_steps(kind: type, base: type) -> Iterator[tuple[str, str]]:
    """Yield warnings of the steps of a model that are not those of Keras' own class `base`."""
    for name in ("train_step", "test_step", "compute_loss"):
        function = getattr(kind, name)
        if function is getattr(base, name):
            continue
        yield from _warning_of_sum(function, name)
        yield from _warning_of_coupled(function, name)
        yield from _warning_of_count(function, name)
        if "tf.random." in (source := _source(function)) or "keras.random." in source:
            anew = f"; {DRAWN_ANEW}" if _DRAWS_ANEW.search(source) else ""
            yield (
                "random-step",
                f"{name} draws other numbers on every worker: the results are good ones, but not"
                f" comparable with one process{anew}",
            )


def draws_anew(kind: type) -> bool:
    """Tell whether the source of a model's steps draws from a state that can't be restored."""
    names = ("train_step", "test_step", "compute_loss")
    return any(_DRAWS_ANEW.search(_source(getattr(kind, name))) for name in names)


def _warning_of_sum(function: Any, name: str) -> Iterator[tuple[str, str]]:
    """Look for what can't be seen from outside: a sum over the batch, taken by hand."""
    if _sums_over_batch(_source(function)):
        yield (
            "sum-in-train-step",
            f"{name} takes a sum over the batch by hand: nbtrain takes a loss for a mean over the"
            " examples, so a sum comes out divided by the number of workers; use a mean (or divide"
            " by tf.shape(x)[0]), or give the loss to compile()",
        )


#: Functions of Keras in which the examples of a batch depend on each other, and their classes.
_COUPLED = {"circle": "Circle", "dice": "Dice", "tversky": "Tversky"}


def _warning_of_coupled(function: Any, name: str) -> Iterator[tuple[str, str]]:
    """Look for functions that see one worker's examples; a Loss object gets those of all."""
    for call in _calls(_source(function)):
        if (found := _name(call)) in _COUPLED:
            yield (
                "coupled-in-train-step",
                f"{name} calls the function {found} of Keras, which couples the examples of a"
                " batch and here sees those of one worker; call an object in its place:"
                f" keras.losses.{_COUPLED[found]}()",
            )


def _warning_of_count(function: Any, name: str) -> Iterator[tuple[str, str]]:
    """Look for a number of examples among the logs."""
    tree = _parsed(_source(function))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and _is_count(node.value, names):
            names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    returned = [n.value for n in ast.walk(tree) if isinstance(n, ast.Return)]
    if any(_is_count(v, names) for d in returned if isinstance(d, ast.Dict) for v in d.values):
        yield (
            "count-in-logs",
            f"{name} returns a number of examples: the scalars that a step returns are taken for"
            " means over the examples, so this one comes out as the mean over the workers; count"
            " with a metric (keras.metrics.Sum), which is summed over them",
        )


def _is_count(node: ast.AST, names: set[str]) -> bool:
    """Tell whether something is the first length of a tensor, its size, or one of these names."""
    if isinstance(node, ast.Call):
        if _name(node) in ("cast", "float", "int") and node.args:
            return _is_count(node.args[0], names)
        return _name(node) in ("size", "len")
    if isinstance(node, ast.Subscript):
        of = _name(node.value) if isinstance(node.value, ast.Call) else None
        first = isinstance(node.slice, ast.Constant) and node.slice.value == 0
        return first and "shape" in (of, getattr(node.value, "attr", None))
    return isinstance(node, ast.Name) and node.id in names


def _source(function: Any) -> str:
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return ""


def _sums_over_batch(source: str) -> bool:
    """Tell whether there is a `reduce_sum(x)` with no axis, or with the first one.

    One that is divided by a number of examples is a mean, and right.
    """
    tree = _parsed(source)
    counts: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and _counts(node.value, counts):
            counts |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    means = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
        if _counts(node.right, counts)
        for part in ast.walk(node.left)
    }
    return any(_is_sum_over_batch(c) and id(c) not in means for c in _calls(tree))


def _counts(node: ast.AST, names: set[str]) -> bool:
    """Tell whether something is made of the shape of a tensor, or of one of these names."""
    parts = list(ast.walk(node))
    used = {n.id for n in parts if isinstance(n, ast.Name)}
    attributes = {n.attr for n in parts if isinstance(n, ast.Attribute)}
    return not used.isdisjoint({*names, "len"}) or not attributes.isdisjoint({"shape", "size"})


def _parsed(source: str) -> ast.AST:
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.Module([], [])


def _calls(source: str | ast.AST) -> Iterator[ast.Call]:
    tree = _parsed(source) if isinstance(source, str) else source
    yield from (n for n in ast.walk(tree) if isinstance(n, ast.Call))


def _name(call: ast.Call) -> str:
    """Return the last part of the name of what is called."""
    return getattr(call.func, "attr", None) or getattr(call.func, "id", None) or ""


def _is_sum_over_batch(call: ast.Call) -> bool:
    name = _name(call)
    if name != "reduce_sum" and not (name == "sum" and isinstance(call.func, ast.Attribute)):
        return False
    axis = next((k.value for k in call.keywords if k.arg == "axis"), None)
    axis = axis or (call.args[1] if len(call.args) > 1 else None)
    if axis is None:
        return True
    try:
        value = ast.literal_eval(axis)
    except ValueError:
        return False
    return value is None or 0 in (value if isinstance(value, (tuple, list)) else [value])
