"""Digests of the functions of tf_keras that nbtrain replaces or relies on.

Made by `python -m nbtrain.runtime.tf_keras_sources`, for when a new release was tested.
"""

from __future__ import annotations

SOURCES: dict[str, tuple[str, ...]] = {}
