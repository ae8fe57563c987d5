"""From a magic's line to options: ``--workers 2 --epochs={n} --name digits  # a comment``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import OptionError
from .request import OPTIONS, Option, option

#: The options of `%%k8s_train`.
CELL = tuple(o for o in OPTIONS if o.cell)

#: From a word with ``{n}`` or ``$w`` to text, or to the variable's value where it is the word.
Expand = Callable[[str], Any]

#: Dashes that word processors and web pages make of two.
_LONG_DASHES = "—–"
_CLOSING = {"{": "}", "[": "]", "(": ")"}


@dataclass
class Line:
    """What a line says: options by name, and the words that belong to none."""

    options: dict[str, Any] = field(default_factory=dict)
    words: list[Any] = field(default_factory=list)
    help: bool = False


def words(line: str) -> list[str]:
    """Split a line as a shell does; ``{…}`` stays together, with its spaces and quotes.

    Raises
    ------
    OptionError
        If a quote is not closed.
    """
    found: list[str] = []
    position = 0
    while match := re.compile(r"\s*(?=\S)").match(line, position):
        if line[match.end()] == "#":
            break
        text, position = _word(line, match.end())
        found.append(text)
    return found


def _word(line: str, start: int) -> tuple[str, int]:
    """Return the word at `start`, without its quotes, and where it ends."""
    text, i = "", start
    while i < len(line) and not line[i].isspace():
        if line[i] in "'\"":
            end = _quoted(line, i)
            text, i = text + line[i + 1 : end - 1], end
        elif line[i] == "{" and (end := _braced(line, i)):
            text, i = text + line[i:end], end
        elif line[i] == "\\":
            # The line ends here for IPython, whatever follows.
            if i + 1 == len(line):
                raise OptionError("the options of a magic stand on one line; remove the \\")
            text, i = text + line[i + 1], i + 2
        else:
            text, i = text + line[i], i + 1
    return text, i


def _quoted(line: str, start: int) -> int:
    """Return where the quoted text that begins at `start` ends."""
    end = line.find(line[start], start + 1)
    if end < 0:
        rest = line[start:] if len(line) - start <= 40 else line[start : start + 39] + "…"
        raise OptionError(f"{rest}: a quote is opened and not closed")
    return end + 1


def _braced(line: str, start: int) -> int:
    """Return where the brace at `start` is closed; 0 if it isn't."""
    waiting: list[str] = []
    i = start
    while i < len(line):
        char = line[i]
        if char in "'\"":
            i = line.find(char, i + 1)
            if i < 0:
                return 0
        elif char in _CLOSING:
            waiting.append(_CLOSING[char])
        elif char in _CLOSING.values():
            if char != waiting.pop():
                return 0
            if not waiting:
                return i + 1
        i += 1
    return 0


def parse(
    line: str,
    known: Sequence[Option] = CELL,
    *,
    expand: Expand = str,
    magic: str = "k8s_train",
    most: int = 0,
) -> Line:
    """Return the options of a line, checked.

    Parameters
    ----------
    line
        What follows the magic's name.
    known
        The options that the magic has.
    expand
        Puts notebook variables in.
    magic
        For errors.
    most
        How many words that are no options it takes.

    Raises
    ------
    OptionError
        If something is unknown, missing or can't have its value.
    """
    return _Parser(line, known, expand, magic, most).run()


class _Parser:
    def __init__(
        self, line: str, known: Sequence[Option], expand: Expand, magic: str, most: int
    ) -> None:
        self.left = words(line)
        self.known, self.expand, self.magic, self.most = known, expand, magic, most
        self.line = Line()

    def run(self) -> Line:
        while self.left:
            word = self.left.pop(0)
            if word in ("--help", "-h", "-?"):
                self.line.help = True
                break
            if _is_option(word):
                self._option(word)
            else:
                self._positional(word)
        return self.line

    def _option(self, word: str) -> None:
        written, equals, text = word.partition("=")
        name = written.lstrip("-" + _LONG_DASHES)
        known, on = self._find(name, written)
        if known.flag:
            value = (self.expand(text) if equals else True), on
            self._set(known, self._flag(known, *value))
        elif known.several:
            given = [text] if equals else self._values(known)
            for item in given:
                self._set(known, self._value(known, item))
        elif equals:
            self._set(known, self._value(known, text))
        else:
            self._set(known, self._value(known, self._values(known)[0]))

    def _find(self, name: str, written: str) -> tuple[Option, bool]:
        """Return the option, and whether it is to be switched on."""
        if name.startswith(("no-", "no_")):
            for known in self.known:
                if known.flag and known.name == name[3:].replace("-", "_"):
                    return known, False
        known = option(name, self.known, dashes=True)
        if not written.startswith("--") and not (len(name) == 1 and name in known.aliases):
            raise OptionError(f"{written}: options have two dashes; did you mean {known.dashed}?")
        return known, True

    def _flag(self, known: Option, value: Any, on: bool) -> bool:
        checked: bool = known.checked(value, f"{known.dashed}={value}")
        return checked if on else not checked

    def _values(self, known: Option) -> list[str]:
        """Take the words that are the option's values."""
        count = 0
        while count < len(self.left) and not _is_option(self.left[count]):
            count += 1
        if not count:
            example = known.metavar if known.default is None else known.default
            like = f", such as {known.dashed} {example}" if _is_short(example) else ""
            raise OptionError(f"{known.dashed}: a value is missing{like}")
        count = count if known.several else 1
        taken, self.left = self.left[:count], self.left[count:]
        return taken

    def _value(self, known: Option, text: str) -> Any:
        if known.variable and text.isidentifier():
            text = f"{{{text}}}"
        try:
            value = self.expand(text)
        except OptionError as error:
            raise OptionError(f"{known.dashed} {error.message}") from None
        if value is None:
            return None
        shown = text if isinstance(value, str) and value == text else f"{text} ({value!r:.40})"
        return known.checked(value, f"{known.dashed} {shown}".rstrip())

    def _set(self, known: Option, value: Any) -> None:
        options = self.line.options
        if known.several and isinstance(value, dict):
            options[known.name] = {**options.get(known.name, {}), **value}
        elif known.several and value is not None:
            options[known.name] = (*options.get(known.name, ()), *value)
        elif known.name in options:
            raise OptionError(f"{known.dashed}: given twice")
        else:
            options[known.name] = value

    def _positional(self, word: str) -> None:
        value = self.expand(word)
        if isinstance(value, str) and value != word and value.startswith("--"):
            # A variable with options in it, as IPython would put it in.
            self.left = [*words(value), *self.left]
            return
        if len(self.line.words) < self.most:
            self.line.words.append(value)
            return
        raise OptionError(f"{word}: {self._instead(word)}")

    def _instead(self, word: str) -> str:
        if self.most:
            return f"%{self.magic} takes one name"
        only = f"{self.magic} takes only options; did you mean"
        name, equals, value = word.partition("=")
        names = [n for o in self.known for n in (o.name, *o.aliases)]
        if equals and name.replace("-", "_") in names:
            return f"{only} --{name} {value}?"
        if not equals and name.replace("-", "_") in names and self.left:
            return f"{only} --{name} {self.left[0]}?"
        if word.isdigit():
            return f"{only} --workers {word}?"
        return f"{only} --name {word}?" if word.isidentifier() else f"{only[:-14]}."


def _is_option(word: str) -> bool:
    """Tell options from values; a negative number is a value."""
    return bool(re.match(rf"(--|[{_LONG_DASHES}])\S|-[A-Za-z]", word))


def _is_short(example: Any) -> bool:
    return " " not in str(example)
