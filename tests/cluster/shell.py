"""Commands of the machine, run so that what went wrong can be read."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

#: How much of a failed command's output an error repeats.
TAIL_LINES = 15


class ClusterError(Exception):
    """The test cluster could not do what was asked; the message says why and what to do."""


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """Run a command to its end and return what it printed."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ClusterError(f"{words[0]} is not installed: `make cluster` says how") from error
    if done.returncode:
        said = tail(done.stdout + done.stderr)
        raise ClusterError(f"`{' '.join(words)}` failed with status {done.returncode}:\n{said}")
    return done.stdout


def succeeds(*command: str | Path) -> bool:
    """Tell whether a command runs and succeeds; what it prints is dropped."""
    try:
        return not subprocess.run([str(word) for word in command], capture_output=True).returncode
    except OSError:
        return False


def pipe(source: Sequence[str | Path], sink: Sequence[str | Path]) -> str:
    """Run `source | sink` and return what the sink printed."""
    left, right = [[str(word) for word in command] for command in (source, sink)]
    with subprocess.Popen(left, stdout=subprocess.PIPE) as process:
        done = subprocess.run(
            right, stdin=process.stdout, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    if process.returncode or done.returncode:
        raise ClusterError(f"`{' '.join(left)} | {' '.join(right)}` failed:\n{tail(done.stdout)}")
    return done.stdout


def tail(text: str) -> str:
    """Return the last lines of a text."""
    return "\n".join(text.strip().splitlines()[-TAIL_LINES:])
