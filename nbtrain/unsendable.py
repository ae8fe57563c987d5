"""The kinds of things that can't be sent to another process, and the way around each."""

from __future__ import annotations

import io
import sys
import types
import weakref
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """What a thing is, with its article, and what to do instead.

    In `fix`, `{name}` is the variable and `{function}` the role's function.
    """

    what: str
    fix: str


class Unsendable(Exception):
    """Raised while pickling by the thing that can't travel."""

    def __init__(self, kind: Kind, thing: Any) -> None:
        super().__init__(kind.what)
        self.kind, self.thing = kind, thing


_INSIDE = "Make `{name}` inside `{function}`, or in a function that it calls."

FILE = Kind(
    "an open file",
    "Open it inside `{function}`; `--files` sends the file itself along.",
)
LOCK = Kind("a lock", "Each worker is a process of its own: make the lock inside `{function}`.")
THREAD = Kind("a thread", "Start it inside `{function}`, in the worker.")
QUEUE = Kind("a queue", _INSIDE)
SOCKET = Kind("a network connection", "Connect inside `{function}`.")
PROCESS = Kind("a process or a pool of processes", "Start it inside `{function}`.")
GENERATOR = Kind(
    "a generator, which can be read only once and only here",
    "Call the function that makes it inside `{function}`, or pass list({name}).",
)
COROUTINE = Kind("a coroutine", "Send what it results in.")
DATASET = Kind(
    "a tf.data.Dataset",
    "A dataset lives in this process alone: make it inside `{function}`, from arrays or files.",
)
TENSOR = Kind("a TensorFlow tensor", "Send {name}.numpy(), and convert it in `{function}`.")
SYMBOLIC = Kind("a symbolic Keras tensor", "Build the layers inside `{function}`.")
VARIABLE = Kind(
    "a TensorFlow variable", "Make it inside `{function}`, from {name}.numpy() if need be."
)
SEED = Kind("a Keras SeedGenerator", _INSIDE)
STRATEGY = Kind("a tf.distribute strategy", "nbtrain makes the strategy; `{function}` needs none.")
LOOKUP = Kind("a TensorFlow lookup table", _INSIDE)
GRAPH = Kind("a TensorFlow graph or a part of one", _INSIDE)
DATABASE = Kind("a database connection", "Connect inside `{function}`, or send the rows.")
HDF5 = Kind("an open HDF5 file", "Open it inside `{function}`, or send the array: {name}[:].")
SHELL = Kind(
    "the IPython shell, which is of this notebook alone",
    "%magics and !commands don't run in the workers: use Python (os, subprocess) instead.",
)
WIDGET = Kind("a notebook widget", "Take its value in a cell (v = {name}.value) and use that.")
NBTRAIN = Kind(
    "a part of nbtrain, which the workers don't have",
    "Take what you need of it in a cell, such as weights = run.model.get_weights().",
)
CLIENT = Kind("a client of a service", "Make it inside `{function}`.")
MAIN = Kind("the module __main__, the notebook itself", "Use the names of the notebook directly.")
MADE_MODULE = Kind(
    "a module that has no file", "Write it as a .py file beside the notebook and import that."
)
DEEP = Kind(
    "something that is nested too deeply",
    "Keep it in a flat list or an array, or make it inside `{function}`.",
)
FRAME = Kind("a traceback or stack frame", "Send its text: traceback.format_exc().")
LOGGING = Kind("a handler of logging", "Set up logging inside `{function}`.")

_SAVEABLE = "keras.src.saving.keras_saveable.KerasSaveable"
#: By class: names with the module, or the module's first parts ending in a dot.
_BY_NAME = {
    "tensorflow.python.data.ops.dataset_ops.DatasetV2": DATASET,
    "tensorflow.python.data.ops.iterator_ops.IteratorBase": DATASET,
    "tensorflow.python.framework.tensor.Tensor": TENSOR,
    "tensorflow.python.ops.variables.Variable": VARIABLE,
    "tensorflow.python.ops.ragged.ragged_tensor.RaggedTensor": TENSOR,
    "tensorflow.python.framework.sparse_tensor.SparseTensor": TENSOR,
    "keras.src.backend.common.variables.Variable": VARIABLE,
    "keras.src.backend.common.keras_tensor.KerasTensor": SYMBOLIC,
    "keras.src.random.seed_generator.SeedGenerator": SEED,
    "tensorflow.python.distribute.distribute_lib.StrategyBase": STRATEGY,
    "tensorflow.python.ops.lookup_ops.LookupInterface": LOOKUP,
    "tensorflow.python.framework.ops.Graph": GRAPH,
    "tensorflow.python.framework.ops.Operation": GRAPH,
    "tensorflow.python.eager.polymorphic_function.concrete_function.ConcreteFunction": GRAPH,
    "threading.Thread": THREAD,
    "threading.local": LOCK,
    "logging.Handler": LOGGING,
    "socket.socket": SOCKET,
    "_socket.socket": SOCKET,
    "ssl.SSLContext": SOCKET,
    "subprocess.Popen": PROCESS,
    "sqlalchemy.engine.base.Engine": DATABASE,
    "sqlalchemy.engine.base.Connection": DATABASE,
    "sqlalchemy.orm.session.Session": DATABASE,
    "h5py._hl.base.HLObject": HDF5,
    "tables.file.File": HDF5,
    "IPython.core.interactiveshell.InteractiveShell": SHELL,
    "ipywidgets.widgets.widget.Widget": WIDGET,
}
_BY_MODULE = {
    "_thread": LOCK,
    "threading": LOCK,
    "queue": QUEUE,
    "_queue": QUEUE,
    "multiprocessing": PROCESS,
    "concurrent": PROCESS,
    "sqlite3": DATABASE,
    "psycopg": DATABASE,
    "psycopg2": DATABASE,
    "pymysql": DATABASE,
    "MySQLdb": DATABASE,
    "duckdb": DATABASE,
    "_duckdb": DATABASE,
    "pymongo": DATABASE,
    "redis": DATABASE,
    "kubernetes": CLIENT,
    "docker": CLIENT,
    "botocore": CLIENT,
    "boto3": CLIENT,
    "nbtrain": NBTRAIN,
}
#: Of these modules, what is no connection and may well travel.
_HARMLESS = ("Row", "Binary", "Result")


