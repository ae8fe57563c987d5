"""Values of options: from what a person writes, or a notebook variable holds, to what is used.

Each parser takes text or a value, returns the value, and raises ValueError that ends the sentence
"--epochs five: …".
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import itertools
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Parser = Callable[[Any], Any]

#: More than anyone means, and what TensorFlow's own 32-bit counters hold.
LARGEST = 2**31 - 1
#: More epochs than anyone lists one by one.
_LISTED = 10_000

_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that `name` may have been meant to be, or an empty string."""
    by_lower = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), by_lower, 1)
    return by_lower[near[0]] if near else ""


def whole(low: int, high: int = LARGEST) -> Parser:
    """Return a parser of whole numbers from `low` to `high`."""
    span = f"a whole number of at least {low}" if high == LARGEST else f"from {low} to {high}"

    def parse(value: Any) -> int:
        number = _whole(value)
        if number is None:
            raise ValueError("must be a whole number")
        if not low <= number <= high:
            raise ValueError(f"must be {span}")
        return number

    return parse


def _whole(value: Any) -> int | None:
    if _is_bool(value):
        return None
    try:
        return int(value) if isinstance(value, str) else operator.index(value)
    except (TypeError, ValueError):
        return None


def _is_bool(value: Any) -> bool:
    # NumPy's bool is no subclass of bool, and some versions take it as an index.
    return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")


def fraction(value: Any) -> float:
    """Parse a number from 0 to 1, without 1."""
    number = _number(value)
    if number is None or not 0 <= number < 1:
        raise ValueError("must be a number from 0 to below 1, such as 0.2")
    return number


