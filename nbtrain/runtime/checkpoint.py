"""The state of a training as one file: model, optimizers, callbacks, where it was."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import tensorflow as tf

from . import framework, tensors
from .errors import Corrupt

_CALLBACKS = "callbacks"
_OPTIMIZERS = "optimizers"
#: Attributes of a callback that belong to the process and not to the training.
_NOT_STATE = {"_model", "model", "params", "validation_data"}
#: The same for CSVLogger, which appends to the file that it finds after a restart.
_NOT_STATE |= {"append", "append_header", "csv_file", "writer"}


@dataclass(frozen=True)
class State:
    """What a checkpoint holds.

    `epoch` is the number of epochs done, `step` that of steps done in the next one; `variables`
    are named "model/0", "optimizer/0", ... in the order in which Keras lists them; in the middle of
    an epoch there are "metric/0", ... as well (`metric_state`).
    """

    epoch: int
    step: int
    variables: dict[str, np.ndarray[Any, Any]]
    callbacks: bytes = b""
    metadata: Mapping[str, str] | None = None


def read(path: Path) -> State:
    """Return the state of a checkpoint or of a run's weights."""
    arrays, metadata = tensors.load(path)
    callbacks = arrays.pop(_CALLBACKS, np.zeros(0, np.uint8)).tobytes()
    try:
        return State(
            int(metadata["epoch"]), int(metadata["step"]), arrays, callbacks, dict(metadata)
        )
    except (KeyError, ValueError) as error:
        raise Corrupt(f"{path.name}: {error}") from None


def pieces(state: State, build: Any = None) -> Iterable[memoryview]:
    """Return the bytes of the state's file; `build` says what an unbuilt model is built from."""
    metadata = {**(state.metadata or {}), "build": json.dumps(build)}
    metadata |= {"epoch": str(state.epoch), "step": str(state.step)}
    arrays = dict(state.variables)
    if state.callbacks:
        arrays[_CALLBACKS] = np.frombuffer(state.callbacks, np.uint8)
    return tensors.chunks(arrays, metadata)


def snapshot(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Return copies of the variables of a model and of its optimizers.

    Metrics are left out: they start afresh with every epoch.
    """
    return {key: np.array(v.numpy()) for key, _, v in framework.named_variables(model)}


def optimizers_built(model: Any) -> dict[str, str]:
    """Return, as metadata, the keys of the variables that each optimizer was built for.

    An optimizer of a custom step is built when the step is traced, which in another process comes
    after its state is to be restored, or never.
    """
    own = framework.of_model(model)
    keys = {id(variable): key for key, _, variable in framework.named_variables(model)}
    found = {}
    for name, optimizer in framework.optimizers(model).items():
        variables = own.built_for(optimizer)
        if variables and all(id(v) in keys for v in variables):
            found[name] = [keys[id(v)] for v in variables]
    return {_OPTIMIZERS: json.dumps(found)}


def _build_optimizers(model: Any, metadata: Mapping[str, str]) -> None:
    built = json.loads(metadata.get(_OPTIMIZERS, "{}"))
    optimizers = framework.optimizers(model)
    variables = {key: variable for key, _, variable in framework.named_variables(model)}
    for name, keys in built.items():
        if name in optimizers and variables.keys() >= set(keys):
            framework.of_model(model).build_for(optimizers[name], [variables[k] for k in keys])


def restore(
    model: Any,
    variables: Mapping[str, np.ndarray[Any, Any]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Put saved values into a built model and its optimizers, which `metadata` says how to build.

    Values of the model alone leave the optimizers as they are.

    Raises
    ------
    Corrupt
        If the variables are not those of this model.
    """
    _build_optimizers(model, metadata or {})
    parts = {name.split("/")[0] for name in variables}
    for key, name, variable in framework.named_variables(model):
        if key.split("/")[0] not in parts:
            continue
        shape = tf.TensorShape(variable.shape)
        if key not in variables or not shape.is_compatible_with(variables[key].shape):
            raise Corrupt(f"the saved state does not fit the model: {key} ({name})")
        variable.assign(variables[key])


#: What callbacks remember: for each its class and the pickled values of its attributes.
Memory = list[tuple[str, dict[str, bytes]]]


def callback_memory(callbacks: Iterable[Any]) -> Memory:
    """Return what callbacks remember (patience, best weights, ...).

    What does not pickle (an open file) is the callback's own to make again.
    """
    found: Memory = []
    for callback in callbacks:
        values = {}
        for name, value in vars(callback).items():
            if name not in _NOT_STATE:
                try:
                    values[name] = cloudpickle.dumps(value)
                except Exception:  # any object's own pickling can fail in any way
                    continue
        found.append((type(callback).__qualname__, values))
    return found


def callback_state(memory: Memory, initial: Memory) -> bytes:
    """Return what callbacks have learnt since they were made, pickled.

    What they were made with is each worker's own: it may differ (a callback that knows its worker).
    """
    changed = [
        (kind, {n: v for n, v in now.items() if before.get(n) != v})
        for (kind, now), (_, before) in zip(memory, initial, strict=True)
    ]
    return bytes(cloudpickle.dumps(changed))


def restore_callbacks(callbacks: Iterable[Any], state: bytes) -> None:
    """Give callbacks back what they, or worker 0's of the same class, remembered."""
    if not state:
        return
    remembered: list[tuple[str, dict[str, bytes]]] = cloudpickle.loads(state)
    for callback in callbacks:
        kind = type(callback).__qualname__
        found = next((i for i, (k, _) in enumerate(remembered) if k == kind), None)
        if found is not None:
            _, attributes = remembered.pop(found)
            for name, value in attributes.items():
                setattr(callback, name, cloudpickle.loads(value))