def unknown(thing: Any) -> Kind:
    """Return the kind of a thing that does not pickle for a reason of its own."""
    cls = type(thing)
    return Kind(f"an object of class `{cls.__module__}.{cls.__qualname__}`", _INSIDE)


def kind_of_type(cls: type) -> Kind | None:
    """Return the kind of a class whose objects can't travel; None for all others."""
    if issubclass(cls, type):
        return None
    if issubclass(cls, io.IOBase) and not issubclass(cls, (io.BytesIO, io.StringIO)):
        return SOCKET if cls.__module__ == "socket" else FILE
    for built_in, built_in_kind in _BUILT_IN:
        if issubclass(cls, built_in):
            return built_in_kind
    for base in cls.__mro__:
        module = base.__module__ if isinstance(base.__module__, str) else ""
        kind: Kind | None = _BY_NAME.get(f"{module}.{base.__qualname__}")
        if kind is None and not issubclass(base, BaseException):
            kind = _BY_MODULE.get(module.partition(".")[0])
        if kind is not None and not (kind is DATABASE and base.__name__.endswith(_HARMLESS)):
            return kind
    return None


_BUILT_IN: tuple[tuple[Any, Kind], ...] = (
    ((types.GeneratorType, types.AsyncGeneratorType), GENERATOR),
    (types.CoroutineType, COROUTINE),
    ((types.FrameType, types.TracebackType), FRAME),
)


def kind_of_object(obj: Any) -> Kind | None:
    """Return the kind of an object that can't travel for what it is, not for its class."""
    if isinstance(obj, types.ModuleType):
        return _kind_of_module(obj)
    if isinstance(obj, (type, types.FunctionType)):
        module = obj.__module__
        if isinstance(module, str) and module.partition(".")[0] == "nbtrain":
            return NBTRAIN
        return None
    if isinstance(obj, types.MethodType):
        return kind_of_type(type(obj.__self__))
    if "keras" in sys.modules:
        return _kind_of_keras_object(obj)
    return None


def _kind_of_module(module: types.ModuleType) -> Kind | None:
    name = module.__name__
    if name == "__main__":
        return MAIN
    if name.partition(".")[0] == "nbtrain":
        return NBTRAIN
    if name not in sys.modules or name in sys.builtin_module_names:
        return None  # not imported: cloudpickle sends it by value
    no_file = getattr(module, "__file__", None) is None and not hasattr(module, "__path__")
    spec = getattr(module, "__spec__", None)
    return MADE_MODULE if no_file and (spec is None or spec.origin is None) else None


def is_loss(obj: object) -> bool:
    """Tell whether an object is a loss of Keras, which holds no variables."""
    return "keras.src.losses.loss.Loss" in _class_names(type(obj))


def _class_names(cls: type) -> frozenset[str]:
    if cls not in _names:
        _names[cls] = frozenset(f"{c.__module__}.{c.__qualname__}" for c in cls.__mro__)
    return _names[cls]


#: Looked up for every object that is pickled.
_names: weakref.WeakKeyDictionary[type, frozenset[str]] = weakref.WeakKeyDictionary()


def _kind_of_keras_object(obj: object) -> Kind | None:
    if _SAVEABLE not in _class_names(type(obj)) or is_loss(obj):
        return None
    custom = _custom_classes(obj)
    if not custom:
        return None
    names = ", ".join(f"`{name}`" for name in sorted(custom))
    what = "a model" if hasattr(obj, "get_compile_config") else f"a {type(obj).__name__} object"
    return Kind(
        f"{what} with classes or functions that Keras does not know ({names})",
        "Send the function or class that makes it, and make it inside `{function}`.",
    )


def _custom_classes(obj: object) -> set[str]:
    """Return the names in a Keras object's configuration that another process can't resolve."""
    import keras

    try:
        config = [keras.saving.serialize_keras_object(obj)]
        if hasattr(obj, "get_compile_config"):
            config.append(obj.get_compile_config())
    except Exception:  # no get_config: only a custom class lacks it
        return {type(obj).__name__}
    found: set[str] = set()
    waiting: list[Any] = config
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            found |= _custom_name(item)
            waiting += item.values()
        elif isinstance(item, (list, tuple)):
            waiting += item
    return found


def _custom_name(config: dict[str, Any]) -> set[str]:
    """Return the name of what a part of a configuration stands for, unless it is Keras' own."""
    module = config.get("module")
    # Keras keeps a lambda as its code without its globals; as an activation in a bare "value".
    if config.get("class_name") == "__lambda__" or list(config) == ["value"]:
        return {"lambda"}
    if "class_name" not in config or "config" not in config or module == "builtins":
        return set()
    if isinstance(module, str) and module.partition(".")[0] == "keras":
        return set()
    if config["class_name"] == "function" and isinstance(config["config"], str):
        return {config["config"]}
    return {str(config["class_name"])}
