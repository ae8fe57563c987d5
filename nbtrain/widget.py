"""The live view of a run as a Jupyter widget: sends what `view` gives, answers its buttons."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from importlib import resources
from typing import Any

import anywidget
import traitlets

from .errors import NbtrainError
from .state import RunState
from .view import view

#: What a front end may ask for, with its arguments; returns what it is answered.
Answer = Callable[..., Any]


def script() -> str:
    """Return the widget's JavaScript; empty in a checkout whose front end was not built."""
    with contextlib.suppress(FileNotFoundError):
        return (resources.files(__package__) / "static" / "widget.js").read_text("utf-8")
    return ""


class RunWidget(anywidget.AnyWidget):
    """Draws one run.

    Attributes
    ----------
    view : dict
        What is drawn; see `nbtrain.view`.
    actions : list of str
        What a front end may ask for.
    drawn : threading.Event
        Set once a front end has shown it.
    """

    _esm = script()
    view = traitlets.Dict().tag(sync=True)
    actions: traitlets.List[str] = traitlets.List().tag(sync=True)

    def __init__(self, state: RunState, now: float, answers: dict[str, Answer]) -> None:
        self.drawn = threading.Event()
        self._answers = answers
        super().__init__(view=view(state, now), actions=list(answers))
        self.on_msg(self._asked)
        _answer_beside(self)

    @property
    def reachable(self) -> bool:
        """Whether messages of a front end come through while a cell runs."""
        return _subshell is not None

    def draw(self, state: RunState, now: float) -> None:
        """Send the state if it looks other than before."""
        self.view = view(state, now)

    def mime(self) -> dict[str, Any]:
        """Return this widget's part of an output."""
        made = self._repr_mimebundle_()
        data = made[0] if isinstance(made, tuple) else made
        return {kind: value for kind, value in (data or {}).items() if "widget-view" in kind}

    def _asked(self, _widget: Any, message: Any, _buffers: Any) -> None:
        self.drawn.set()
        if not isinstance(message, dict) or "ask" not in message:
            return
        # A stop takes its time, and other messages have to get through meanwhile.
        threading.Thread(target=self._answer, args=(message,), daemon=True).start()

    def _answer(self, message: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"to": message.get("id")}
        try:
            answer = self._answers[message["ask"]]
            reply["value"] = answer(**message.get("with", {}))
        except NbtrainError as error:
            reply["error"] = str(error)
        except Exception as error:
            reply["error"] = f"{type(error).__name__}: {error}"
        self.send(reply)


# -- messages while a cell runs -------------------------------------------------------------------

_subshell: str | None = None


def _answer_beside(widget: RunWidget) -> None:
    """Have messages to the widget handled in a thread of their own, also while a cell runs.

    ipykernel from 7.4 on can run subshells beside the main one, and asks a comm which of them its
    messages are for. Elsewhere messages wait for the end of the cell, and the view says so.
    """
    with contextlib.suppress(Exception):  # other kernels, other versions
        comm = widget.comm
        if not callable(getattr(comm, "_reply_subshell_for", None)):
            return
        comm._reply_subshell_for = lambda _data, default: _subshell or default
        if _subshell is None:
            _begin_subshell()


def _begin_subshell() -> None:
    from ipykernel.kernelbase import Kernel

    thread = Kernel.instance().shell_channel_thread

    def begin() -> None:
        global _subshell
        if _subshell is None:
            _subshell = thread.manager._create_subshell()

    thread.io_loop.add_callback(begin)
