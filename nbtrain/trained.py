"""From a run's payload and weights to the trained Keras model, in this process.

The payload's own `model()` builds the model, so that custom classes need no registration, no
`get_config` and no safe mode; then the values are put in.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import NotReady
from .runtime.errors import Corrupt

if TYPE_CHECKING:
    import keras


def load(payload: Path, weights: Path, offered: Mapping[str, Any]) -> keras.Model:
    """Return the model that `payload` builds, with the values of `weights`.

    Parameters
    ----------
    offered
        What `model()` may take by name: workers, worker, batch.

    Raises
    ------
    NotReady
        If the model that is built here is not the one that was trained.
    """
    from .runtime import checkpoint, framework
    from .runtime.payload import Payload, call

    opened = Payload.open(payload)
    state = checkpoint.read(weights)
    with _keras_settings():
        opened.install(scratch(), visiting=True)
        opened.restore_keras()
        model = call(opened.load()["model"], offered)
    spec = json.loads((state.metadata or {}).get("build", "null"))
    framework.of_model(model).build(model, spec, state.variables.keys())
    try:
        checkpoint.restore(model, state.variables, state.metadata)
    except Corrupt as error:
        raise NotReady(
            f"the model that model() builds here is not the one that was trained: {error}",
            "Take run.files / 'model.keras', or load the weights by hand from"
            " run.files / 'weights.safetensors'.",
        ) from None
    return model


def scratch() -> Path:
    """Return a folder for the payload's modules; they may be imported as long as we live."""
    folder = tempfile.mkdtemp(prefix="nbtrain-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@contextlib.contextmanager
def _keras_settings() -> Iterator[None]:
    """Leave the global settings of this process' Keras and tf_keras as they were."""
    import keras

    from .runtime.payload import (
        dtype_policy,
        set_dtype_policy,
        set_tf_keras,
        tf_keras_settings,
    )

    of_tf_keras = tf_keras_settings()
    floatx, epsilon = keras.config.floatx(), keras.config.epsilon()
    image, policy = keras.config.image_data_format(), dtype_policy()
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_epsilon(epsilon)
        keras.config.set_image_data_format(image)
        set_dtype_policy(policy)
        set_tf_keras(of_tf_keras)
