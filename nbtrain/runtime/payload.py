"""The payload of a run, as a worker reads it: the functions and all that they use.

The container is one file: 8 bytes magic, the length and the CRC-32 of a JSON header (4 bytes each,
little endian), the header, then its sections, each at a multiple of 64 bytes, so that arrays in
the mapped file are aligned. The sections are the pickled functions, the buffers that were pickled
out of band, the user's modules (a zip), the user's files and `meta` (source lines).
"""

from __future__ import annotations

import builtins
import functools
import importlib
import inspect
import io
import json
import linecache
import mmap
import os
import pickle
import platform
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from . import absent
from .errors import Corrupt, Refused, VersionMismatch

MAGIC = b"NBTRAIN\x01"
FORMAT = 1
ALIGN = 64
#: Length and CRC-32 of the header.
LENGTHS = struct.Struct("<II")
#: What nbtrain itself puts into a worker's scratch directory lies below this folder.
PRIVATE = ".nbtrain"

FUNCTIONS, SOURCES, META = "functions", "sources", "meta"
BUFFER, FILE = "buffer:", "file:"
#: Packages with custom objects of the user's own.
KERASES = ("keras", "tf_keras")


class MissingModule(Refused):
    """A module that the functions use is not installed where they run.

    Attributes
    ----------
    module : str
        Its name.
    """

    def __init__(self, module: str) -> None:
        super().__init__(
            f"import {module}",
            f"the workers have no module named {module!r}.",
            "Install it where the workers run, or keep it beside the notebook as a .py file, "
            "so that it travels.",
        )
        self.module = module


