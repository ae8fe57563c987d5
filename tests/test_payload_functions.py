"""Functions and classes of the notebook: which forms travel, and what is refused, and how."""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import re
import socket
import sqlite3
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbtrain.captured import size
from nbtrain.errors import CannotTravel

from .payload_worker import Notebook, packed, worker

# -- what travels -----------------------------------------------------------------------------


def test_classes_decorators_closures_and_the_like_travel(tmp_path: Path) -> None:
    notebook = Notebook()(
        """
        from __future__ import annotations
        import dataclasses, enum, functools, typing, logging, sys

        class Colour(enum.Enum):
            RED = 1

        @dataclasses.dataclass(frozen=True)
        class Config:
            rate: float = 0.5
            colour: Colour = Colour.RED
            tags: list[str] = dataclasses.field(default_factory=list)

        class Pair(typing.NamedTuple):
            a: int
            b: typing.Optional[str] = None

        T = typing.TypeVar("T")

        class Base(typing.Generic[T]):
            count = 0
            @staticmethod
            def twice(x): return 2 * x
            @classmethod
            def made(cls): cls.count += 1; return cls()
            @property
            def size(self): return 3
            def method(self, x): return self.twice(x)

        class Derived(Base[int]):
            __slots__ = ("kept",)
            def method(self, x): return super().method(x) + 1

        def logged(f):
            calls = []
            @functools.wraps(f)
            def wrapper(*a, **k):
                calls.append(1)
                return f(*a, **k), len(calls)
            return wrapper

        @logged
        def decorated(x): return x

        def even(n): return n == 0 or odd(n - 1)
        def odd(n): return n != 0 and even(n - 1)

        def outer():
            state = [0]
            def bump(): state[0] += 1; return state[0]
            def read(): return state[0]
            return bump, read
        bump, read = outer()

        class Callable_:
            def __init__(self, k): self.k = k
            def __call__(self, x): return self.k * x

        @functools.cache
        def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)

        class Lazy:
            @functools.cached_property
            def value(self): return [1]
        lazy = Lazy()

        log = logging.getLogger("mine")
        kept = Derived(); kept.kept = 9
        counter = 0

        def count():
            global counter, late
            counter += 1
            late = counter
            return late

        async def co(): return 1
        def gen():
            yield from range(3)

        config = Config()
        part = functools.partial(lambda a, b: a - b, b=1)
        bound = kept.method
        call_ = Callable_(3)

        def dataset(default=Colour.RED):
            log.info("x"); print("to stdout", file=sys.stdout)
            count()
            bump()
            return [config.rate, config.colour is Colour.RED, default is Colour.RED, Pair(1).a,
                    Derived.made().method(4), bound(1), kept.kept, decorated(1), even(10), read(),
                    call_(2), part(5), late, counter, list(gen()), [Config() == config],
                    [x * counter for x in range(2)], (lambda: Base.twice(1))(),
                    fib(80), fib.cache_info().currsize > 0, lazy.value is lazy.value]
        """
    )
    payload = packed({"dataset": notebook["dataset"]}, tmp_path)
    assert worker(payload, "result = f['dataset']()") == [
        0.5, True, True, 1, 9, 3, 9, [1, 1], True, 1, 6, 4, 1, 1, [0, 1, 2], [True], [0, 1], 2,
        23416728348467685, True, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "made",
    [
        "dataset = functools.partial(lambda a: a, a=4)",
        "class C:\n    def __call__(self): return 4\ndataset = C()",
        "class C:\n    def make(self): return 4\ndataset = C().make",
        "class C:\n    @staticmethod\n    def make(): return 4\ndataset = C.make",
        "dataset = lambda: 4",
        "class dataset(int):\n    def __new__(cls): return 4",
    ],
)
def test_a_role_may_be_any_callable(tmp_path: Path, made: str) -> None:
    notebook = Notebook()("import functools\n" + made)
    payload = packed({"dataset": notebook["dataset"]}, tmp_path)
    assert worker(payload, "result = call(f['dataset'], {})") == 4
    assert payload.code["dataset"]


