"""A user's traceback: their own frames whole, runs of library frames in one line."""

from __future__ import annotations

import itertools
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable

#: A message longer than this is cut in the middle; TensorFlow's can fill pages. Characters.
LONGEST = 4000
_HEADER = "Traceback (most recent call last):\n"

# The second is what the compiled code in the runtime zip names.
_OWN = (os.path.dirname(os.path.abspath(__file__)), "runtime.zip/nbtrain_runtime")
_LIBRARIES = tuple(
    {sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_PEER = re.compile(
    r"collective|peer|heartbeat|socket closed|connection re|rpc|/job:worker|coordination",
    re.IGNORECASE,
)
#: What TensorFlow says where workers meet in a collective operation that is not the same one for
#: all (tensorflow/core/common_runtime/collective_param_resolver_local.cc).
_APART = re.compile(
    r"collective instance \d+ expected type|mismatch in the collective instance", re.IGNORECASE
)
#: Keras prints parts of its messages in bold.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_PEER_TYPES = ("UnavailableError", "AbortedError", "InternalError", "CancelledError",
               "DeadlineExceededError", "FailedPreconditionError", "OutOfRangeError")  # fmt: skip


def text(error: BaseException) -> str:
    """Return the traceback of an error as a user wants to read it.

    nbtrain's own frames are left out, those of libraries (Keras, TensorFlow, ...) are counted.
    Notes and causes are kept.
    """
    parts = []
    for one in reversed(list(chain(error))):
        summary = traceback.TracebackException.from_exception(one)
        frames = _frames(summary.stack)
        if frames:
            parts.append(_HEADER + "".join(frames))
        parts.append(_cut("".join(summary.format_exception_only())))
    return "".join(parts)


def message(error: BaseException) -> str:
    """Return the error's type and text, without a traceback."""
    summary = traceback.TracebackException.from_exception(error)
    return _cut("".join(summary.format_exception_only()).strip())


def cause(error: BaseException) -> str:
    """Return why a trainer failed, one of `events.CAUSES`."""
    from .errors import Refused, VersionMismatch

    if isinstance(error, VersionMismatch):
        return "version"
    if isinstance(error, Refused):
        return "refused"
    name = type(error).__name__
    if isinstance(error, MemoryError) or name == "ResourceExhaustedError":
        return "memory"
    if name in _PEER_TYPES and _APART.search(str(error)):
        return "apart"
    if name in _PEER_TYPES and _PEER.search(str(error)):
        return "lost"
    return "user"


def has_own_frames(text: str) -> bool:
    """Tell whether a traceback that `text` has made shows code of the user's."""
    _, _, shown = text.rpartition(_HEADER)
    frames = itertools.takewhile(lambda line: line.startswith("  "), shown.splitlines())
    return any(frame.startswith("  File ") for frame in frames)


def chain(error: BaseException) -> Iterable[BaseException]:
    """Yield an error and those that it came from."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _frames(stack: traceback.StackSummary) -> list[str]:
    shown = [f for f in stack if not f.filename.startswith(_OWN)]
    # Frames above the user's first one are nbtrain's call into Keras: of no interest.
    lines: list[str] = []
    for library, group in itertools.groupby(shown, key=lambda f: _library(f.filename)):
        frames = list(group)
        if library is None:
            lines += traceback.StackSummary.from_list(frames).format()
        else:
            count = f"{len(frames)} frame{'s' * (len(frames) > 1)}"
            lines.append(f"  … {count} in {library}\n")
    return lines


def _library(filename: str) -> str | None:
    """Return the name of the library that a file belongs to; None for the user's own."""
    path = os.path.abspath(filename)
    for home in _LIBRARIES:
        if path.startswith(home + os.sep):
            first = path[len(home) + 1 :].split(os.sep)
            name = first[1] if first[0] in ("site-packages", "dist-packages") else first[0]
            return name.removesuffix(".py")
    if filename.startswith("<frozen") or filename == "<string>":
        return "python"
    if ".zip" + os.sep in path and path.startswith(sys.path[0]):
        return "nbtrain"
    return None


def _cut(whole: str) -> str:
    whole = _COLOURS.sub("", whole)
    if len(whole) <= LONGEST:
        return whole
    half = LONGEST // 2
    left = len(whole) - 2 * half
    return f"{whole[:half]}\n… {left} characters left out …\n{whole[-half:]}"