class Payload:
    """An open payload; `open` makes one.

    Attributes
    ----------
    header : dict
        Versions, settings and where the sections are.
    functions : dict
        The functions (or values) by role; empty before `load`.
    """

    def __init__(self, path: Path, data: memoryview, header: dict[str, Any], start: int) -> None:
        self.path, self.header = path, header
        self.functions: dict[str, Any] = {}
        self._data = data
        data = data[start:]
        self._sections: dict[str, memoryview] = {
            s["name"]: data[s["offset"] : s["offset"] + s["bytes"]] for s in header["sections"]
        }

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Payload:
        """Map a payload into memory.

        Pages are shared with other processes until they are written to, and nothing that is
        written reaches the file: captured arrays are as writable as they were.

        Raises
        ------
        Corrupt
            If it is no payload, is cut short or has a damaged header.
        """
        path = Path(path)
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < len(MAGIC) + LENGTHS.size:
                raise Corrupt(f"{path.name} is no payload: it is too short")
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        header, start = _header(path.name, data)
        return cls(path, data, header, start)

    @property
    def cells(self) -> dict[str, str]:
        """The notebook's cells (`In[3]`) by the file names that tracebacks show."""
        return dict(self._meta["cells"])

    @functools.cached_property
    def _meta(self) -> dict[str, Any]:
        try:
            found = json.loads(bytes(self._sections[META]))
        except ValueError as error:
            raise Corrupt(f"{self.path.name}: {error}") from None
        return dict(found)

    @property
    def files(self) -> list[str]:
        """The user's files, relative to the scratch directory."""
        return [name.removeprefix(FILE) for name in self._sections if name.startswith(FILE)]

    def install(self, scratch: Path, *, visiting: bool = False) -> None:
        """Unpack files and modules below `scratch`, and set the environment variables.

        Relative paths find the files once `scratch` is the current directory. `visiting` is for
        a process that is no worker, such as the notebook: its own modules come before those of
        the payload, and its environment is left alone.
        """
        scratch = Path(scratch)
        scratch.mkdir(exist_ok=True)
        for name in self.files:
            target = _inside(scratch, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self._sections[FILE + name])
        if self._sections[SOURCES].nbytes:
            folder = scratch.resolve() / PRIVATE / "modules"
            self._unpack_modules(folder)
            sys.path.insert(len(sys.path) if visiting else 0, str(folder))
            importlib.invalidate_caches()
        if visiting:
            return
        absent.install()
        os.environ.update(self.header["environment"])
        # Cells call IPython's `display` without importing it.
        if not hasattr(builtins, "display"):
            builtins.display = print  # type: ignore[attr-defined]

    def _unpack_modules(self, folder: Path) -> None:
        try:
            with zipfile.ZipFile(io.BytesIO(self._sections[SOURCES])) as archive:
                for name in archive.namelist():
                    _inside(folder, name)
                archive.extractall(folder)
        except (zipfile.BadZipFile, zlib.error) as error:
            raise Corrupt(f"{self.path.name}: the modules: {error}") from None

    def restore_keras(self) -> None:
        """Set the global settings of Keras, and of tf_keras, as they are in the notebook."""
        set_tf_keras(self.header.get("tf_keras"))
        settings = self.header.get("keras")
        if not settings:
            return
        import keras

        keras.config.set_floatx(settings["floatx"])
        keras.config.set_epsilon(settings["epsilon"])
        keras.config.set_image_data_format(settings["image_data_format"])
        policy = settings["dtype_policy"]
        if isinstance(policy, dict):
            policy = keras.dtype_policies.deserialize(policy)
        set_dtype_policy(policy)

    def load(self) -> dict[str, Any]:
        """Return the functions (or values) by role; call `install` before.

        Raises
        ------
        VersionMismatch
            If this Python is not of the minor version that packed them.
        MissingModule
            If a module that they use is not installed here.
        Corrupt
            If the pickle is damaged (which `check` finds beforehand).
        """
        self._check_python()
        for name, lines in self._meta["lines"].items():
            # No modification time: linecache.checkcache then keeps it, although there is no file.
            linecache.cache[name] = (sum(map(len, lines)), None, lines, name)
        buffers = [v for name, v in self._sections.items() if name.startswith(BUFFER)]
        try:
            content = pickle.loads(self._sections[FUNCTIONS], buffers=buffers)
        except ModuleNotFoundError as error:
            raise MissingModule(error.name or str(error)) from error
        except pickle.UnpicklingError as error:
            raise Corrupt(f"{self.path.name}: {error}") from error
        self.functions = content["functions"]
        for package, custom_objects in content["custom_objects"].items():
            _register(package, custom_objects)
        return self.functions

    def _check_python(self) -> None:
        theirs, ours = self.header["versions"]["python"], platform.python_version()
        if theirs.split(".")[:2] != ours.split(".")[:2]:
            raise VersionMismatch(
                f"Python {ours}",
                f"the notebook runs Python {theirs}, and functions do not travel between "
                "minor versions.",
                f"Use workers with Python {'.'.join(theirs.split('.')[:2])}.",
            )


def dtype_policy() -> Any:
    """Return Keras' global policy; None where nothing has needed one yet.

    `keras.config.dtype_policy` makes one of what `floatx` is now, and `set_floatx` in a model
    function would then come too late (keras/src/dtype_policies/dtype_policy.py).
    """
    from keras.src.backend.common import global_state

    return global_state.get_global_attribute("dtype_policy", None)


def set_dtype_policy(policy: Any) -> None:
    """Set Keras' global policy, by its name too; None: as it is before the first layer."""
    import keras
    from keras.src.backend.common import global_state

    if policy is None:
        global_state.set_global_attribute("dtype_policy", None)
    else:
        keras.config.set_dtype_policy(policy)


def tf_keras_settings() -> dict[str, Any] | None:
    """Return the global settings of tf_keras; None where nobody has imported it."""
    tf_keras = sys.modules.get("tf_keras")
    if not hasattr(tf_keras, "mixed_precision"):
        return None
    from tf_keras.src.mixed_precision import policy

    assert tf_keras is not None
    return {
        "floatx": tf_keras.backend.floatx(),
        "epsilon": tf_keras.backend.epsilon(),
        "image_data_format": tf_keras.backend.image_data_format(),
        # Not `global_policy()`, which says what it would be by what `floatx` is now.
        "dtype_policy": policy._global_policy and policy._global_policy.name,
    }


