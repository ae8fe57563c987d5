"""How datasets are shared out and run."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from nbtrain.runtime import shard


def tuned(enabled: bool) -> tf.data.Dataset:
    """Return a dataset whose user has decided about autotuning."""
    options = tf.data.Options()
    options.autotune.enabled = enabled
    return tf.data.Dataset.range(8).with_options(options)


@pytest.mark.parametrize("source", [np.zeros(8), tf.data.Dataset.range(8)])
def test_nobody_waits_for_autotuning_between_epochs(source):
    options = tf.data.Dataset.range(8).with_options(shard.options(source)).options()
    assert options.autotune.enabled is False


@pytest.mark.parametrize("enabled", [True, False])
def test_who_asks_for_autotuning_gets_it(enabled):
    source = tuned(enabled)
    assert source.with_options(shard.options(source)).options().autotune.enabled is enabled
