"""Packs the functions of a cell, and all that they use, into the one file that travels.

Functions and classes of the notebook (`__main__`) are pickled by value; the user's own modules
travel as sources, big arrays out of band, Keras' global settings as a snapshot. What can't travel
is refused here, before anything is started.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import linecache
import os
import pickle
import queue
import sys
import tempfile
import threading
import types
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import captured as _captured
from . import explain
from .captured import Captured
from .errors import NbtrainError
from .pickler import SMALL, Pickler, trial
from .runtime import __version__
from .runtime import payload as _format
from .runtime.payload import KERASES, aligned, dtype_policy, tf_keras_settings
from .runtime.versions import versions as _runtime_versions
from .sources import chosen_files, is_own, is_own_path, own_modules
from .sources import runtime_zip as runtime_zip

#: A captured variable that is bigger than this gets a warning, in bytes.
BIG = 50_000_000
#: What is written and hashed at once, in bytes.
CHUNK = 4 << 20
#: Set by nbtrain, or true of this machine alone.
_OWN_ENVIRONMENT = {
    "TF_CONFIG",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "KERAS_HOME",
}
#: What tf_keras begins with.
_TF_KERAS_DEFAULTS = {
    "floatx": "float32",
    "epsilon": 1e-07,
    "image_data_format": "channels_last",
    "dtype_policy": None,
}

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Packed:
    """What was packed.

    Attributes
    ----------
    path, sha256, bytes
        The file.
    captured
        The variables that the functions use, the biggest first.
    warnings
        Sentences for the user.
    code
        Source of the function of each role; "" where it is not known.
    versions
        Of Python and of the packages that matter.
    """

    path: Path
    sha256: str
    bytes: int
    captured: list[Captured]
    warnings: list[str]
    code: dict[str, str]
    versions: dict[str, str]


def pack(
    functions: Mapping[str, Any],
    path: Path,
    *,
    files: Sequence[str] = (),
    cwd: Path | None = None,
    progress: Progress | None = None,
) -> Packed:
    """Write functions and all that they use to `path`.

    Parameters
    ----------
    functions
        By role; a role may also be a value, such as a pair of arrays.
    files
        Files and folders to send along, relative to `cwd`; patterns such as `*.csv` as well.
    cwd
        The notebook's folder; the current directory by default.
    progress
        Called with the bytes written so far and altogether.

    Raises
    ------
    CannotTravel
        If something that the functions use can't be sent.
    OptionError
        If one of `files` does not exist.
    """
    cwd = Path(os.path.abspath(cwd or Path.cwd()))
    chosen = chosen_files(files, cwd)
    pickled = _pickle(functions)
    sources, lines = own_modules(_imported(pickled)), _lines(pickled)
    sections = [
        _Section(_format.META, [_json({"lines": lines, "cells": _cells(lines)})]),
        _Section(_format.SOURCES, [sources.zipped()]),
        _Section(_format.FUNCTIONS, pickled.chunks),
        *(_Section(f"{_format.BUFFER}{i}", [b]) for i, b in enumerate(pickled.buffers)),
        *(_Section(_format.FILE + name, file) for name, file in chosen.items()),
    ]
    header = {"format": _format.FORMAT, "versions": versions(), "roles": list(functions)}
    header |= {"environment": _environment(), "keras": _keras_settings()}
    header["tf_keras"] = _tf_keras_settings()
    sha256, count = _write(Path(path), header, sections, progress)
    found = _all_captured(functions)
    return Packed(
        path=Path(path),
        sha256=sha256,
        bytes=count,
        captured=found,
        warnings=[*pickled.warnings, *sources.warnings, *_big(found)],
        code={role: _captured.source_of(value) for role, value in functions.items()},
        versions=dict(header["versions"]),  # type: ignore[call-overload]
    )


# -- pickling -----------------------------------------------------------------------------------


@dataclass
class _Pickled:
    """The pickle in pieces, its buffers, and what was met on the way."""

    chunks: list[bytes] = field(default_factory=list)
    buffers: list[memoryview] = field(default_factory=list)
    functions: list[Any] = field(default_factory=list)
    modules: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)

    def write(self, data: Any) -> int:
        # Big bytes objects come as they are and are not copied; anything else may change.
        self.chunks.append(data if type(data) is bytes else bytes(data))
        return len(data)

    def buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer out of band, unless it is small (then true: in band)."""
        raw = buffer.raw()
        if raw.nbytes < SMALL:
            return True
        self.buffers.append(raw)
        return False


def _pickle(functions: Mapping[str, Any]) -> _Pickled:
    pickled = _Pickled()
    custom = {name: list(_custom_objects(name, pickled.warnings)) for name in KERASES}
    pickler = Pickler(pickled, pickled.buffer)
    try:
        pickler.dump({"functions": dict(functions), "custom_objects": custom})
    except NbtrainError:
        raise
    except Exception as error:
        raise explain.cannot_travel(functions, error) from None
    pickled.functions, pickled.modules = pickler.functions, pickler.modules
    for function, name, line in _captured.undefined(pickler.functions):
        problem = explain.undefined(function, name, line)
        if not _captured.is_method(function):
            raise problem
        pickled.warnings.append(str(problem))  # the method may never be called
    return pickled


def _imported(pickled: _Pickled) -> set[str]:
    return pickled.modules.union(*(_captured.imported_names(f.__code__) for f in pickled.functions))


def _lines(pickled: _Pickled) -> dict[str, list[str]]:
    """Return the source lines of the cells (or the script) that functions come from."""
    names = {function.__code__.co_filename for function in pickled.functions}
    own = [name for name in sorted(names) if not Path(name).exists() or is_own_path(Path(name))]
    return {name: lines for name in own if (lines := linecache.getlines(name))}


