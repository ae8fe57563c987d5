"""A file on its way through something that may break: frames, and a seal at their end.

A frame is a length (4 bytes, big endian) and so many bytes; one of no bytes says "still there". The
seal is the length 2**32 - 1 and the SHA-256 of all data before it. Without it the file was cut
off, so a reader knows the end of a file from the end of a connection.
"""

from __future__ import annotations

import functools
import hashlib
import struct
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from .errors import Corrupt

_LENGTH = struct.Struct(">I")
_SEAL = 2**32 - 1
_SEALED = hashlib.sha256().digest_size
#: The largest frame that a reader believes in, in bytes.
LARGEST = 64 << 20
#: At least so often comes a frame while a file is followed, in seconds.
HEARTBEAT_S = 1.0


class _Digest:
    """A SHA-256 of much data, computed in a thread beside what else is done with it.

    It takes about as long as decrypting the data does; `hashlib` lets other threads run meanwhile.
    """

    #: The first bytes are not worth a thread; so many.
    SMALL = 1 << 22
    #: Pieces that may wait to be taken in.
    WAITING = 8

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._waiting: deque[Future[None]] = deque()

    def update(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size < self.SMALL:
            self._sha256.update(piece)
            return
        if len(self._waiting) == self.WAITING:
            self._waiting.popleft().result()
        self._waiting.append(_beside().submit(self._sha256.update, piece))

    def digest(self) -> bytes:
        while self._waiting:
            self._waiting.popleft().result()
        return self._sha256.digest()


@functools.cache
def _beside() -> ThreadPoolExecutor:
    """Return the thread: one, so that pieces are taken in in their order."""
    return ThreadPoolExecutor(1, "nbtrain-sha256")


def framed(pieces: Iterable[bytes], known: bytes | None = None) -> Iterator[bytes]:
    """Yield pieces as frames; of the empty ones, which a followed file has many of, only some.

    `known` is the SHA-256 of them all, where it need not be computed.
    """
    digest = _Digest()
    spoke = time.monotonic()
    for piece in pieces:
        now = time.monotonic()
        if not piece and now - spoke < HEARTBEAT_S:
            continue
        spoke = now
        if known is None:
            digest.update(piece)
        yield _LENGTH.pack(len(piece))
        if piece:
            yield piece
    yield _LENGTH.pack(_SEAL) + (known or digest.digest())


def framed_size(size: int, piece: int) -> int:
    """Return how many bytes `framed` makes of `size` bytes that come in pieces of `piece` each."""
    frames = -(-size // piece)
    return size + _LENGTH.size * (frames + 1) + _SEALED


class Unframer:
    """Turns bytes that arrive in pieces of any size back into those of the file.

    Attributes
    ----------
    sealed : bool
        All of it has come, and is what was sent.
    """

    def __init__(self) -> None:
        self.sealed = False
        self._digest = _Digest()
        self._header = b""
        self._left = 0  # of the frame that is on its way

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what of the file is in `data`; an empty piece for a frame that has none.

        Raises
        ------
        Corrupt
            If this is not what `framed` makes, or the seal is not that of the data.
        """
        view = memoryview(data)
        while view and not self.sealed:
            if self._left:
                # What came in one piece and belongs to one frame is not copied.
                is_whole = len(data) == len(view) <= self._left
                piece = data if is_whole else bytes(view[: self._left])
                view = view[len(piece) :]
                self._left -= len(piece)
                self._digest.update(piece)
                yield piece
                continue
            view = self._take_header(view)
            if not self._header and not self._left and not self.sealed:
                yield b""
        if view:
            raise Corrupt("there is more than was sent")

    def _take_header(self, view: memoryview) -> memoryview:
        """Take of the header what there is; once it is whole, begin what it says."""
        needed = _LENGTH.size
        if self._header[:needed] == _LENGTH.pack(_SEAL):
            needed += _SEALED
        taken = bytes(view[: needed - len(self._header)])
        self._header += taken
        if len(self._header) == needed:
            self._begin()
        return view[len(taken) :]

    def _begin(self) -> None:
        (length,) = _LENGTH.unpack_from(self._header)
        if length == _SEAL:
            if len(self._header) == _LENGTH.size:
                return  # the digest comes next
            if self._header[_LENGTH.size :] != self._digest.digest():
                raise Corrupt("it did not arrive as it was sent (its SHA-256 differs)")
            self.sealed = True
        elif length > LARGEST:
            raise Corrupt(f"a frame of {length:,} bytes")
        self._left = 0 if length == _SEAL else length
        self._header = b""
