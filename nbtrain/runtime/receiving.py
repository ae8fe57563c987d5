"""Taking in a file that is sent to a run: from an HTTP request, or from the standard input."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from typing import IO

from .errors import Corrupt
from .rundir import RunDir

#: What is read at once, in bytes.
CHUNK = 1 << 20


def receive(rundir: RunDir, name: str, source: IO[bytes], size: int, sha256: str) -> None:
    """Write `size` bytes of `source` to a file of the run directory, whole or not at all.

    Raises
    ------
    Corrupt
        If there are fewer bytes, or they have another SHA-256.
    """
    digest = hashlib.sha256()
    left = size
    with rundir.replacing(name, durable=True) as file:
        while left:
            data = source.read(min(left, CHUNK))
            if not data:
                raise Corrupt(f"{name}: {size - left:,} of {size:,} bytes came")
            file.write(data)
            digest.update(data)
            left -= len(data)
        if digest.hexdigest() != sha256.lower():
            raise Corrupt(f"{name} did not arrive as it was sent (its SHA-256 differs)")


def main(argv: list[str]) -> int:
    """Write the standard input to a file of a run directory.

    Its size is given, since not every way into a container can say that the input has ended.
    """
    parser = argparse.ArgumentParser(prog="receive")
    parser.add_argument("rundir", type=Path)
    parser.add_argument("name", choices=[RunDir.PAYLOAD])
    parser.add_argument("sha256")
    parser.add_argument("size", type=int)
    options = parser.parse_args(argv)
    rundir = RunDir(options.rundir)
    rundir.create()
    try:
        receive(rundir, options.name, sys.stdin.buffer, options.size, options.sha256)
    except (Corrupt, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