def test_roles_share_the_globals_of_the_notebook(tmp_path: Path) -> None:
    notebook = Notebook()(
        """
        seen = []
        def model(): seen.append("model")
        def dataset(): seen.append("dataset"); return seen
        """
    )
    payload = packed({k: notebook[k] for k in ("model", "dataset")}, tmp_path)
    assert worker(payload, "f['model'](); result = f['dataset']()") == ["model", "dataset"]


def test_modules_registered_by_value_travel_by_value(tmp_path: Path) -> None:
    import cloudpickle

    module = types.ModuleType("made_here")
    exec("k = 2\ndef double(x): return k * x", module.__dict__)
    sys.modules["made_here"] = module
    cloudpickle.register_pickle_by_value(module)
    try:
        payload = packed({"dataset": module.double}, tmp_path)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules["made_here"]
    assert worker(payload, "result = f['dataset'](4)") == 8


def test_tracebacks_show_the_lines_of_the_cell(tmp_path: Path) -> None:
    notebook = Notebook()(
        """
        def helper(x):
            # a comment, so that lines must be the right ones
            return 1 / x

        def dataset():
            return helper(0)
        """
    )
    payload = packed({"dataset": notebook["dataset"]}, tmp_path)
    result = worker(
        payload,
        """
        import traceback, linecache, inspect
        linecache.checkcache()
        try:
            f["dataset"]()
        except ZeroDivisionError as error:
            result = ["".join(traceback.format_exception(error)), inspect.getsource(f["dataset"])]
        """,
    )
    assert "    return helper(0)\n" in result[0]
    assert "    return 1 / x\n" in result[0]
    assert result[1] == "def dataset():\n    return helper(0)\n"


# -- what is refused ----------------------------------------------------------------------------


def _refused(tmp_path: Path, value: Any, cell: str = "def dataset(): return thing") -> str:
    notebook = Notebook(thing=value)(cell)
    with pytest.raises(CannotTravel) as refused:
        packed({"dataset": notebook["dataset"]}, tmp_path)
    assert not list(tmp_path.glob("payload*"))
    text = str(refused.value)
    assert "pickle" not in text.lower(), text
    assert refused.value.fix
    return text


def _generator() -> Iterator[int]:
    yield 1


class _Client:
    """Stands for a client of a library that is not installed here."""


_Client.__module__ = "kubernetes.client"


@pytest.mark.parametrize(
    ("make", "kind", "fix"),
    [
        (Path(__file__).open, "an open file", "--files"),
        (functools.partial(Path(__file__).open, "rb"), "an open file", "--files"),
        (threading.Lock, "a lock", "inside `dataset`"),
        (threading.RLock, "a lock", "inside `dataset`"),
        (threading.Event, "a lock", "inside `dataset`"),
        (threading.Thread, "a thread", "inside `dataset`"),
        (queue.Queue, "a queue", "inside `dataset`"),
        (queue.SimpleQueue, "a queue", "inside `dataset`"),
        (socket.socket, "a network connection", "Connect inside"),
        (_generator, "a generator", "list(thing)"),
        (lambda: sqlite3.connect(":memory:"), "a database connection", "Connect inside"),
        (logging.StreamHandler, "a handler of logging", "inside"),
        (_Client, "a client", "inside"),
        (lambda: sys.modules["nbtrain"], "a part of nbtrain", "cell"),
        (lambda: CannotTravel, "a part of nbtrain", "cell"),
        (lambda: sys.modules["__main__"], "__main__", "directly"),
        (sys._getframe, "stack frame", "format_exc"),
    ],
)
def test_what_cannot_travel_is_refused_by_name(
    tmp_path: Path, make: Any, kind: str, fix: str
) -> None:
    value = make()
    with contextlib.ExitStack() as closing:
        if hasattr(value, "close") and not isinstance(value, type):
            closing.callback(value.close)
        text = _refused(tmp_path, value)
    assert "`dataset` uses `thing`" in text
    assert kind in text
    assert fix in text
    assert "line 1: def dataset(): return thing" in text


