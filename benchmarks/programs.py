"""The model and the data that nbtrain and the hand-written script both train."""

from __future__ import annotations

import os

import keras
import numpy as np

from . import SMALL

BATCH = 64
STEPS = 10 if SMALL in os.environ else 60
EPOCHS = 2 if SMALL in os.environ else 4
SEED = 5


def model() -> keras.Model:
    """Return a compiled convolutional net of 0.2 million weights."""
    network = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return network


def dataset() -> tuple[np.ndarray, np.ndarray]:
    """Return made-up pictures; the same ones for everybody."""
    random = np.random.default_rng(SEED)
    x = random.random((BATCH * STEPS, 28, 28, 1), dtype="float32")
    return x, random.integers(0, 10, BATCH * STEPS)
