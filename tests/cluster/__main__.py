"""`python -m tests.cluster COMMAND`: the test cluster by hand."""

from __future__ import annotations

import argparse
import shutil
import sys
import time

from . import access, binaries, lifecycle, machine, objects, traces, up
from .paths import CACHE
from .shell import ClusterError


def _up() -> int:
    began = time.monotonic()
    booted = up()
    seconds = time.monotonic() - began
    print(f"booted in {seconds:.1f} s" if booted else "a cluster is up: it is used")
    return _env()


def _down() -> int:
    lifecycle.down()
    print("nothing of the cluster is left; its binaries and images are kept in", CACHE)
    return 0


def _status() -> int:
    if not lifecycle.is_up():
        dead = ", ".join(lifecycle.dead()) if traces.found() else ""
        print(f"the cluster is broken: {dead} not alive" if dead else "no cluster is up")
        return 1
    print("Ready:", ", ".join(sorted(objects.nodes_ready())))
    return 0


def _env() -> int:
    print(f"export KUBECONFIG={access.kubeconfig()}")
    return 0


def _build() -> int:
    print(binaries.build())
    return 0


def _install() -> int:
    if machine.install():
        print("a Docker engine has been started; its log:", machine.ENGINE.log)
    return 0


def _lacking() -> int:
    problems = machine.lacking()
    print("\n".join(problems) or "this machine can hold the cluster")
    return 1 if problems else 0


def _clean() -> int:
    lifecycle.down()
    shutil.rmtree(CACHE, ignore_errors=True)
    return 0


COMMANDS = {
    "up": (_up, "boot it, or say that it is up"),
    "down": (_down, "end it and leave nothing behind"),
    "status": (_status, "say whether it is up"),
    "env": (_env, "print what makes kubectl use it"),
    "build": (_build, "build its binaries, which `up` does too"),
    "install": (_install, "install Debian's packages that are missing; start a Docker engine"),
    "lacking": (_lacking, "say what this machine lacks"),
    "clean": (_clean, "end it and forget binaries and images, too"),
}


def main(arguments: list[str]) -> int:
    """Carry out a command and return an exit status."""
    about = "\n".join(f"  {name:8} {text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster",
        description=f"{__doc__}\n\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("--install", action="store_true", help="first what `install` does")
    chosen = parser.parse_args(arguments)
    function, _ = COMMANDS[chosen.command]
    try:
        if chosen.install:
            _install()
        return function()
    except ClusterError as error:
        print(f"nbtrain's test cluster: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
