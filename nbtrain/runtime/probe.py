"""What a pod sees around it, for `nbtrain doctor --probe`.

probe listen PORT                     accept connections until it is ended
probe connect HOST:PORT ...           connect to each; the result is JSON
probe connect --refused HOST:PORT     the same, expecting to be kept out
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .versions import versions

#: Where a container leaves a message that the API shows with the pod: no log has to be read.
MESSAGE = Path("/dev/termination-log")
#: How long one attempt to connect may take, and until the next one, in seconds.
TRY_S, PAUSE_S = 2.0, 0.3
#: How long what is expected may take to come about, in seconds: a Service's name and a
#: NetworkPolicy take a moment until all nodes know them.
PATIENCE_S = 15.0
#: How long a package may take to come, in seconds.
PACKAGE_S = 120.0
#: What an answer tells of a problem, in characters: a container's message holds 4096 bytes.
_LONGEST = 300


def main(argv: list[str]) -> int:
    """Listen, or connect and write down how it went."""
    parser = argparse.ArgumentParser(prog="probe")
    roles = parser.add_subparsers(dest="role", required=True)
    roles.add_parser("listen").add_argument("port", type=int)
    connecting = roles.add_parser("connect")
    connecting.add_argument("addresses", nargs="+", metavar="HOST:PORT")
    connecting.add_argument("--refused", action="store_true")
    connecting.add_argument("--package", default="", help="a requirement to download")
    connecting.add_argument("--result", type=Path, default=MESSAGE)
    options = parser.parse_args(argv)
    if options.role == "listen":
        listen(options.port)
    found: dict[str, Any] = {"versions": versions()}
    found["tries"] = [connect(a, expected=not options.refused) for a in options.addresses]
    if options.package:
        found["package"] = download(options.package)
    options.result.write_text(json.dumps(found), "utf-8")
    return 0


def listen(port: int) -> None:
    """Accept connections, for ever."""
    with socket.create_server(("0.0.0.0", port)) as server:
        while True:
            server.accept()[0].close()


def connect(
    address: str, *, expected: bool = True, patience_s: float = PATIENCE_S
) -> dict[str, str]:
    """Try to connect until it succeeds (or, where it is not expected to, fails), or for a while.

    Returns
    -------
    dict
        `ip`, empty where the name is not known, and `problem`, empty where it was connected.
    """
    deadline = time.monotonic() + patience_s
    while True:
        found = _attempt(address)
        if (not found["problem"]) == expected or time.monotonic() > deadline:
            return found
        time.sleep(PAUSE_S)


def _attempt(address: str) -> dict[str, str]:
    host, _, port = address.rpartition(":")
    ip = ""
    try:
        ip = str(socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][4][0])
        socket.create_connection((ip, int(port)), TRY_S).close()
    except OSError as error:
        return {"ip": ip, "problem": str(error)[:_LONGEST] or type(error).__name__}
    return {"ip": ip, "problem": ""}


def download(requirement: str) -> str:
    """Download a package as pods without an image of their own do; return what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir"]
        command += ["--disable-pip-version-check", "--no-input", "--quiet", "--dest", folder]
        try:
            done = subprocess.run(
                [*command, requirement], capture_output=True, text=True, timeout=PACKAGE_S
            )
        except subprocess.TimeoutExpired:
            return f"{requirement} did not come within {PACKAGE_S:g} s"
    if done.returncode == 0:
        return ""
    complaints = done.stderr.strip().splitlines() or [f"pip ended with {done.returncode}"]
    return complaints[-1][:_LONGEST]
