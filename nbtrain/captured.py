"""What the functions capture: how big it is, what of it can't travel, and where it is used."""

from __future__ import annotations

import builtins
import difflib
import dis
import functools
import inspect
import io
import itertools
import linecache
import operator
import pickle
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cloudpickle

from . import unsendable
from .errors import CannotTravel

#: Buffers smaller than this are pickled in band: a section for each would cost more.
SMALL = 1 << 14


@dataclass(frozen=True)
class Captured:
    """A variable that a role's function uses, itself or through other functions.

    `function` is the role, `bytes` the size (of big containers an estimate), `what` its kind.
    """

    function: str
    variable: str
    bytes: int
    what: str


class Pickler(cloudpickle.Pickler):
    """Pickles `__main__` by value, notes what goes with it and refuses what can't travel."""

    def __init__(self, file: Any, buffers: Callable[[pickle.PickleBuffer], Any]) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffers)
        self.functions: list[types.FunctionType] = []  # those that travel by value
        self.modules: set[str] = set()  # those that something refers to by name
        self._kinds: dict[type, unsendable.Kind | None] = {}

    def reducer_override(self, obj: Any) -> Any:
        """Return how an object that is not of a basic type is pickled."""
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
    if obj is sys.stdout or obj is sys.stderr:
        return getattr, (sys, "stdout" if obj is sys.stdout else "stderr")
    numpy = sys.modules.get("numpy")
    if numpy is not None and type(obj) is numpy.ndarray:
        if not (obj.flags.c_contiguous or obj.flags.f_contiguous) and not obj.dtype.hasobject:
            copy = numpy.ascontiguousarray(obj)
            copy.flags.writeable = obj.flags.writeable
            return copy.__reduce_ex__(5)
    return None


def _reduce_view(view: memoryview) -> Any:
    if view.format == "B" and view.ndim == 1 and view.c_contiguous:
        return memoryview, (pickle.PickleBuffer(view),)
    flat = memoryview(view.tobytes()) if not view.c_contiguous else view.cast("B")
    cast = operator.methodcaller("cast", view.format, view.shape)
    return cast, (flat,)


def trial(obj: Any) -> Exception | None:
    """Return the error that pickling an object ends with."""
    try:
        Pickler(_Nowhere(), lambda buffer: None).dump(obj)
    except Exception as error:
        return error
    return None


class _Nowhere(io.RawIOBase):
    """Takes all that is written and keeps nothing."""

    def write(self, data: Any) -> int:
        return len(data)


# -- what a function uses ---------------------------------------------------------------------