def set_tf_keras(settings: Mapping[str, Any] | None) -> None:
    """Give tf_keras global settings; None leaves it as it is, imported or not."""
    if settings is None:
        return
    import tf_keras

    tf_keras.backend.set_floatx(settings["floatx"])
    tf_keras.backend.set_epsilon(settings["epsilon"])
    tf_keras.backend.set_image_data_format(settings["image_data_format"])
    tf_keras.mixed_precision.set_global_policy(settings["dtype_policy"])


def bind(function: Callable[..., Any], offered: Mapping[str, Any]) -> Callable[[], Any]:
    """Return the call of `function` with those of the `offered` arguments that it takes.

    Raises
    ------
    Refused
        If it needs an argument that is not offered.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some callables of C have no signature
        return function
    positional, named = [], {}
    for p in parameters:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        if p.name not in offered:
            if p.default is p.empty:
                raise _not_offered(function, p.name, offered)
            continue
        if p.kind is p.POSITIONAL_ONLY:
            positional.append(offered[p.name])
        else:
            named[p.name] = offered[p.name]
    return functools.partial(function, *positional, **named)


def call(function: Any, offered: Mapping[str, Any]) -> Any:
    """Return what a role's function returns, or the role's value where it is no function."""
    return bind(function, offered)() if is_function(function) else function


def is_function(value: Any) -> bool:
    """Tell whether a role's value is to be called; Keras models are callable, but are values."""
    if not callable(value):
        return False
    return not any(
        c.__name__ in ("Layer", "Model") and c.__module__.split(".")[0] in ("keras", "tf_keras")
        for c in type(value).__mro__
    )


def _not_offered(function: Any, name: str, offered: Iterable[str]) -> Refused:
    title = getattr(function, "__name__", type(function).__name__)
    choice = ", ".join(f"`{o}`" for o in offered) or "nothing"
    return Refused(
        f"{title}({name})",
        f"the function needs an argument `{name}`, which nbtrain does not offer "
        f"(it offers {choice}).",
        f"Give `{name}` a default, or use functools.partial.",
    )


def _header(name: str, data: memoryview) -> tuple[dict[str, Any], int]:
    """Return the header, and where the sections begin."""
    if data[: len(MAGIC)] != MAGIC:
        raise Corrupt(f"{name} is no payload of this version of nbtrain")
    first = len(MAGIC) + LENGTHS.size
    length, crc = LENGTHS.unpack_from(data, len(MAGIC))
    text = bytes(data[first : first + length])
    if len(text) != length or zlib.crc32(text) != crc:
        raise Corrupt(f"{name} is damaged: its header is not the one that was written")
    try:
        header = json.loads(text)
        start = aligned(first + length)
        end = max(s["offset"] + s["bytes"] for s in header["sections"])
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{name} is damaged: {error}") from None
    if len(data) != start + end:
        raise Corrupt(f"{name} has {len(data):,} bytes instead of {start + end:,}")
    return header, start


def aligned(offset: int) -> int:
    """Return the next offset at which a section can begin."""
    return -(-offset // ALIGN) * ALIGN


def _inside(folder: Path, name: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise Corrupt(f"a path that leaves the scratch directory: {name!r}")
    return folder / path


def _register(package: str, custom_objects: list[tuple[str, Any, bool]]) -> None:
    """Register custom objects with their Keras again; pickling loses it."""
    if not custom_objects:
        return
    keras = importlib.import_module(package)
    for name, thing, decorated in custom_objects:
        if decorated:
            package, _, rest = name.rpartition(">")
            keras.saving.register_keras_serializable(package, rest)(thing)
        else:
            keras.saving.get_custom_objects()[name] = thing
