"""Sees to it that all workers have the same data, of which each trains on its part.

Where it differs (a permutation that no seed decides, a part taken by hand) some examples would be
seen twice and others never. Arrays are compared before training; of batches that come one by one
the first of each epoch is, and their number where it was not known.
"""

from __future__ import annotations

import hashlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .data import Data
from .errors import Refused
from .replicas import gathered
from .watch import Watch

#: Rows of each array that are compared between workers.
_COMPARED = 64


def check_before(data: Data | None, role: str, strategy: tf.distribute.Strategy) -> None:
    """See that a role's data is the same on all workers, as far as that shows; a collective.

    Numbers of batches and examples are compared, and some rows of arrays.

    Raises
    ------
    Refused
        If it differs: nbtrain shares the data out itself.
    """
    if data is None or strategy.num_replicas_in_sync < 2:
        return
    own = [-1 if n is None else n for n in (data.steps, data.examples)]
    rows = gathered(np.array([*own, _fingerprint(data)], "float64"), strategy)
    for worker, row in enumerate(rows):
        if (row != rows[0]).any():
            raise _other(role, worker, _compared(row, rows[0]))


def _compared(row: Any, first: Any) -> str:
    for count, other, what in zip(row, first, ("batches", "examples"), strict=False):
        if count != other:
            return f" ({count:g} {what}, not {other:g})"
    return ""


def _fingerprint(data: Data) -> float:
    """Return a number made of some rows of arrays; 0 for other data."""
    digest = hashlib.blake2b(digest_size=6)
    if data.examples:
        chosen = np.linspace(0, data.examples - 1, _COMPARED).astype(int)
        for array in keras.tree.flatten([data.arguments.get(n) for n in ("x", "y")]):
            if isinstance(array, np.ndarray):
                rows = array[chosen]
                text = repr(rows.tolist()).encode()  # of objects bytes would be addresses
                digest.update(text if rows.dtype.hasobject else rows.tobytes())
    return float(int.from_bytes(digest.digest(), "big"))  # 48 bits are exact


def _other(role: str, worker: int, how: str) -> Refused:
    return Refused(
        f"{role}()",
        f"it gave worker {worker} other data than worker 0{how}.",
        "Return the same data on all workers, from fixed seeds: nbtrain shares it out among them.",
    )


def check_first(watch: Watch | None, role: str, strategy: tf.distribute.Strategy) -> None:
    """Compare the first batch of an epoch, when it has been read; a collective.

    Raises
    ------
    Refused
        If it differs between workers.
    """
    if watch is not None:
        _compare(watch.first, role, " (in its first batch)", strategy)


def check_count(watch: Watch | None, role: str, strategy: tf.distribute.Strategy) -> None:
    """Compare the number of batches at the end of the first epoch, where it was not known before.

    Raises
    ------
    Refused
        If it differs between workers. TensorFlow goes on with nothing for those that have less.
    """
    if watch is not None and watch.counts:
        watch.counts = False
        _compare(watch.count, role, " (another number of batches)", strategy)


def _compare(variable: Any, role: str, how: str, strategy: tf.distribute.Strategy) -> None:
    rows = gathered(np.array([variable.numpy()], "float64"), strategy)
    for worker, row in enumerate(rows):
        if row != rows[0]:
            raise _other(role, worker, how)