def code_objects(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield a code object and those of the functions, classes and comprehensions inside it."""
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from code_objects(const)


@functools.lru_cache(maxsize=4096)
def global_names(code: types.CodeType) -> dict[str, int]:
    """Return the global names that code reads, with the line of the first use."""
    found: dict[str, int] = {}
    for inner in code_objects(code):
        own = set()  # names that a class body binds itself
        for op, line in _instructions(inner):
            if op.opname in ("STORE_NAME", "DELETE_NAME"):
                own.add(op.argval)
            elif op.opname == "LOAD_GLOBAL" or (
                op.opname in ("LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
                and op.argval not in own
                and op.argval not in ("__name__", "__qualname__", "__module__")
            ):
                found.setdefault(op.argval, line)
    return found


def _instructions(code: types.CodeType) -> Iterator[tuple[dis.Instruction, int]]:
    line = code.co_firstlineno
    for op in dis.get_instructions(code):
        positions = op.positions
        if positions is not None and positions.lineno is not None:
            line = positions.lineno
        yield op, line


def imported_names(code: types.CodeType) -> set[str]:
    """Return the modules that code imports when it runs, relative imports left out."""
    found: set[str] = set()
    for inner in code_objects(code):
        level = 0
        for op in dis.get_instructions(inner):
            if op.opname == "LOAD_CONST" and isinstance(op.argval, int):
                level = op.argval
            elif op.opname == "LOAD_SMALL_INT":
                level = op.argval
            elif op.opname == "IMPORT_NAME" and level == 0:
                found.add(op.argval)
                level = 0
    return found


def variables(function: types.FunctionType) -> dict[str, Any]:
    """Return the variables that a function takes from outside: globals, closure, defaults."""
    found = {
        name: function.__globals__[name]
        for name in global_names(function.__code__)
        if name in function.__globals__
    }
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not bound yet
            continue
    defaults = function.__defaults__ or ()
    count = function.__code__.co_argcount
    names = function.__code__.co_varnames[count - len(defaults) : count]
    found |= zip(names, defaults, strict=True)
    return found | (function.__kwdefaults__ or {})


def undefined(functions: list[types.FunctionType]) -> Iterator[tuple[types.FunctionType, str, int]]:
    """Yield the names that functions of the notebook use and that nothing defines."""
    bound = {
        op.argval
        for function in functions
        for code in code_objects(function.__code__)
        for op in dis.get_instructions(code)
        if op.opname == "STORE_GLOBAL"
    }
    for function in functions:
        if function.__globals__.get("__name__") != "__main__":
            continue
        names = global_names(function.__code__)
        if "NameError" in names:  # it knows what it does
            continue
        for name, line in names.items():
            if name not in function.__globals__ and name not in bound and not _is_builtin(name):
                yield function, name, line


def _is_builtin(name: str) -> bool:
    return hasattr(builtins, name) and name != "get_ipython"


def undefined_error(function: types.FunctionType, name: str, line: int) -> CannotTravel:
    """Return the error for a name that would end the run with a NameError."""
    known = [*function.__globals__, *dir(builtins)]
    near = difflib.get_close_matches(name, [k for k in known if not k.startswith("_")], 1, 0.6)
    fix = f"Did you mean `{near[0]}`?" if near else "Define or import it in a cell, and run that."
    return CannotTravel(
        f"`{function.__qualname__}` uses `{name}`, which is not defined."
        + shown_line(function.__code__, line),
        fix,
    )


def is_method(function: types.FunctionType) -> bool:
    """Tell whether a function is defined in the body of a class."""
    outer = function.__qualname__.rpartition(".")[0]
    return bool(outer) and not outer.endswith("<locals>")


def shown_line(code: types.CodeType, line: int) -> str:
    """Return a line of source as an error shows it; empty where it is not known."""
    text = linecache.getline(code.co_filename, line).strip()
    return f"\n    line {line}: {text}" if text else ""


def source_of(value: Any) -> str:
    """Return the source of a role's function or of its class, dedented; "" if unknown."""
    while isinstance(value, functools.partial):
        value = value.func
    value = getattr(value, "_python_function", value)  # tf.function
    if not isinstance(value, (types.FunctionType, types.MethodType, type)):
        value = type(value) if callable(value) else None
    try:
        return inspect.cleandoc("\n" + inspect.getsource(value)) + "\n" if value else ""
    except (OSError, TypeError):
        return ""


# -- what can't travel --------------------------------------------------------------------------


def explain(functions: Mapping[str, Any], error: Exception) -> CannotTravel:
    """Return the error for the user when pickling the functions failed: who, what, where."""
    for role, value in functions.items():
        failed = trial(value)
        if failed is not None:
            path, culprit, failed = _culprit(value, failed)
            return _cannot_travel(role, value, path, culprit, failed)
    return CannotTravel(f"The functions can't be sent to the workers: {error}")


def _culprit(value: Any, failed: Exception) -> tuple[list[tuple[str, Any]], Any, Exception]:
    """Return the innermost object that does not pickle, and the way to it."""
    path: list[tuple[str, Any]] = []
    seen = {id(value)}
    while not _is_told(value, failed):
        for name, child in _children(value):
            if id(child) in seen or _is_plain(child):
                continue
            seen.add(id(child))
            error = trial(child)
            if error is not None:
                path.append((name, value))
                value, failed = child, error
                break
        else:
            break
    return path, value, failed


def _is_told(value: Any, failed: Exception) -> bool:
    """Tell whether the error is about the object itself, not about something inside it."""
    return isinstance(failed, unsendable.Unsendable) and failed.thing is value


def _is_plain(value: Any) -> bool:
    """Tell whether an object needs no trial, which may be expensive."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and type(value) is numpy.ndarray:
        return not value.dtype.hasobject
    return value is None or isinstance(value, (str, bytes, bytearray, int, float, complex))


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what an object refers to, under the names that a user knows it by."""
    if isinstance(value, functools.partial):
        yield "", value.func
        yield from ((f"argument {i}", a) for i, a in enumerate(value.args))
        yield from value.keywords.items()
    elif isinstance(value, types.FunctionType):
        yield from variables(value).items()
        yield from vars(value).items()
    elif isinstance(value, types.MethodType):
        yield "self", value.__self__
        yield "", value.__func__
    elif isinstance(value, (staticmethod, classmethod)):
        yield "", value.__func__
    elif isinstance(value, property):
        yield from ((n, f) for n in ("fget", "fset") if (f := getattr(value, n)) is not None)
    elif isinstance(value, Mapping):
        yield from ((f"[{key!r}]", item) for key, item in list(value.items()))
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"[{i}]", item) for i, item in enumerate(value))
    else:
        yield from _attributes(value)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, types.ModuleType):
        return
    hidden = ("__dict__", "__weakref__", "__module__", "__doc__")
    yield from ((n, v) for n, v in list(getattr(value, "__dict__", {}).items()) if n not in hidden)
    if isinstance(value, type):
        yield from (("", base) for base in value.__bases__ if base is not object)
        return
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name) and name not in hidden:
                yield name, getattr(value, name)
    yield "", type(value)


