"""Frames between head, agent and trainer: a JSON header and a body of bytes.

A frame is the header's length (4 bytes, big endian), the body's length (8 bytes), the header,
the body. The decoder does no input or output, so that blocking sockets (trainers), asyncio
(head and agents) and tests use the same one.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Iterator
from typing import IO, Any

Header = dict[str, Any]

_LENGTHS = struct.Struct(">IQ")
MAX_HEADER = 16 << 20
MAX_BODY = 64 << 20
#: After how long without an answer of the other machine a connection to it is broken, in seconds.
#: A machine that dies closes nothing; without this the kernel waits for a quarter of an hour.
LOST_S = 30
#: Files are sent in bodies of this size, in bytes.
CHUNK = 4 << 20


class ProtocolError(Exception):
    """The other side does not speak this protocol."""


def encode(header: Header, body: bytes | memoryview = b"") -> list[bytes | memoryview]:
    """Return a frame as buffers, so that a big body is not copied."""
    text = json.dumps(header, default=str).encode()
    return [_LENGTHS.pack(len(text), len(body)) + text, body]


class Decoder:
    """Turns bytes that arrive in pieces of any size into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Header, bytes]]:
        """Yield the frames that are complete with `data`.

        Raises
        ------
        ProtocolError
            If a length is beyond all reason or a header is not a JSON object.
        """
        self._buffer += data
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> tuple[Header, bytes] | None:
        if len(self._buffer) < _LENGTHS.size:
            return None
        header_size, body_size = _LENGTHS.unpack_from(self._buffer)
        if header_size > MAX_HEADER or body_size > MAX_BODY:
            raise ProtocolError(f"a frame of {header_size} + {body_size} bytes")
        start = _LENGTHS.size + header_size
        end = start + body_size
        if len(self._buffer) < end:
            return None
        text = bytes(self._buffer[_LENGTHS.size : start])
        with memoryview(self._buffer) as view:
            body = bytes(view[start:end])
        del self._buffer[:end]
        return _header(text), body


def _header(text: bytes) -> Header:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a header that is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise ProtocolError("a header that is not a JSON object")
    return header


def notice_loss(writer: asyncio.StreamWriter) -> None:
    """Have the kernel break a connection off whose other machine is gone.

    A process that is stopped is not: its machine answers.
    """
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    wanted = {"KEEPIDLE": LOST_S // 2, "KEEPINTVL": LOST_S // 6, "KEEPCNT": 3}
    # The last one is for what was sent and not acknowledged.
    for name, value in {**wanted, "USER_TIMEOUT": LOST_S * 1000}.items():
        if number := getattr(socket, f"TCP_{name}", None):  # not all systems have them all
            connection.setsockopt(socket.IPPROTO_TCP, number, value)


class Channel:
    """A blocking connection; any thread may send, one receives."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._sending = threading.Lock()

    def send(self, header: Header, body: bytes | memoryview = b"") -> None:
        """Send one frame."""
        with self._sending:
            for part in encode(header, body):
                self.sock.sendall(part)

    def receive(self) -> Iterator[tuple[Header, bytes]]:
        """Yield frames until the other side closes."""
        decoder = Decoder()
        while data := self.sock.recv(1 << 20):
            yield from decoder.feed(data)


class AsyncChannel:
    """A connection in an event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._sending = asyncio.Lock()
        self.closed = False

    @classmethod
    async def of(cls, sock: socket.socket) -> AsyncChannel:
        """Return a channel over a connected stream socket."""
        sock.setblocking(False)
        return cls(*await asyncio.open_connection(sock=sock, limit=CHUNK * 2))

    async def send(self, header: Header, body: bytes | memoryview = b"") -> None:
        """Send one frame; waits while the other side reads slowly."""
        async with self._sending:
            self._writer.writelines(encode(header, body))
            await self._writer.drain()

    async def send_file(self, before: bytes, file: IO[bytes], size: int) -> None:
        """Send `before` and then a file's bytes, in no frame; the kernel copies them if it can."""
        async with self._sending:
            self._writer.write(before)
            await self._writer.drain()
            if size:
                loop = asyncio.get_running_loop()
                await loop.sendfile(self._writer.transport, file, 0, size)

    async def receive(self) -> Any:
        """Yield frames until the other side closes or breaks off."""
        decoder = Decoder()
        while True:
            try:
                data = await self._reader.read(1 << 20)
            except OSError:
                data = b""
            if not data:
                self.closed = True
                return
            for frame in decoder.feed(data):
                yield frame

    def close(self) -> None:
        """Close at once."""
        self.closed = True
        self._writer.close()
