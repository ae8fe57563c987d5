"""Layers of our own."""

from __future__ import annotations

from typing import Any

import keras


class Residual(keras.layers.Layer):
    """Two dense layers whose output is added to their input."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.inner = keras.layers.Dense(units, activation="gelu")
        self.outer = keras.layers.Dense(units)

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Make the weights of both layers."""
        self.inner.build(shape)
        self.outer.build((*shape[:-1], self.units))

    def call(self, inputs: Any) -> Any:
        """Return the inputs with what the layers make of them added."""
        return inputs + self.outer(self.inner(inputs))
