"""Numbers, durations and text as reports write them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable

# All controls but the line's end and the tab: terminals obey them, and HTML does not allow them.
_CONTROLS = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]"
)


def clean(text: object) -> str:
    """Return text without control characters and terminal colours."""
    return _CONTROLS.sub("", str(text).replace("\r\n", "\n")).expandtabs(4)


def one_line(text: object) -> str:
    """Return the first line of text that has anything in it."""
    return next((line.strip() for line in clean(text).splitlines() if line.strip()), "")


def duration(seconds: float | None) -> str:
    """Return a duration in at most two units: "8 s", "2 min 10 s", "3 h 5 min".

    >>> duration(130)
    '2 min 10 s'
    """
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s" if seconds >= 0.05 else "0 s"
    whole = max(round(seconds), 0)
    for size, unit, small, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {unit}" + (f" {rest} {below}" if rest else "")
    if whole >= 60:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole} s"


def left(seconds: float) -> str:
    """Return a rough duration, of an estimate that is not to jump: "8 s", "2 min", "1 h 20 min"."""
    if seconds < 100:
        return f"{max(math.ceil(seconds), 0)} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return duration(round(seconds / 600) * 600)


def size(count: float) -> str:
    """Return a number of bytes: "1.2 GB".

    >>> size(1_234_567_890)
    '1.2 GB'
    """
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 99.95 else f"{value:.1f} {unit}"


def count(value: float) -> str:
    """Return a whole number with its thousands set apart."""
    return f"{value:,.0f}" if math.isfinite(value) else "–"


def rate(value: float) -> str:
    """Return examples or steps per second, to three digits: 1,240; 45.3; 0.512."""
    if not math.isfinite(value):
        return "–"
    if value >= 1000:
        return count(float(f"{value:.2e}"))
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def number(value: object) -> str:
    """Return a loss or a metric to four significant digits, always as wide for its size.

    >>> number(0.98123), number(2.5), number(12345.6), number(1e-7)
    ('0.9812', '2.500', '1.235e+04', '1.000e-07')
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return clean(value)
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "∞" if value > 0 else "−∞"
    magnitude = abs(value)
    if value == 0:
        return "0.0000"
    if magnitude >= 9999.5 or magnitude < 0.0001:
        return f"{value:.3e}"
    if magnitude < 1:
        return f"{value:.4f}"
    return f"{value:.{3 - math.floor(math.log10(magnitude))}f}"


def plural(count: int, noun: str) -> str:
    """Return "1 worker", "2 workers"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(numbers: Iterable[int]) -> str:
    """Return numbers with neighbours drawn together: "0, 2–5, 9"."""
    ordered = sorted(set(numbers))
    spans: list[list[int]] = []
    for n in ordered:
        if spans and spans[-1][1] == n - 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    return ", ".join(
        f"{a}" if a == b else f"{a}, {b}" if b == a + 1 else f"{a}–{b}" for a, b in spans
    )


# -- widths, for terminals ----------------------------------------------------------------------


def cells(text: str) -> int:
    """Return how many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(_cell(c) for c in text)


def cut(text: str, width: int) -> str:
    """Return text that takes at most `width` columns, with an ellipsis where it was cut."""
    if cells(text) <= width:
        return text
    taken, used = [], 0
    for c in text:
        if used + _cell(c) > width - 1:
            break
        taken.append(c)
        used += _cell(c)
    return "".join(taken).rstrip() + "…" if width > 0 else ""


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Return the lines of text, broken between words where there are some, after `indent`."""
    room = max(width - cells(indent), 1)
    lines = [piece for line in clean(text).splitlines() for piece in _broken(line, room)]
    return [indent + line for line in lines]


def _broken(line: str, room: int) -> list[str]:
    pieces = []
    while cells(line) > room:
        head, used = 0, 0
        while head < len(line) and used + _cell(line[head]) <= room:
            used += _cell(line[head])
            head += 1
        head = max(head, 1)
        space = line.rfind(" ", room // 2, head + 1)
        at = space if space > 0 else head
        pieces.append(line[:at].rstrip())
        line = line[at:].lstrip() if space > 0 else line[at:]
    return [*pieces, line]


def _cell(c: str) -> int:
    if unicodedata.combining(c) or unicodedata.category(c) in ("Cf", "Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1
