"""What of a cluster can be seen on this machine: nothing, once it is down."""

from __future__ import annotations

import json
from pathlib import Path

from . import cgroups, network
from .daemon import MARK
from .paths import STATE
from .shell import run


def found() -> list[str]:
    """Return every trace, in words."""
    return [*_processes(), *_mounts(), *_links(), *_rules(), *_cgroups(), *_files()]


def pids() -> list[int]:
    """Return the processes that were started by a boot, or by one that was."""
    mark = f"{MARK}={STATE}".encode()
    entries = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [int(entry.name) for entry in entries if mark in _read(entry / "environ")]


def _processes() -> list[str]:
    lines = [_read(Path(f"/proc/{pid}/cmdline")).replace(b"\0", b" ").decode() for pid in pids()]
    return [f"process {line}" for line in lines if line]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


def _mounts() -> list[str]:
    mounts = Path("/proc/mounts").read_text("utf-8").splitlines()
    return [f"mount {line}" for line in mounts if str(STATE) in line]


def _links() -> list[str]:
    names = [link["ifname"] for link in json.loads(run("ip", "-json", "link"))]
    return [f"link {name}" for name in names if name.startswith("nbtrain")]


def _rules() -> list[str]:
    rules = run("iptables-save").splitlines()
    return [f"iptables {rule}" for rule in rules if network.COMMENT in rule]


def _cgroups() -> list[str]:
    return [f"cgroup {path}" for path in cgroups.found()]


def _files() -> list[str]:
    return [f"folder {STATE}"] if STATE.exists() else []
