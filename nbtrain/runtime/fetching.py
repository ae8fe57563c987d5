"""A file on its way from the head's run directory to an agent on another machine.

It comes over a connection of its own, so that nothing else waits for it, and plainly: a request
(one frame with the token and the path), then its length (8 bytes, big endian) and its bytes, which
the head's kernel sends without any of them passing through Python.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import struct
from pathlib import Path
from typing import Any

from .wire import AsyncChannel, encode

_LENGTH = struct.Struct(">Q")
#: What is received at once, in bytes.
_PIECE = 1 << 20


async def send(channel: AsyncChannel, path: Path) -> None:
    """Send a file; a receiver to which it does not come whole knows by the length.

    Raises
    ------
    OSError
        If there is no such file, or the connection breaks off.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        await channel.send_file(_LENGTH.pack(size), file, size)


async def fetch(head: Any, token: str, name: str, target: Path) -> str:
    """Copy a file of the run directory to `target`, and return its SHA-256.

    Parameters
    ----------
    head
        The address of the head, as sockets have it.

    Raises
    ------
    OSError
        If it does not come, or not all of it.
    """
    loop = asyncio.get_running_loop()
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_PIECE))
    family = socket.AF_INET6 if ":" in head[0] else socket.AF_INET
    with socket.socket(family) as sock, target.open("wb", buffering=0) as file:
        sock.setblocking(False)
        await loop.sock_connect(sock, head)
        request = encode({"is": "get", "token": token, "path": name})
        await loop.sock_sendall(sock, b"".join(request))
        left = await _length(sock)
        while left:
            count = await loop.sock_recv_into(sock, buffer)
            if not count:
                raise OSError(f"the head went away while {name} was on its way")
            left -= count
            digest.update(buffer[:count])
            _write(file, buffer[:count])
            await asyncio.sleep(0)  # others have a turn, also while it comes fast
    return digest.hexdigest()


async def _length(sock: socket.socket) -> int:
    got = b""
    while len(got) < _LENGTH.size:
        data = await asyncio.get_running_loop().sock_recv(sock, _LENGTH.size - len(got))
        if not data:
            raise OSError("the head does not send the file")
        got += data
    return int(_LENGTH.unpack(got)[0])


def _write(file: Any, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]