def test_the_path_to_what_cannot_travel_is_named_with_the_line(tmp_path: Path) -> None:
    with Path(__file__).open() as file:
        text = _refused(
            tmp_path,
            file,
            """
            class Loader:
                def __init__(self, file): self._file = file
                def read(self): return self._file.read()

            loaders = {"train": [Loader(thing)]}

            def rows():
                first = loaders["train"]
                return first[0].read()

            def dataset():
                return rows()
            """,
        )
    assert "dataset → rows → loaders['train'][0] → _file" in text
    assert re.search(r"line 8: first = loaders\[\"train\"\]", text)


def test_closures_defaults_and_class_attributes_are_searched(tmp_path: Path) -> None:
    cells = {
        "def outer():\n    lock = thing\n    def dataset(): return lock\n    return dataset\n"
        "dataset = outer()": "uses `lock`",
        "def dataset(lock=thing): return lock": "uses `lock`",
        "def dataset(*, lock=thing): return lock": "uses `lock`",
        "class Net:\n    guard = thing\ndef dataset(): return Net()": "dataset → Net → guard",
        "class Net:\n    def f(self): return thing\ndef dataset(): return Net()": "Net → f → thing",
        "import functools\ndataset = functools.partial(print, thing)": "uses `argument 0`",
        "class Net:\n    def __init__(self): self.l = thing\n    def f(self): pass\n"
        "dataset = Net().f": "dataset → self → l",
        "def dataset(): return 1\ndataset.extra = thing": "uses `extra`",
        "dataset = (1, [thing])": "`dataset[1][0]`",
        "dataset = thing": "`dataset` is a lock",
        "class Net: __slots__ = ('l',)\nn = Net(); n.l = thing\ndef dataset(): return n": "n → l",
    }
    for cell, expected in cells.items():
        assert expected in _refused(tmp_path, threading.Lock(), cell), cell


def test_a_cycle_is_searched_once(tmp_path: Path) -> None:
    loop: list[Any] = [{}]
    loop[0]["again"] = loop
    loop.append(threading.Lock())
    assert "thing[1]" in _refused(tmp_path, loop)


def test_an_object_that_does_not_pickle_for_its_own_reasons_is_named(tmp_path: Path) -> None:
    notebook = Notebook()(
        """
        class Odd:
            def __reduce__(self): raise ValueError("not today")
        odd = Odd()
        def dataset(): return odd
        """
    )
    with pytest.raises(CannotTravel) as refused:
        packed({"dataset": notebook["dataset"]}, tmp_path)
    assert "`dataset` uses `odd`" in str(refused.value)
    assert "`__main__.Odd`" in str(refused.value)
    assert "not today" in str(refused.value)


def test_what_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    text = _refused(tmp_path, deep)
    assert "`dataset` uses `thing`, and something that is nested too deeply" in text
    while deep:  # or freeing it would recurse too
        deep = deep.pop()


def test_the_shell_is_refused_for_its_magics(tmp_path: Path) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    class Shell(InteractiveShell):
        def __init__(self) -> None:
            pass

    text = _refused(
        tmp_path,
        types.MethodType(InteractiveShell.get_ipython, object.__new__(Shell)),
        "get_ipython = thing\ndef dataset(): get_ipython().system('ls')",
    )
    assert "`dataset` uses `get_ipython`" in text
    assert "!commands don't run in the workers" in text


# -- names that nothing defines ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "name", "fix"),
    [
        ("x_train = 1\ndef dataset(): return x_trian", "x_trian", "Did you mean `x_train`?"),
        ("def dataset():\n    return [np.zeros(3) for _ in range(2)]", "np", "import it in a cell"),
        ("def helper(): return missing\ndef dataset(): return helper()", "missing", ""),
        ("def dataset():\n    class A:\n        x = nothing\n    return A", "nothing", ""),
        ("def dataset():\n    def inner(): return lenn([])\n    return inner()", "lenn", "`len`"),
        ("def dataset():\n    !ls".replace("!ls", "get_ipython().system('ls')"), "get_ipython", ""),
    ],
)
def test_an_undefined_name_is_refused_before_it_is_a_name_error(
    tmp_path: Path, cell: str, name: str, fix: str
) -> None:
    notebook = Notebook()(cell)
    with pytest.raises(CannotTravel) as refused:
        packed({"dataset": notebook["dataset"]}, tmp_path)
    assert f"uses `{name}`, which is not defined" in str(refused.value)
    assert fix in str(refused.value)
    assert "line " in str(refused.value)


