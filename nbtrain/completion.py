"""Help and completion of the magics, both from the table of options."""

from __future__ import annotations

import contextlib
import re
import textwrap
import types
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .line import CELL
from .request import GROUPS, Option

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext, SimpleMatcherResult
    from IPython.core.interactiveshell import InteractiveShell

_HEAD = """\
Train a Keras model on several workers, and get the trained model back.

The cell defines `model` and `dataset` (and `validation`, `callbacks` where wanted) as ordinary
functions of the notebook. The workers call them and train together, with the results of one
process. The cell returns at once; the run becomes a variable, by its name.

Example
-------
%%k8s_train --workers 2 --epochs 5 --batch 128 --name digits
def model():                     # returns a compiled Keras model
    m = keras.Sequential([keras.layers.Dense(10, activation="softmax")])
    m.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return m

def dataset():                   # a tf.data.Dataset, arrays (x, y), or a keras PyDataset
    return x_train, y_train

def validation():                # may be left out
    return x_test, y_test

The result
----------
digits                           the run: its progress, then its report
digits.model                     waits, then the trained Keras model
digits.history, digits.logs(1), digits.stop()
"""

_TAIL = """\
Values may be variables of the notebook: --epochs {n}, --workers $w, --files {paths}.
Defaults for all cells: %k8s_config. The same from Python: nbtrain.train(model, dataset, ...).
"""

#: How wide the options' own column is, and the whole.
_COLUMN = 30
_WIDTH = 99


def help_text() -> str:
    """Return the help of `%%k8s_train`."""
    parts = [_HEAD]
    for group in GROUPS:
        options = [o for o in CELL if o.group == group]
        if options:
            lines = [_help_line(o) for o in options]
            parts.append("\n".join([group, "-" * len(group), *lines, ""]))
    return "\n".join([*parts, _TAIL])


def _help_line(option: Option) -> str:
    written = f"{option.dashed} {option.metavar}".rstrip()
    default = "" if option.flag and not option.default else f" [{_shown(option)}]"
    line = f"{written:<{_COLUMN}} {option.help}{default}"
    return textwrap.fill(line, _WIDTH, subsequent_indent=" " * (_COLUMN + 1))


def _shown(option: Option) -> str:
    return "on" if option.default is True else str(option.default)


# -- completion -----------------------------------------------------------------------------------

#: The options of the line magics, for those that have any; filled by `magics`.
LINE_OPTIONS: dict[str, Sequence[Option]] = {}

#: The commands of the line magics that have any, with their options; filled by `magics`.
SUBCOMMANDS: dict[str, dict[str, Sequence[Option]]] = {}

_DEFINED = re.compile(r"^(?:async )?def (\w+)|^(\w+) *=[^=]", re.MULTILINE)


