"""What callbacks do that all workers have to do together."""

from __future__ import annotations

from types import CodeType
from typing import Any

_BATCH_HOOKS = ("on_batch_end", "on_train_batch_end", "on_test_batch_end")


def looks_at_batches(callback: Any, known: Any) -> bool:
    """Tell whether a callback gets the logs of every batch, other than for showing them.

    `known` is the module of callbacks of its Keras.
    """
    kind = type(callback)
    if kind.__module__.split(".")[:-1] == __name__.split(".")[:-1]:
        return False  # nbtrain's own
    if kind in (known.History, known.ProgbarLogger):
        return False
    if isinstance(callback, known.ModelCheckpoint):
        return bool(callback.save_freq != "epoch")
    if isinstance(callback, known.TensorBoard):
        return bool(callback.update_freq != "epoch")
    return any(_is_own(callback, known, name) for name in _BATCH_HOOKS)


def may_stop_within_epoch(callback: Any, known: Any) -> bool:
    """Tell whether a callback may set `stop_training` after a batch, on one worker only.

    Stock ones decide by logs, which are the same on all workers.
    """
    kind = type(callback)
    hooks = (*_BATCH_HOOKS, "on_batch_begin", "on_train_batch_begin")
    own = [getattr(callback, name) for name in hooks if _is_own(callback, known, name)]
    if kind.__module__.startswith(("keras.", "tf_keras.")) and kind is not known.LambdaCallback:
        return False
    methods = [m for m in vars(kind).values() if callable(m)] if own else []
    return any(_mentions(f, "stop_training") for f in (*own, *methods))


def _is_own(callback: Any, known: Any, name: str) -> bool:
    """Tell whether a callback has a hook of its own, of its class or set on it."""
    base = getattr(known.Callback, name)
    return getattr(getattr(callback, name), "__func__", None) is not base


def _mentions(function: Any, name: str) -> bool:
    """Tell whether a function's code, or one within it, uses a name; True for what has no code."""
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    return code is None or _uses(code, name)


def _uses(code: CodeType, name: str) -> bool:
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return name in code.co_names or name in code.co_consts or any(_uses(c, name) for c in inner)
