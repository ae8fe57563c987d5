"""The process of a zygote, begun before whoever starts it has imported anything else.

Importing TensorFlow takes longest of all that stands before a first step: what an agent itself
needs is imported beside it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys


def command(role: str, *arguments: object) -> list[str]:
    """Return the command line that runs a role of this runtime in a fresh interpreter.

    The runtime is run from where it is now: the zip it travels in, or its folder.
    """
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    isolated = ["-I"] if sys.flags.isolated else []
    return [sys.executable, *isolated, home, role, *map(str, arguments)]


def forks() -> bool:
    """Tell whether trainers are forked here; NBTRAIN_START_METHOD=spawn asks for the slow way."""
    default = "fork" if sys.platform == "linux" else "spawn"
    return os.environ.get("NBTRAIN_START_METHOD", default) == "fork"


def begin() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a zygote; return its process and the socket that it is asked through.

    To be called by the main thread: the kernel ties the parent-death signal to the thread.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            command("zygote", theirs.fileno(), os.getpid()),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
    return process, ours
