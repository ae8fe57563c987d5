"""Turns what went wrong in pickling into errors that name function, variable, line and fix."""

from __future__ import annotations

import builtins
import difflib
import linecache
import sys
import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from . import unsendable
from .captured import WRAPPERS, closure_lines, global_names, parts, variables
from .errors import CannotTravel
from .pickler import trial

#: The names on the way to an object, each with the object that it is a name in.
Path = list[tuple[str, Any]]
#: So many objects are searched for the one that can't travel.
MAX_SEARCHED = 100_000


def undefined(function: types.FunctionType, name: str, line: int) -> CannotTravel:
    """Return the error for a name that would end the run with a NameError."""
    known = [*function.__globals__, *dir(builtins)]
    near = difflib.get_close_matches(name, [k for k in known if not k.startswith("_")], 1, 0.6)
    fix = f"Did you mean `{near[0]}`?" if near else "Define or import it in a cell, and run that."
    return CannotTravel(
        f"`{function.__qualname__}` uses `{name}`, which is not defined."
        + shown_line(function.__code__, line),
        fix,
    )


def cannot_travel(functions: Mapping[str, Any], error: Exception) -> CannotTravel:
    """Return the error for the user when pickling the functions failed: who, what, where."""
    for role, value in functions.items():
        failed = trial(value)
        if failed is not None:
            path, culprit, failed = _culprit(value, failed)
            return _error(role, path, culprit, failed)
    return CannotTravel(f"The functions can't be sent to the workers: {error}")


def _culprit(value: Any, failed: Exception) -> tuple[Path, Any, Exception]:
    """Return the innermost object that does not pickle, and the way to it."""
    thing = getattr(failed, "thing", None)
    path = None if thing is None else _shortest(value, thing)
    return (path, thing, failed) if path is not None else _by_trial(value, failed)


def _shortest(value: Any, thing: Any) -> Path | None:
    """Return the shortest way from a value to something that it refers to."""
    waiting: deque[tuple[Any, Path]] = deque([(value, [])])
    seen = {id(value)}
    while waiting and len(seen) < MAX_SEARCHED:
        here, path = waiting.popleft()
        if here is thing:
            return path
        for name, child in _children(here):
            if id(child) not in seen and not _is_plain(child):
                seen.add(id(child))
                waiting.append((child, [*path, (name, here)]))
    return None


def _by_trial(value: Any, failed: Exception) -> tuple[Path, Any, Exception]:
    """Find the way by pickling the parts of what does not pickle."""
    path: Path = []
    seen = {id(value)}
    while not (path and isinstance(failed.__cause__, RecursionError)):
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


def _is_plain(value: Any) -> bool:
    """Tell whether an object needs no trial, which may be expensive."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and type(value) is numpy.ndarray:
        return not value.dtype.hasobject
    return value is None or isinstance(value, (str, bytes, bytearray, int, float, complex))


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what an object refers to, under the names that a user knows it by."""
    if isinstance(value, types.FunctionType):
        yield from variables(value).items()
        yield from vars(value).items()
    elif isinstance(value, WRAPPERS):
        yield from parts(value)
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


def _error(role: str, path: Path, culprit: Any, failed: Exception) -> CannotTravel:
    known = isinstance(failed, unsendable.Unsendable)
    kind = failed.kind if known else _unknown(culprit, failed)  # type: ignore[attr-defined]
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
    if not known and kind is not unsendable.DEEP:
        message += f"\n    {type(failed).__name__}: {failed}"
    if not path:
        return CannotTravel(message, f"Write a function that makes it: `def {role}(): …`.")
    return CannotTravel(message, kind.fix.format(name=name or role, function=role))


def _unknown(culprit: Any, failed: Exception) -> unsendable.Kind:
    if isinstance(failed.__cause__, RecursionError):
        return unsendable.DEEP
    return unsendable.unknown(culprit)


def _way(role: str, names: list[str]) -> list[str]:
    way = [role]
    for name in names:
        if name.startswith("["):
            way[-1] += name
        elif name:
            way.append(name)
    return way


def _last_use(path: Path) -> tuple[types.FunctionType | None, str, int]:
    """Return the innermost function on the way, the variable that it uses and the line."""
    for name, owner in reversed(path):
        if isinstance(owner, types.FunctionType) and name:
            lines = global_names(owner.__code__) | closure_lines(owner.__code__)
            return owner, name, lines.get(name, 0)
    return None, next((name for name, _ in reversed(path) if name), ""), 0


def shown_line(code: types.CodeType, line: int) -> str:
    """Return a line of source as an error shows it; empty where it is not known."""
    text = linecache.getline(code.co_filename, line).strip()
    return f"\n    line {line}: {text}" if text else ""