def _cannot_travel(
    role: str, value: Any, path: list[tuple[str, Any]], culprit: Any, failed: Exception
) -> CannotTravel:
    known = isinstance(failed, unsendable.Unsendable)
    kind = failed.kind if known else unsendable.unknown(culprit)  # type: ignore[attr-defined]
    way = _way(role, [name for name, _ in path])
    user, name, line = _last_use(path)
    cannot = f"{kind.what} can't be sent to the workers"
    if len(way) == 1:
        message = f"`{way[0]}` is {kind.what}, and {cannot}."
    elif len(way) == 2:
        message = f"`{role}` uses `{way[-1]}`, and {cannot}."
    else:
        message = f"`{role}` uses `{way[-1]}` ({' → '.join(way)}), and {cannot}."
    if user is not None and line:
        message += shown_line(user.__code__, line)
    if not known:
        message += f"\n    {type(failed).__name__}: {failed}"
    if not path:
        return CannotTravel(message, f"Write a function that makes it: `def {role}(): …`.")
    return CannotTravel(message, kind.fix.format(name=name or role, function=role))


def _way(role: str, names: list[str]) -> list[str]:
    way = [role]
    for name in names:
        if name.startswith("["):
            way[-1] += name
        elif name:
            way.append(name)
    return way


def _last_use(path: list[tuple[str, Any]]) -> tuple[types.FunctionType | None, str, int]:
    """Return the innermost function on the way, the variable that it uses and the line."""
    for name, owner in reversed(path):
        if isinstance(owner, types.FunctionType) and name:
            lines = global_names(owner.__code__) | _closure_lines(owner.__code__)
            return owner, name, lines.get(name, 0)
    return None, next((name for name, _ in reversed(path) if name), ""), 0


def _closure_lines(code: types.CodeType) -> dict[str, int]:
    found: dict[str, int] = {}
    for inner in code_objects(code):
        for op, line in _instructions(inner):
            if op.opname in ("LOAD_DEREF", "LOAD_CLASSDEREF"):
                found.setdefault(op.argval, line)
    return found