class Completer:
    """Completes the lines of nbtrain's magics.

    Parameters
    ----------
    shell
        The notebook's.
    runs
        Returns the names of the runs there are.
    """

    def __init__(self, shell: InteractiveShell, runs: Callable[[], Iterable[str]]) -> None:
        self._shell, self._runs = shell, runs

    def complete(self, before: str, cell: str = "") -> tuple[str, list[str]]:
        """Return the part of a word that is there, and all words that it may become.

        Parameters
        ----------
        before
            The line up to the cursor.
        cell
            The whole cell, where it is known: functions that it defines are offered as well.
        """
        match = re.match(r"\s*%{0,2}(k8s_\w+)\s+(.*)$", before)
        if match is None:
            return "", []
        magic, line = match.groups()
        *past, word = re.split(r"\s+", line)
        name, equals, start = word.partition("=")
        if magic == "k8s_config":
            return self._setting(name, equals, start)
        if magic in SUBCOMMANDS:
            return self._command(SUBCOMMANDS[magic], past, word)
        known = CELL if magic == "k8s_train" else LINE_OPTIONS.get(magic, ())
        if equals:
            return start, _beginning(start, self._values(_find(name, known), cell))
        if word.startswith("-"):
            return word, _beginning(word, _unused(known, past))
        asking = _find(past[-1], known) if past else None
        if asking is None and magic != "k8s_train" and not any(past):
            return word, _beginning(word, self._names())
        return word, _beginning(word, self._values(asking, cell)) or self._next(known, past, word)

    def _next(self, known: Sequence[Option], past: list[str], word: str) -> list[str]:
        """Offer options where the cursor stands at the beginning of a word that can be one."""
        asking = _find(past[-1], known) if past else None
        return [] if word or (asking and not asking.flag) else _unused(known, past)

    def _command(
        self, commands: dict[str, Sequence[Option]], past: list[str], word: str
    ) -> tuple[str, list[str]]:
        if not past:
            return word, _beginning(word, commands)
        known = commands.get(past[0], ())
        if word.startswith("-"):
            return word, _beginning(word, _unused(known, past))
        return word, self._next(known, past, word)

    def _setting(self, name: str, equals: str, start: str) -> tuple[str, list[str]]:
        from .config import KEYS

        if name.startswith("-"):
            return name, _beginning(name, ["--unset"])
        if not equals:
            return name, _beginning(name, [o.name + "=" for o in KEYS])
        found = next((o for o in KEYS if o.name == name), None)
        return start, _beginning(start, self._values(found, ""))

    def _values(self, option: Option | None, cell: str) -> list[str]:
        if option is None:
            return []
        if option.name in ("name", "from_run"):
            return self._names()
        if option.name in ("model", "dataset", "validation", "callbacks"):
            return self._functions(option.name, cell)
        if option.name == "class_weight":
            return self._variables(lambda value: isinstance(value, dict))
        if option.flag:
            return ["true", "false"]
        return list(option.choices)

    def _names(self) -> list[str]:
        # Completion must never show an error, whatever state the runs are in.
        with contextlib.suppress(Exception):
            return list(dict.fromkeys(self._runs()))
        return []

    def _functions(self, role: str, cell: str) -> list[str]:
        here = [name for pair in _DEFINED.findall(cell) for name in pair if name]
        callables = self._variables(callable)
        others = [] if role == "model" else self._variables(_is_data)
        return list(dict.fromkeys([*here, *callables, *others]))

    def _variables(self, fits: Callable[[Any], bool]) -> list[str]:
        shell = self._shell
        return [
            name
            for name, value in list(shell.user_ns.items())
            if not name.startswith("_") and name not in shell.user_ns_hidden and fits(value)
        ]


def _is_data(value: Any) -> bool:
    plain = (types.ModuleType, str, int, float)
    return not isinstance(value, plain) and not callable(value)


def _find(word: str, known: Sequence[Option]) -> Option | None:
    name = word.removeprefix("--").replace("-", "_")
    if not word.startswith("--"):
        return None
    return next((o for o in known if name in (o.name, *o.aliases)), None)


def _unused(known: Sequence[Option], past: Sequence[str]) -> list[str]:
    used = {word.partition("=")[0] for word in past}
    return [o.dashed for o in known if o.dashed not in used or o.several]


def _beginning(start: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(start)]


def register(shell: InteractiveShell, runs: Callable[[], Iterable[str]]) -> None:
    """Have the shell complete the magics' lines."""
    from IPython.core.completer import SimpleCompletion, context_matcher

    unregister(shell)
    completer = Completer(shell, runs)

    @context_matcher(identifier=_IDENTIFIER, priority=100)  # type: ignore[untyped-decorator]
    def matcher(context: CompletionContext) -> SimpleMatcherResult:
        before = context.full_text.split("\n")[context.cursor_line][: context.cursor_position]
        start, found = completer.complete(before, context.full_text)
        return {
            "completions": [SimpleCompletion(text=text, type="param") for text in found],
            "matched_fragment": start,
            "ordered": True,
            "suppress": bool(found),
        }

    shell.Completer.custom_matchers.append(matcher)


def unregister(shell: InteractiveShell) -> None:
    """Undo `register`."""
    matchers = shell.Completer.custom_matchers
    matchers[:] = [m for m in matchers if getattr(m, "matcher_identifier", "") != _IDENTIFIER]


_IDENTIFIER = "nbtrain"
