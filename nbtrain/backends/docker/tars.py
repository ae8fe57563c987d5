"""Files on their way into a volume: the engine takes them as a tar archive."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ...backend import Sent, untold
from .specs import USER

#: What is read at once, in bytes.
CHUNK = 4 << 20


def packed(
    files: Mapping[str, bytes | Path], folder: str = "", sent: Sent = untold
) -> Iterator[bytes]:
    """Yield an archive of files for the user of the containers, who alone can read them.

    They go into `folder`, which is made for that user as well. `sent` is told of those that are
    files here, each by itself.
    """
    if folder:
        entry = tarfile.TarInfo(folder)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o700
        yield _header(entry)
    for name, content in files.items():
        entry = tarfile.TarInfo(f"{folder}/{name}" if folder else name)
        entry.mode = 0o400 if isinstance(content, bytes) else 0o600
        entry.size = len(content) if isinstance(content, bytes) else content.stat().st_size
        yield _header(entry)
        yield from _padded(content, entry.size, sent)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _header(entry: tarfile.TarInfo) -> bytes:
    entry.uid = entry.gid = USER
    return entry.tobuf(tarfile.GNU_FORMAT)


def _padded(content: bytes | Path, size: int, sent: Sent) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
    else:
        with content.open("rb") as file:
            while data := file.read(CHUNK):
                yield data
                sent(file.tell(), size)
    yield bytes(-size % tarfile.BLOCKSIZE)
