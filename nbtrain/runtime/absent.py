"""Stands in for nbtrain in the workers, which have only its runtime.

A module of the user's own may well import nbtrain, to start the very run it is used in. In a
worker that import gives a module whose names exist and whose functions refuse to be called.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

NAME = "nbtrain"


class _Absent(Exception):
    """A function or class of nbtrain; an exception, so that `except nbtrain.X` works as well."""

    def __new__(cls, *_: object, **__: object) -> _Absent:
        raise RuntimeError(f"{cls.__qualname__} can't be used in a worker: nbtrain is not there")


def _is_installed() -> bool:
    """Tell nbtrain from a mere folder of its name, which Python takes for a namespace package."""
    found = importlib.machinery.PathFinder.find_spec(NAME)
    return found is not None and found.origin is not None


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds nbtrain and its modules where nbtrain is not installed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if fullname.partition(".")[0] != NAME or _is_installed():
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        def find(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (_Absent,), {"__qualname__": f"{module.__name__}.{name}"})

        module.__getattr__ = find  # type: ignore[method-assign]


def install() -> None:
    """Make `import nbtrain` work where it is not installed."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
