"""Forms that draw at random in every step: the workers draw apart and stay alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from .cases import basic, case, gan_model, xy


def apart(variables: dict[str, Any], history: dict[str, list[float]]) -> bool:
    """Tell whether each kind of draw was another one on each worker, and its generator went on.

    A logged value is the mean over the workers: the mean of squares is larger than the square of
    the mean only where they differ.
    """
    spread = [
        square - value**2
        for name in ("keras", "tensorflow", "dropout")
        for value, square in zip(history[name], history[f"{name}_squared"], strict=True)
    ]
    generators = [v for v in variables.values() if v.shape == (2,) and v.dtype.kind in "iu"]
    return min(spread) > 1e-5 and len(generators) == 2 and all(v[1] > 0 for v in generators)


@case("train_step that draws: Dropout, keras.random, tf.random", "training steps", batch=16,
      random=True, warns="random-step", holds=apart)  # fmt: skip
def step_draws() -> dict[str, Any]:
    def model() -> Any:
        import keras
        import tensorflow as tf

        class Draws(keras.Model):
            def __init__(self) -> None:
                super().__init__()
                self.out = keras.layers.Dense(3)
                self.dropout = keras.layers.Dropout(0.5)
                self.seeds = keras.random.SeedGenerator(7)

            def call(self, x: Any, training: bool = False) -> Any:
                return self.out(self.dropout(x, training=training))

            def train_step(self, data: Any) -> Any:
                x, y = data
                positions = tf.linspace(0.0, 1.0, 64)[None]
                drawn = {
                    "keras": keras.random.uniform((), seed=self.seeds),
                    "tensorflow": tf.random.uniform(()),
                    "dropout": tf.reduce_mean(self.dropout(positions, training=True)),
                }
                with tf.GradientTape() as tape:
                    p = self(x + 0.1 * drawn["keras"] + 0.1 * drawn["tensorflow"], training=True)
                    loss = self.compute_loss(y=y, y_pred=p)
                grads = tape.gradient(loss, self.trainable_variables)
                self.optimizer.apply_gradients(zip(grads, self.trainable_variables, strict=True))
                squares = {f"{name}_squared": value**2 for name, value in drawn.items()}
                return {"loss": loss, **drawn, **squares}

        m = Draws()
        m.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return m

    return basic(model=model, dataset=lambda: xy(53), validation=None)


def apart_unseeded(variables: dict[str, Any], history: dict[str, list[float]]) -> bool:
    """Tell the same of draws without a seed and by a `tf.random.Generator`, whose states go on."""
    names = ("keras", "generator", "dropout")
    spread = [
        square - value**2
        for name in names
        for value, square in zip(history[name], history[f"{name}_squared"], strict=True)
    ]
    moved = len({*history["generator"], *history["keras"]}) == 4
    return min(spread) > 1e-5 and moved and "seed/0" in variables and "own/draws" in variables


@case("train_step that draws without a seed, and by a tf.random.Generator", "training steps",
      batch=16, random=True, warns="random-step", holds=apart_unseeded)  # fmt: skip
def step_draws_without_seed() -> dict[str, Any]:
    def model() -> Any:
        import keras
        import tensorflow as tf

        class Draws(keras.Sequential):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args)
                self.generator = tf.random.Generator.from_seed(7)
                self.draws = tf.Variable(0)

            def train_step(self, data: Any) -> Any:
                x, y = data
                self.draws.assign_add(1)
                drawn = {
                    "keras": tf.cond(self.draws > 0, lambda: keras.random.uniform(()), lambda: 0.0),
                    "generator": self.generator.uniform(()),
                    "dropout": tf.reduce_mean(keras.random.dropout(tf.ones((64,)), 0.5)),
                }
                with tf.GradientTape() as tape:
                    p = self(x + 0.1 * drawn["keras"] + 0.1 * drawn["generator"], training=True)
                    loss = self.compute_loss(y=y, y_pred=p)
                grads = tape.gradient(loss, self.trainable_variables)
                self.optimizer.apply_gradients(zip(grads, self.trainable_variables, strict=True))
                squares = {f"{name}_squared": value**2 for name, value in drawn.items()}
                return {"loss": loss, **drawn, **squares}

        m = Draws([keras.Input((6,)), keras.layers.Dense(3)])
        m.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return m

    return basic(model=model, dataset=lambda: xy(53), validation=None)


def goes_on(variables: dict[str, Any], history: dict[str, list[float]]) -> bool:
    return bool(np.isfinite([history["g"], history["d"]]).all())


@case("a GAN whose train_step draws its noise", "training steps", batch=16, random=True,
      warns="random-step", full=True, holds=goes_on)  # fmt: skip
def gan_draws() -> dict[str, Any]:
    return {"model": lambda: gan_model(draws=True), "dataset": lambda: xy()[0], "validation": None}


@case("a layer of one's own that draws (a variational autoencoder with add_loss)", "layers",
      batch=16, random=True, warns="random-layer", full=True)  # fmt: skip
def vae() -> dict[str, Any]:
    def model() -> Any:
        import keras

        class Sampling(keras.layers.Layer):
            def __init__(self) -> None:
                super().__init__()
                self.seed = keras.random.SeedGenerator(1)

            def call(self, inputs: Any) -> Any:
                mean, spread = inputs
                kl = keras.ops.sum(keras.ops.square(mean) + keras.ops.square(spread), axis=-1)
                self.add_loss(keras.ops.mean(kl))
                return mean + spread * keras.random.normal(keras.ops.shape(mean), seed=self.seed)

        inputs = keras.Input((6,))
        mean, spread = keras.layers.Dense(2)(inputs), keras.layers.Dense(2)(inputs)
        outputs = keras.layers.Dense(6)(Sampling()((mean, spread)))
        m = keras.Model(inputs, outputs)
        m.compile("adam", "mse")
        return m

    return {"model": model, "dataset": lambda: (xy(49)[0], xy(49)[0]), "validation": None}
