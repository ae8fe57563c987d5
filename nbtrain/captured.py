"""What the functions capture: how big it is, what of it can't travel, and where it is used."""

from __future__ import annotations

import ast
import builtins
import contextlib
import dis
import functools
import inspect
import itertools
import linecache
import sys
import textwrap
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: What is around a function, and not one itself.
WRAPPERS = (functools.partial, types.MethodType, staticmethod, classmethod)


@dataclass(frozen=True)
class Captured:
    """A variable that a role's function uses, itself or through other functions.

    `function` is the role, `bytes` the size (of big containers an estimate), `what` its kind.
    """

    function: str
    variable: str
    bytes: int
    what: str


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
            if op.opname in ("LOAD_CONST", "LOAD_SMALL_INT") and isinstance(op.argval, int):
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


def closure_lines(code: types.CodeType) -> dict[str, int]:
    """Return the closure variables that code reads, with the line of the first use."""
    found: dict[str, int] = {}
    for inner in code_objects(code):
        for op, line in _instructions(inner):
            if op.opname in ("LOAD_DEREF", "LOAD_CLASSDEREF"):
                found.setdefault(op.argval, line)
    return found


def parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a wrapper around a function holds: partial, bound method, static method."""
    if isinstance(value, functools.partial):
        yield "", value.func
        yield from ((f"argument {i}", a) for i, a in enumerate(value.args))
        yield from value.keywords.items()
    elif isinstance(value, types.MethodType):
        yield "self", value.__self__
        yield "", value.__func__
    elif isinstance(value, (staticmethod, classmethod)):
        yield "", value.__func__


def is_method(function: types.FunctionType) -> bool:
    """Tell whether a function is defined in the body of a class."""
    outer = function.__qualname__.rpartition(".")[0]
    return bool(outer) and not outer.endswith("<locals>")


def source_of(value: Any) -> str:
    """Return the source of a role's function or of its class, dedented; "" if unknown."""
    while isinstance(value, functools.partial):
        value = value.func
    value = getattr(value, "_python_function", value)  # tf.function
    if not isinstance(value, (types.FunctionType, types.MethodType, type)):
        if not callable(value):
            return ""
        value = type(value)
    try:
        return textwrap.dedent(inspect.getsource(value))
    except (OSError, TypeError):  # a class of a cell is looked for in the file of __main__
        return _source_of_class(value) if isinstance(value, type) else ""


def _source_of_class(cls: type) -> str:
    """Return the source of a class of the notebook, found by that of its methods."""
    for method in vars(cls).values():
        function = getattr(method, "__func__", method)
        if isinstance(function, types.FunctionType):
            lines = linecache.getlines(function.__code__.co_filename)
            with contextlib.suppress(SyntaxError):
                for node in ast.walk(ast.parse("".join(lines))):
                    if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
                        return "".join(lines[node.lineno - 1 : node.end_lineno])
    return ""


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
        elif isinstance(item, WRAPPERS):
            waiting += parts(item)
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
