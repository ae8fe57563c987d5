"""Bytes on their way: how many of how many have come, how fast, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from .formats import left, size

#: A transfer is told of when it takes longer than this, in seconds.
SHOWN_S = 1.0


class Transfer:
    """Something big that is sent or read.

    Parameters
    ----------
    doing
        Such as "sending the functions and data".
    clock
        Gives seconds.
    """

    def __init__(self, doing: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._doing, self._clock = doing, clock
        self._began = clock()

    @property
    def slow(self) -> bool:
        """Whether it takes so long that it is worth telling."""
        return self._clock() - self._began > SHOWN_S

    def said(self, done: int, total: int) -> str:
        """Return how far it is; `total` is 0 where it is not known.

        >>> times = iter([0, 2])
        >>> Transfer("reading model.keras", lambda: next(times)).said(50_000_000, 200_000_000)
        'reading model.keras: 50.0 MB of 200 MB, 25.0 MB/s, 6 s left'
        """
        rate = done / max(self._clock() - self._began, 1e-3)
        of = f" of {size(total)}" if total else ""
        parts = [f"{self._doing}: {size(done)}{of}"]
        if done:
            parts.append(f"{size(rate)}/s")
        if done and total > done:
            parts.append(f"{left((total - done) / rate)} left")
        return ", ".join(parts)


def watched(
    pieces: Iterable[bytes],
    transfer: Transfer,
    tell: Callable[[str], None],
    total: Callable[[], int] = lambda: 0,
) -> Iterator[bytes]:
    """Yield pieces, and tell how far they are from when it takes long.

    `total` is called once, and only then.
    """
    done, known = 0, None
    for piece in pieces:
        done += len(piece)
        yield piece
        if transfer.slow:
            known = total() if known is None else known
            tell(transfer.said(done, known))
