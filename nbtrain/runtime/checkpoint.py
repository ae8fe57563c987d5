"""The state of a training as one file: model, optimizers, callbacks, where it was."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np

from . import framework, tensors
from .errors import Corrupt

_CALLBACKS = "callbacks"
#: Attributes of a callback that belong to the process and not to the training.
_NOT_STATE = {"_model", "model", "params", "validation_data"}


@dataclass(frozen=True)
class State:
    """What a checkpoint holds.

    `epoch` is the number of epochs done, `step` that of steps done in the next one; `variables`
    are named "model/0", "optimizer/0", ... in the order in which Keras lists them.
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
    metadata = {"epoch": str(state.epoch), "step": str(state.step), "build": json.dumps(build)}
    arrays = dict(state.variables)
    if state.callbacks:
        arrays[_CALLBACKS] = np.frombuffer(state.callbacks, np.uint8)
    return tensors.chunks(arrays, metadata)


def snapshot(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Return copies of the variables of a model and of its optimizers.

    Metrics are left out: they start afresh with every epoch, and reading one under the strategy
    is a collective that all workers would have to join.
    """
    return {key: np.array(v.numpy()) for key, _, v in framework.named_variables(model)}


def restore(model: Any, variables: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Put saved values into a built model and its built optimizers.

    Values of the model alone leave the optimizers as they are.

    Raises
    ------
    Corrupt
        If the variables are not those of this model.
    """
    parts = {name.split("/")[0] for name in variables}
    for key, name, variable in framework.named_variables(model):
        if key.split("/")[0] not in parts:
            continue
        if key not in variables or tuple(variables[key].shape) != tuple(variable.shape):
            raise Corrupt(f"the saved state does not fit the model: {key} ({name})")
        variable.assign(variables[key])


def is_complete(model: Any) -> bool:
    """Tell whether all optimizers are built, so that all of the state can be seen."""
    return framework.of_model(model).is_complete(model)


def callback_state(callbacks: Iterable[Any]) -> bytes:
    """Return what callbacks remember (patience, best weights, ...), pickled.

    What does not pickle (an open file) is the callback's own to make again.
    """
    states = []
    for callback in callbacks:
        state = {}
        for name, value in vars(callback).items():
            if name not in _NOT_STATE:
                try:
                    state[name] = cloudpickle.dumps(value)
                except Exception:  # any object's own pickling can fail in any way
                    continue
        states.append(state)
    return bytes(cloudpickle.dumps(states))


def restore_callbacks(callbacks: Iterable[Any], state: bytes) -> None:
    """Give callbacks back what they remembered."""
    if not state:
        return
    for callback, attributes in zip(callbacks, cloudpickle.loads(state), strict=True):
        for name, value in attributes.items():
            setattr(callback, name, cloudpickle.loads(value))