def _number(value: Any) -> float | None:
    if _is_bool(value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def flag(value: Any) -> bool:
    """Parse a switch: a bool, or one of the words for it."""
    if _is_bool(value):
        return bool(value)
    word = str(value).strip().lower()
    if word in _YES or word in _NO:
        return word in _YES
    raise ValueError("must be true or false")


def flag_or_auto(value: Any) -> bool | str:
    """Parse a switch that nbtrain can set itself."""
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    try:
        return flag(value)
    except ValueError:
        raise ValueError("must be true, false or auto") from None


def seconds(value: Any) -> float:
    """Parse a length of time: a number of seconds, or text such as 30s, 5m, 1.5h."""
    number = _number(value)
    if number is None and isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", value.strip().lower())
        if match and match[2] in _UNITS:
            number = _number(float(match[1]) * _UNITS[match[2]])
    if number is None or number <= 0:
        raise ValueError("must be a length of time, such as 30s, 5m or 1h")
    return number


def checkpoints(value: Any) -> str | float:
    """Parse how often checkpoints are made: "epoch", "100 steps" or a number of seconds."""
    text = value.strip().lower() if isinstance(value, str) else ""
    if text in ("epoch", "epochs"):
        return "epoch"
    if match := re.fullmatch(r"0*([1-9]\d{0,8})\s*steps?", text):
        return f"{match[1]} steps"
    if not re.fullmatch(r"[\d.]+", text):  # 100 of what?
        with contextlib.suppress(ValueError):
            return seconds(value)
    raise ValueError("must be epoch, a number of steps such as 100steps, or a time such as 5m")


_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BYTES |= {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def memory(value: Any) -> int:
    """Parse a quantity of memory as Kubernetes writes it, such as 512Mi, 4Gi or 4G; bytes."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([kmgt]i?)?b?", str(value).strip().lower())
    size = int(float(match[1]) * _BYTES[match[2] or ""]) if match else 0
    if _is_bool(value) or size < 2**20:
        raise ValueError("must be an amount of memory, such as 2Gi")
    return size


def word(value: Any) -> str:
    """Parse a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be text")
    return value.strip()


def address(value: Any) -> str:
    """Parse a URL, or a folder of this machine, which becomes one."""
    import os
    from pathlib import Path

    text = word(os.fspath(value) if isinstance(value, os.PathLike) else value)
    if "://" not in text:
        return Path(text).expanduser().absolute().as_uri()
    scheme, _, rest = text.partition("://")
    if not scheme.isalnum() or not rest.strip("/"):
        raise ValueError("must be an address such as s3://bucket/folder")
    return text


def one_of(*choices: str, refused: Mapping[str, str] | None = None) -> Parser:
    """Return a parser of one of `choices`; `refused` says why some others are not among them."""

    def parse(value: Any) -> str:
        given = _dashed(value) if isinstance(value, str) else ""
        if given in choices:
            return given
        if refused and given in refused:
            raise ValueError(refused[given])
        near = nearest(given, choices)
        hint = f"; did you mean {near}?" if near and len(choices) > 1 else ""
        raise ValueError(f"must be {' or '.join(choices)}{hint}")

    return parse


def _dashed(text: str) -> str:
    """Return the form with dashes: MultiWorkerMirroredStrategy is multi-worker-mirrored."""
    text = re.sub(r"(?<=[A-Za-z])(?=[A-Z][a-z])", "-", text.strip()).replace("_", "-").lower()
    return text.removesuffix("-strategy")


def name(value: Any) -> str:
    """Parse a run's name: a variable's name that a Kubernetes name can be made of."""
    import keyword

    if isinstance(value, str) and keyword.iskeyword(value):
        raise ValueError("is a word of the Python language; take another name")
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", value):
        raise ValueError(
            "a name becomes a variable: it must be of letters, digits and underscores, and begin"
            " with a letter" + _suggestion(value)
        )
    if len(value) > 40:
        raise ValueError("must not be longer than 40 characters")
    return value


def _suggestion(value: Any) -> str:
    fitting = re.sub(r"[^A-Za-z0-9]+", "_", str(value)).strip("_")[:40]
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", fitting):
        return f", such as {fitting}"
    return ""


def paths(value: Any) -> tuple[str, ...]:
    """Parse files and folders: one, or several."""
    import os

    values = [value] if isinstance(value, str | os.PathLike) else value
    try:
        found = tuple(os.fspath(path) for path in values)
    except TypeError:
        raise ValueError("must be the names of files or folders") from None
    if not all(isinstance(path, str) and path for path in found):
        raise ValueError("must be the names of files or folders")
    return found


def class_weights(value: Any) -> dict[int, float]:
    """Parse weights by class number, `{0: 1.0, 1: 5.0}`."""
    if isinstance(value, str):
        value = _literal(value)
    if not isinstance(value, Mapping) or not value:
        raise ValueError("must be a dict of weights by class number, such as {0: 1.0, 1: 5.0}")
    weights: dict[int, float] = {}
    for key, weight in value.items():
        number, factor = _whole(key), _number(weight)
        if number is None or number < 0:
            raise ValueError(f"{key!r} is not the number of a class")
        if factor is None or factor < 0:
            raise ValueError(f"{weight!r} is not a weight; weights are numbers of at least 0")
        weights[number] = factor
    return weights


def _literal(text: str) -> Any:
    import warnings

    try:
        with warnings.catch_warnings():
            # "1is 2" and the like make Python's own parser warn.
            warnings.simplefilter("ignore")
            return ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def epochs_list(value: Any) -> int | list[int]:
    """Parse Keras' `validation_freq`: every so many epochs, or a list of epochs."""
    if isinstance(value, str) and "," in value:
        value = value.strip("[]() ").split(",")
    if isinstance(value, Iterable) and not isinstance(value, str):
        # More than can be meant, and no more: it may be a range without an end in sight.
        numbers = [_whole(item) for item in itertools.islice(value, _LISTED + 1)]
    else:
        numbers = [_whole(value)]
    found = [number for number in numbers if number is not None and 1 <= number <= LARGEST]
    if not found or len(found) != len(numbers) or len(found) > _LISTED:
        raise ValueError("must be a whole number of at least 1, or a list of epochs such as 1,5,10")
    single = not isinstance(value, Iterable) or isinstance(value, str)
    return found[0] if single else found


def verbosity(value: Any) -> int | str:
    """Parse Keras' `verbose`."""
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    number = _whole(value)
    if number not in (0, 1, 2):
        raise ValueError("must be auto, 0, 1 or 2")
    return number
