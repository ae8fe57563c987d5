"""Pickles the functions of a notebook, and refuses what can't travel."""

from __future__ import annotations

import copyreg
import functools
import io
import operator
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

import cloudpickle

from . import unsendable

#: Buffers smaller than this are pickled in band: a section for each would cost more.
SMALL = 1 << 14


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles `__main__` by value, notes what goes with it and refuses what can't travel."""

    def __init__(self, file: Any, buffers: Callable[[pickle.PickleBuffer], Any]) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffers)
        self.functions: list[types.FunctionType] = []  # those that travel by value
        self.modules: set[str] = set()  # those that something refers to by name
        self._kinds: dict[type, unsendable.Kind | None] = {}
        self._last: Any = None

    def dump(self, obj: Any) -> None:
        """Pickle an object; an error gets the attribute `thing`, what it is about."""
        try:
            super().dump(obj)
        except Exception as error:
            if not isinstance(error.__cause__, RecursionError):
                error.__dict__.setdefault("thing", self._last)
            raise

    def reducer_override(self, obj: Any) -> Any:
        """Return how an object that is not of a basic type is pickled."""
        self._last = obj
        kind = self._kinds.get(type(obj), self)
        if kind is self:
            kind = self._kinds[type(obj)] = unsendable.kind_of_type(type(obj))
        kind = kind or unsendable.kind_of_object(obj)
        if kind is not None:
            raise unsendable.Unsendable(kind, obj)
        reduced = _reduce(obj)
        if reduced is None:
            reduced = super().reducer_override(obj)
            self._note(obj, reduced)
        return reduced

    def _note(self, obj: Any, reduced: Any) -> None:
        if isinstance(obj, types.FunctionType) and reduced is not NotImplemented:
            self.functions.append(obj)
        name = obj.__name__ if isinstance(obj, types.ModuleType) else None
        if name is None and isinstance(obj, (type, types.FunctionType)):
            name = obj.__module__
        if isinstance(name, str):
            self.modules.add(name)


def _reduce(obj: Any) -> Any:
    """Return how to pickle what cloudpickle would copy or change; None for all else."""
    if isinstance(obj, memoryview):
        return _reduce_view(obj)
    if type(obj) in _FROM_FUNCTIONS:
        return _FROM_FUNCTIONS[type(obj)](obj)
    if obj is sys.stdout or obj is sys.stderr:
        return getattr, (sys, "stdout" if obj is sys.stdout else "stderr")
    if "keras" in sys.modules and unsendable.is_loss(obj):
        # Keras' own way, an archive with its config, does not find classes of the notebook.
        return copyreg.__newobj__, (type(obj),), vars(obj)  # type: ignore[attr-defined]
    numpy = sys.modules.get("numpy")
    if numpy is None or type(obj) is not numpy.ndarray or obj.dtype.hasobject:
        return None
    if obj.flags.c_contiguous or obj.flags.f_contiguous:
        return None
    copy = numpy.ascontiguousarray(obj)
    copy.flags.writeable = obj.flags.writeable
    return copy.__reduce_ex__(5)


def _reduce_cached(obj: Any) -> Any:
    """Pickle what `functools.cache` makes with its function; by itself it tells its name alone."""
    module = sys.modules.get(obj.__module__)
    if obj.__module__ != "__main__" and getattr(module, obj.__qualname__, None) is obj:
        return None  # of a module, which the worker imports
    limits = obj.cache_parameters()
    arguments = (obj.__wrapped__, limits["maxsize"], limits["typed"], functools._CacheInfo)
    return type(obj), arguments, vars(obj)


def _reduce_cached_property(obj: Any) -> Any:
    """Leave out the lock that Python 3.11 keeps in a `cached_property`."""
    return type(obj), (obj.func,), {"attrname": obj.attrname}


_FROM_FUNCTIONS: dict[type, Callable[[Any], Any]] = {
    functools._lru_cache_wrapper: _reduce_cached,
    functools.cached_property: _reduce_cached_property,
}


def _reduce_view(view: memoryview) -> Any:
    if view.format == "B" and view.ndim == 1 and view.c_contiguous:
        return memoryview, (pickle.PickleBuffer(view),)
    flat = memoryview(view.tobytes()) if not view.c_contiguous else view.cast("B")
    cast = operator.methodcaller("cast", view.format, view.shape)
    return cast, (flat,)


def trial(obj: Any) -> Exception | None:
    """Return the error that pickling an object ends with."""
    try:
        Pickler(_Nowhere(), lambda _: None).dump(obj)
    except Exception as error:
        return error
    return None


class _Nowhere(io.RawIOBase):
    """Takes all that is written and keeps nothing."""

    def write(self, data: Any) -> int:
        return len(data)