@pytest.mark.parametrize(
    "cell",
    [
        "def dataset():\n    global cache\n    cache = 1\n    return cache",
        "def fill():\n    global a\n    a = 1\ndef dataset():\n    fill()\n    return a",
        "def dataset():\n    class A:\n        x = 1\n        y = x\n        z = [i for i in ()]\n",
        "def dataset():\n    try:\n        return maybe\n    except NameError:\n        return 1",
        "def dataset():\n    import os.path as p, json\n    return p, json, __name__, ValueError",
        "def dataset():\n    return {k: v for k, v in {}.items()}, (w := 1), w",
        "def dataset(n: Undefined = 1) -> AlsoUndefined: return n",
        "def dataset():\n    def fact(n): return n and n * fact(n - 1)\n    return fact(3)",
        "class A:\n    def f(self): return __class__\ndef dataset(): return A().f()",
        "def dataset():\n    del_me = 1\n    del del_me\n    for i in range(3): pass\n    return i",
        "from math import *\ndef dataset(): return sin(pi)",
    ],
)
def test_names_that_are_bound_in_some_way_are_not_refused(tmp_path: Path, cell: str) -> None:
    notebook = Notebook()("from __future__ import annotations\n" + cell)
    packed({"dataset": notebook["dataset"]}, tmp_path)


def test_an_undefined_name_in_a_method_is_a_warning(tmp_path: Path) -> None:
    notebook = Notebook()(
        """
        class Net:
            def plot(self): plt.show()
        def dataset(): return Net
        """
    )
    (warning,) = packed({"dataset": notebook["dataset"]}, tmp_path).warnings
    assert "`Net.plot` uses `plt`" in warning


# -- sizes ----------------------------------------------------------------------------------------


def test_what_is_captured_is_listed_with_its_size_the_biggest_first(tmp_path: Path) -> None:
    notebook = Notebook(x=np.zeros((100, 10)), names=["a" * 1000] * 5, table={"a": np.zeros(1000)})(
        """
        class Scaler:
            def __init__(self): self.mean = x[:50].copy()
        scaler = Scaler()
        def load(): return x, names
        def dataset(t=table): return load(), scaler
        def model(): return 1
        """
    )
    payload = packed({k: notebook[k] for k in ("model", "dataset")}, tmp_path)
    found = {c.variable: c for c in payload.captured}
    assert found["x"].bytes == 8000
    assert found["x"].what == "ndarray (100, 10) float64"
    assert found["x"].function == "dataset"
    assert 8000 < found["t"].bytes < 9000
    assert 4000 < found["scaler"].bytes < 5000
    assert 1000 < found["names"].bytes < 2000  # one string, five times
    assert set(found) == {"x", "names", "t", "scaler"}
    sizes = [c.bytes for c in payload.captured]
    assert sizes == sorted(sizes, reverse=True)


def test_what_is_surprisingly_big_gets_a_warning(tmp_path: Path) -> None:
    notebook = Notebook(df=np.zeros(7_500_000))("def dataset(): return df")
    payload = packed({"dataset": notebook["dataset"]}, tmp_path)
    assert payload.warnings == ["`df` (60 MB) is captured by `dataset`"]


def test_sizes_of_big_containers_are_estimated_and_cycles_end() -> None:
    numbers = [float(i) for i in range(1_000_000)]
    assert size(numbers) == pytest.approx(32_000_000, rel=0.05)
    loop: list[Any] = []
    loop.append(loop)
    assert size(loop) < 200
