"""What the cluster and the tests with a browser need of a machine, and how a machine gets it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from . import access
from .daemon import Daemon, until
from .node import cni_plugins
from .paths import CACHE
from .shell import ClusterError, run, succeeds

#: A program or file of each Debian package that has to be there.
PACKAGES = {
    "docker.io": "dockerd",
    "containerd": "containerd",
    "runc": "runc",
    "docker-registry": "docker-registry",
    "debootstrap": "debootstrap",
    "containernetworking-plugins": str(cni_plugins() / "bridge"),
    "iptables": "iptables",
    "iproute2": "ip",
    "openssl": "openssl",
    "procps": "sysctl",
}
#: What the tests with a browser need besides: without its fonts, screenshots look other.
BROWSER = {
    "chromium": "chromium",
    "fonts-dejavu-core": "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
}
#: Packages that Debian's own recommend and that a machine for tests can do without.
APT = ["apt-get", "install", "-y", "--no-install-recommends"]
INSTALL = "python -m tests.cluster install"

#: It belongs to no cluster: `down` leaves it alone.
ENGINE = Daemon("dockerd", CACHE)
#: Where the engine and its own containerd write their processes' numbers.
PID_FILES = {
    Path("/run/docker.pid"): "dockerd",
    Path("/run/docker/containerd/containerd.pid"): "containerd",
}

GO = (1, 25)
#: Two images with TensorFlow in Docker, the registry and on two nodes; Go's caches.
DISK_GB = 20
MEMORY_GB = 6


def lacking() -> list[str]:
    """Return in one line each what keeps this machine from holding the cluster, and the remedy."""
    if context := access.own_context():
        known = succeeds("kubectl", "config", "get-contexts", context)
        return [] if known else [f"kubectl knows no context {context}: see NBTRAIN_TEST_CONTEXT"]
    if sys.platform != "linux":
        return ["the cluster needs Linux; set NBTRAIN_TEST_CONTEXT to use a cluster of your own"]
    return [line for check in _CHECKS if (line := check())]


def install() -> bool:
    """Install the packages that are missing; return whether a Docker engine had to be started."""
    if missing := missing_packages() + missing_packages(BROWSER):
        _as_root()
        run("apt-get", "update")
        run(*APT, *missing, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    if engine_answers():
        return False
    _as_root()
    _start_engine()
    return True


def missing_packages(wanted: dict[str, str] = PACKAGES) -> list[str]:
    """Return the Debian packages that bring what is missing."""
    return [
        package
        for package, program in wanted.items()
        if not (shutil.which(program) or Path("/", program).is_file())
    ]


def browser_lacking() -> list[str]:
    """Return what keeps this machine from running the tests with a browser."""
    missing = " ".join(missing_packages(BROWSER))
    return [f"{missing} missing: `{' '.join(APT)} {missing}`"] if missing else []


def stop_engine() -> None:
    """End the Docker engine that `install` has started."""
    ENGINE.kill(signal.SIGTERM)


def _start_engine() -> None:
    """Start a Docker engine and wait for it; the one of a package's service may win the race."""
    for file, program in PID_FILES.items():
        _forget(file, program)
    ENGINE.start("dockerd")
    until(f"a Docker engine answers; see {ENGINE.log}", engine_answers)


def _forget(file: Path, program: str) -> None:
    """Remove the number that a killed engine left, if another program's process has it now.

    dockerd takes whatever process has the number for itself, and does not start.
    """
    try:
        name = Path("/proc", file.read_text("utf-8").strip(), "comm").read_text("utf-8").strip()
    except FileNotFoundError:
        return
    if name != program:
        file.unlink()


def engine_answers() -> bool:
    return succeeds("docker", "version", "--format", "{{.Server.Version}}")


def _root() -> str | None:
    return None if os.geteuid() == 0 else "the cluster needs root: call this with `sudo -E`"


def _packages() -> str | None:
    missing = " ".join(missing_packages())
    return f"{missing} missing: `apt-get update && {' '.join(APT)} {missing}`" if missing else None


def _engine() -> str | None:
    return None if engine_answers() else f"no Docker engine answers: `{INSTALL}` starts one"


def _go() -> str | None:
    wanted = ".".join(map(str, GO))
    try:
        said = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True).stdout
    except OSError:
        said = ""
    found = re.match(r"go(\d+)\.(\d+)", said)
    if found and tuple(map(int, found.groups())) >= GO:
        return None
    return f"Go {wanted} or newer is missing: Go's own archive for Linux, unpacked below /usr/local"


def _disk() -> str | None:
    folder = next(path for path in (CACHE, *CACHE.parents) if path.exists())
    free = shutil.disk_usage(folder).free / 1e9
    if free >= DISK_GB:
        return None
    return f"{free:.0f} GB free at {folder}, of {DISK_GB} needed: `docker system prune` may help"


def _memory() -> str | None:
    found = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text("utf-8"))
    free = int(found[1]) * 1024 / 1e9 if found else 0.0
    if free >= MEMORY_GB:
        return None
    return f"{free:.1f} GB of memory free, of {MEMORY_GB} needed: end other programs"


_CHECKS = (_root, _packages, _engine, _go, _disk, _memory)


def _as_root() -> None:
    if problem := _root():
        raise ClusterError(problem)