def _cells(names: Iterable[str]) -> dict[str, str]:
    """Return what IPython calls the cells: `In[3]` by file name."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    counts = getattr(getattr(shell, "compile", None), "_filename_map", {})
    return {name: f"In[{counts[name]}]" for name in names if name in counts}


# -- the snapshot ---------------------------------------------------------------------------------


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python, of nbtrain and of the packages that matter."""
    return {"nbtrain": __version__, **_runtime_versions()}


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("TF_", "KERAS_")) and name not in _OWN_ENVIRONMENT
    }


def _tf_keras_settings() -> dict[str, Any] | None:
    """Return the settings of tf_keras, if they are not those that it has anyway.

    Else workers would have to import it for a notebook that has it without using it.
    """
    settings = tf_keras_settings()
    return None if settings == _TF_KERAS_DEFAULTS else settings


def _keras_settings() -> dict[str, Any] | None:
    """Return Keras' global settings; None if the notebook has not imported Keras."""
    keras = sys.modules.get("keras")
    if not hasattr(keras, "config"):
        return None
    assert keras is not None
    policy = dtype_policy()
    config: Any = policy and policy.name
    if policy is not None and type(policy).__name__ != "DTypePolicy":
        config = keras.dtype_policies.serialize(policy)
    return {
        "floatx": keras.config.floatx(),
        "epsilon": keras.config.epsilon(),
        "image_data_format": keras.config.image_data_format(),
        "dtype_policy": config,
    }


def _custom_objects(package: str, warnings: list[str]) -> Iterator[tuple[str, Any, bool]]:
    """Yield the custom objects registered with a Keras: name, object, whether by the decorator.

    Those of libraries are registered when the library is imported, in the worker too.
    """
    keras = sys.modules.get(package)
    if not hasattr(keras, "saving"):
        return
    assert keras is not None
    for name, thing in list(keras.saving.get_custom_objects().items()):
        module = str(getattr(thing, "__module__", "__main__"))
        if module != "__main__" and not is_own(module.partition(".")[0]):
            continue
        if trial(thing) is not None:
            warnings.append(f"The custom object `{name}`, registered with Keras, stays here.")
            continue
        named = isinstance(thing, (type, types.FunctionType))
        yield (
            name,
            thing,
            named and keras.saving.get_registered_name(thing) == name != thing.__name__,
        )


# -- sizes ----------------------------------------------------------------------------------------


def _all_captured(functions: Mapping[str, Any]) -> list[Captured]:
    found = [c for role, value in functions.items() for c in _captured.captured(role, value)]
    return sorted(found, key=lambda c: -c.bytes)


def _big(found: list[Captured]) -> Iterator[str]:
    for one in found:
        if one.bytes > BIG and one.variable != one.function:
            size = _captured.human(one.bytes)
            yield f"`{one.variable}` ({size}) is captured by `{one.function}`"


# -- writing --------------------------------------------------------------------------------------


@dataclass
class _Section:
    """A part of the container: bytes in pieces, or a file."""

    name: str
    content: Sequence[bytes | memoryview] | Path

    @functools.cached_property
    def size(self) -> int:
        if isinstance(self.content, Path):
            return self.content.stat().st_size
        return sum(len(piece) for piece in self.content)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """Yield exactly as many bytes as `size` says."""
        if not isinstance(self.content, Path):
            for piece in self.content:
                view = memoryview(piece)
                yield from (view[i : i + CHUNK] for i in range(0, len(view), CHUNK))
            return
        left = self.size
        with self.content.open("rb") as file:
            while left and (data := file.read(min(CHUNK, left))):
                left -= len(data)
                yield data
        if left:
            raise NbtrainError(f"--files: {self.content} became shorter while it was read.")


def _write(
    path: Path, header: dict[str, Any], sections: list[_Section], progress: Progress | None
) -> tuple[str, int]:
    """Write beside and rename; return SHA-256 and size."""
    first, total = _layout(header, sections)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb", buffering=0) as file, _Hashing() as hashing:
            written = 0
            for chunk in _stream(first, sections):
                hashing.update(chunk)
                _write_all(file, chunk)
                written += len(chunk)
                if progress is not None:
                    progress(written, total)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink()
        raise
    return hashing.hexdigest(), written


def _layout(header: dict[str, Any], sections: list[_Section]) -> tuple[bytes, int]:
    """Return what stands before the sections, and the size of the file."""
    entries, end = [], 0
    for section in sections:
        start = aligned(end)
        end = start + section.size
        entries.append({"name": section.name, "offset": start, "bytes": section.size})
    text = _json(header | {"sections": entries})
    lengths = _format.LENGTHS.pack(len(text), zlib.crc32(text))
    first = _format.MAGIC + lengths + text
    first += bytes(aligned(len(first)) - len(first))
    return first, len(first) + end


def _stream(first: bytes, sections: list[_Section]) -> Iterator[bytes | memoryview]:
    yield first
    gap = 0
    for section in sections:
        if gap:
            yield bytes(gap)
        yield from section.chunks()
        gap = aligned(section.size) - section.size


def _write_all(file: io.RawIOBase | Any, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


class _Hashing:
    """SHA-256 on a thread of its own, so that writing and hashing take the time of one."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._queue: queue.Queue[bytes | memoryview | None] = queue.Queue(maxsize=8)
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> _Hashing:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._queue.put(None)
        self._thread.join()

    def update(self, data: bytes | memoryview) -> None:
        self._queue.put(data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()

    def _work(self) -> None:
        while (data := self._queue.get()) is not None:
            self._digest.update(data)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