# -- sizes --------------------------------------------------------------------------------------


def captured(role: str, value: Any) -> Iterator[Captured]:
    """Yield the variables that a role's function captures, directly or through others."""
    waiting: list[tuple[str, Any]] = [(role, getattr(value, "_python_function", value))]
    seen: set[int] = set()
    while waiting:
        name, item = waiting.pop()
        if id(item) in seen or isinstance(item, types.ModuleType):
            continue
        seen.add(id(item))
        if isinstance(item, types.FunctionType):
            if item.__globals__.get("__name__") == "__main__" or item.__closure__:
                waiting += variables(item).items()
        elif isinstance(item, type):
            if item.__module__ == "__main__":
                waiting += [(n, v) for n, v in vars(item).items() if _is_code(v)]
        elif isinstance(item, (functools.partial, types.MethodType, staticmethod, classmethod)):
            waiting += _children(item)
        elif not isinstance(item, (types.BuiltinFunctionType, property)):
            yield Captured(role, name, size(item), description(item))
            if type(item).__module__ == "__main__":
                waiting.append(("", type(item)))


def _is_code(value: Any) -> bool:
    return isinstance(value, (types.FunctionType, staticmethod, classmethod))


def size(value: Any) -> int:
    """Return the bytes that a value takes; of big containers an estimate."""
    return _size(value, set(), [20_000])


def _size(value: Any, seen: set[int], budget: list[int]) -> int:
    budget[0] -= 1
    if id(value) in seen or budget[0] < 0:
        return 0
    seen.add(id(value))
    if (known := _known_size(value)) is not None:
        return known
    total = sys.getsizeof(value, 64)
    if isinstance(value, (types.ModuleType, type, types.FunctionType, str, bytes, int, float)):
        return total
    if isinstance(value, Mapping):
        return total + _sample([x for pair in list(value.items()) for x in pair], seen, budget)
    if isinstance(value, (list, tuple, set, frozenset)):
        return total + _sample(value, seen, budget)
    return (
        total + sum(_size(v, seen, budget) for v in vars(value).values())
        if (hasattr(value, "__dict__"))
        else total
    )


def _sample(values: Any, seen: set[int], budget: list[int]) -> int:
    """Return the size of all values, taking the first thousand for the rest."""
    first = list(itertools.islice(values, 1000))
    found = sum(_size(v, seen, budget) for v in first)
    return found * len(values) // len(first) if first else 0


def _known_size(value: Any) -> int | None:
    """Return the size that an array or a table tells of itself."""
    if isinstance(value, type):
        return None
    try:
        if hasattr(value, "memory_usage"):  # pandas
            used = value.memory_usage(deep=True)
            return int(used.sum() if hasattr(used, "sum") else used)
        if isinstance(getattr(value, "nbytes", None), int):
            objects = getattr(getattr(value, "dtype", None), "hasobject", False)
            return int(value.nbytes) + (_size_of_objects(value) if objects else 0)
    except Exception:  # any class may have such attributes, and mean something else
        return None
    return None


def _size_of_objects(array: Any) -> int:
    first = array.ravel()[:1000].tolist()
    return sum(map(sys.getsizeof, first)) * int(array.size) // max(1, len(first))


def description(value: Any) -> str:
    """Return the kind of a value for reading: `ndarray (60000, 28, 28) uint8`."""
    name = type(value).__name__
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple):
        return f"{name} {shape}" + (f" {dtype}" if dtype is not None else "")
    if isinstance(value, (list, tuple, dict, set, frozenset)):
        return f"{name} of {len(value):,}"
    return name


def human(count: int) -> str:
    """Return a number of bytes for reading: `1.2 GB`."""
    amount = float(count)
    for unit in ("bytes", "kB", "MB"):
        if amount < 1000:
            return f"{amount:,.0f} {unit}" if unit != "MB" else f"{amount:.3g} MB"
        amount /= 1000
    return f"{amount:.3g} GB"
