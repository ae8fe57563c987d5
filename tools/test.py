"""`make test`: all checks, then all tests; the last lines say what could not be run.

`--checks` runs the checks alone; other arguments are pytest's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

CHECKS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "the layers": ["lint-imports", "--no-cache"],
}


def main(arguments: list[str]) -> int:
    """Run the checks and the tests; return an exit status."""
    failed = [name for name, command in CHECKS.items() if not ran(name, command)]
    if "--checks" not in arguments:
        # A test run tells its own story, so its summary comes last.
        tests = ["pytest", *selection(), *arguments]
        if not ran("pytest", tests):
            failed.append("pytest")
    for line in left_out(arguments):
        print(f"NOT RUN: {line}")
    print(f"FAILED: {', '.join(failed)}" if failed else "All that was run has passed.")
    return 1 if failed else 0


def ran(name: str, command: list[str]) -> bool:
    """Run a command from the environment's own tools and tell whether it succeeded."""
    print(f"\n=== {name}", flush=True)
    began = time.monotonic()
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "PATH": f"{BIN}:{os.environ['PATH']}"}
    status = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, env=environment).returncode
    print(f"=== {name}: {'ok' if status == 0 else 'FAILED'} in {time.monotonic() - began:.0f} s")
    return status == 0


def selection() -> list[str]:
    """Return pytest's arguments that leave out the tests for CI where there is none."""
    return [] if os.environ.get("CI") else ["-m", "not full"]


def left_out(arguments: list[str]) -> list[str]:
    """Return in words what this machine or this way of calling left out."""
    missing: list[str] = []
    if "--checks" in arguments:
        return missing
    if selection():
        missing.append("tests marked `full`; `make test-full` runs them")
    if sys.platform != "linux":
        missing.append("forked trainers and what only Linux has (process groups, /proc)")
    return missing


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
