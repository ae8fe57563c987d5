"""What a model keeps beside what Keras knows of: optimizers and variables, wherever they are held.

A `train_step` of one's own may change a `tf.Variable`, or use optimizers that are in a list. Keras
lists neither. They are found by walking the attributes of the model, its layers and the user's own
objects, and containers in them, and are named by their path: `opts[0]`, `_layers[2].steps`. The
path is the same in every process in which `model()` is called.
"""

from __future__ import annotations

import enum
import sys
import types
from collections import deque
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

#: Attributes in which Keras and TensorFlow note once more, in an order that varies, what is held.
_NOTES = ("_self_", "_nbtrain_")
#: The one of them that alone holds the layers of a functional model of tf_keras.
_HELD = "_self_tracked_trackables"
#: Packages whose objects are not looked into, but for layers, modules and random generators.
_CLOSED = {"builtins", "keras", "tf_keras", "tensorflow", "numpy"}
_CLOSED.add(__name__.partition(".")[0])  # nbtrain has another name in trainers
_CLOSED |= sys.stdlib_module_names
_OPEN = (tf.__internal__.tracking.AutoTrackable, keras.random.SeedGenerator)
#: Attributes of a model of tf_keras that count for its own use.
COUNTERS = {"_train_counter", "_test_counter", "_predict_counter", "_steps_per_execution"}
_LEAVES = (str, bytes, int, float, complex, type(None), type, types.FunctionType)
#: What a key of a dict may be, so that its text is the same in every process.
_KEYS = (str, bytes, int, float, complex, type(None), enum.Enum)


@dataclass
class Held:
    """What is held, by path.

    Attributes
    ----------
    unnamed
        The names of those that have no path: elements of sets, and values whose key in a dict is
        an object.
    """

    optimizers: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)
    unnamed: list[str] = field(default_factory=list)


def held(model: Any, optimizers: tuple[type, ...], metrics: tuple[type, ...]) -> Held:
    """Return all that a model holds, what Keras knows of included; metrics are not looked into."""
    found = Held()
    seen = {id(model)}
    waiting = deque(_children("", model))
    while waiting:
        path, value = waiting.popleft()
        if isinstance(value, _LEAVES) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, metrics):
            continue
        if isinstance(value, optimizers):
            _note(found, found.optimizers, path, value)
            seen |= {id(o) for o in _inner(value) if isinstance(o, optimizers)}
        elif isinstance(value, (tf.Variable, keras.Variable)):
            _note(found, found.variables, path, value)
        else:
            waiting.extend(_children(path, value))
    return found


def _note(found: Held, where: dict[str, Any], path: str | None, value: Any) -> None:
    if path is None:
        found.unnamed.append(str(value.name))
    else:
        where[path.replace("/", "|")] = value  # "/" parts the keys of a checkpoint


def _inner(optimizer: Any) -> Iterator[Any]:
    """Yield what an optimizer is made of (LossScaleOptimizer): it lists the variables itself."""
    for value in list(vars(optimizer).values()):
        yield from value.values() if isinstance(value, dict) else [value]


def _children(path: str | None, value: Any) -> Iterator[tuple[str | None, Any]]:
    """Yield what an object or a container holds, with its path; None where it has none."""
    if isinstance(value, Mapping):
        for key, one in list(value.items()):
            yield _at(path, repr(key) if _is_stable(key) else None), one
    elif isinstance(value, (list, tuple, deque)):
        for i, one in enumerate(list(value)):
            yield _at(path, str(i)), one
    elif isinstance(value, Set):
        yield from ((None, one) for one in list(value))
    if not _is_open(value):
        return
    for name, one in list(vars(value).items()):
        if (not name.startswith(_NOTES) or name == _HELD) and name not in COUNTERS:
            yield None if path is None else f"{path}.{name}" if path else name, one


def _at(path: str | None, key: str | None) -> str | None:
    return None if path is None or key is None else f"{path}[{key}]"


def _is_stable(key: Any) -> bool:
    return all(map(_is_stable, key)) if isinstance(key, tuple) else isinstance(key, _KEYS)


def _is_open(value: Any) -> bool:
    """Tell whether an object's attributes are looked at."""
    if not hasattr(value, "__dict__") or isinstance(value, (types.ModuleType, types.MethodType)):
        return False
    return isinstance(value, _OPEN) or type(value).__module__.partition(".")[0] not in _CLOSED
