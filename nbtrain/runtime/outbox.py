"""What an agent has to tell its head, kept until the head has taken it.

A head may die and come back while the trainers go on. What it had not taken is told again, in
order; a head knows what it has written down already.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from .wire import AsyncChannel, Header

#: How much is kept while there is no head, in bytes; what trainers say beyond that waits.
LIMIT = 1 << 30


class Outbox:
    """Numbers messages, keeps them, and sends them over whatever channel there is.

    Parameters
    ----------
    limit
        Bytes of messages that are kept before `put` waits.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._kept: deque[tuple[int, Header, bytes]] = deque()
        self._size = 0
        self._number = 0
        self._sent = 0  # the number of the last message that went over the present channel
        self._channel: AsyncChannel | None = None
        self._sending = asyncio.Lock()
        self._room = asyncio.Event()
        self._room.set()

    async def put(self, header: Header, body: bytes = b"") -> None:
        """Add a message; waits while the head takes none and the limit is reached."""
        await self._room.wait()
        self._number += 1
        self._kept.append((self._number, {**header, "n": self._number}, body))
        self._measure(len(body))
        await self._flush()

    async def pass_on(self, header: Header) -> None:
        """Send a message that is of use only now; without a head it is dropped."""
        if self._channel is not None:
            await self._try(self._channel, header)

    async def open(self, channel: AsyncChannel) -> None:
        """Send what is kept, and then all that comes, over a channel."""
        self._channel, self._sent = channel, 0
        await self._flush()

    def close(self) -> None:
        """Keep what comes from now on: there is no head."""
        self._channel = None

    def taken(self, number: int) -> None:
        """Forget the messages up to this number."""
        while self._kept and self._kept[0][0] <= number:
            self._measure(-len(self._kept.popleft()[2]))

    def _measure(self, change: int) -> None:
        self._size += change
        (self._room.set if self._size < self._limit else self._room.clear)()

    async def _flush(self) -> None:
        async with self._sending:
            while (channel := self._channel) is not None:
                item = self._next()
                if item is None:
                    return
                number, header, body = item
                if not await self._try(channel, header, body):
                    return
                if channel is self._channel:
                    self._sent = number

    def _next(self) -> tuple[int, Header, bytes] | None:
        """Return the first message that has not gone over the present channel."""
        if not self._kept or self._kept[-1][0] <= self._sent:
            return None
        first = self._kept[0][0]  # numbers have no gaps
        return self._kept[max(0, self._sent + 1 - first)]

    async def _try(self, channel: AsyncChannel, header: Header, body: Any = b"") -> bool:
        try:
            await channel.send(header, body)
        except (ConnectionError, RuntimeError):  # gone; the transport may be closed already
            if channel is self._channel:
                self.close()
            return False
        return True
