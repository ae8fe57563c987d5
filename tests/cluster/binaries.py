"""Kubernetes, etcd and CoreDNS, built from the Go modules that go/ pins.

A build takes minutes with empty caches of Go, so its result is kept, under the hash of what it
was made from: a second clone of the repository, or a branch that changes nothing there, has it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .paths import CACHE
from .shell import ClusterError, tail

SOURCES = Path(__file__).parent / "go"
KUBERNETES = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
]
LOG = CACHE / "build.log"


def folder() -> Path:
    """Return where the binaries are, or will be once `build` has returned."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(SOURCES)).encode() + b"\0" + path.read_bytes())
    return CACHE / digest.hexdigest()[:16]


def built() -> bool:
    """Tell whether there is nothing left to build."""
    return folder().exists() and (bool(shutil.which("kubectl")) or (folder() / "kubectl").exists())


def build() -> Path:
    """Build what is missing and return the folder; a build in another process is waited for."""
    with _alone():
        if not built():
            _build(folder())
    return folder()


def kubectl() -> str:
    """Return the machine's kubectl, or the one that was built because it has none."""
    return shutil.which("kubectl") or str(folder() / "kubectl")


def _build(target: Path) -> None:
    partial = target.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    wanted = [*KUBERNETES, *([] if shutil.which("kubectl") else ["kubectl"])]
    packages = [f"k8s.io/kubernetes/cmd/{name}" for name in wanted]
    with LOG.open("w", encoding="utf-8") as log:
        _go("kubernetes", f"{partial}/", packages, log.fileno(), _version())
        _go("etcd", f"{partial}/etcd", ["go.etcd.io/etcd/server/v3"], log.fileno())
        _go("coredns", f"{partial}/coredns", ["."], log.fileno())
        _go("pause", f"{partial}/pause", ["."], log.fileno())
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def _version() -> str:
    """Return the linker's flags that tell Kubernetes its version, read from go.mod."""
    pinned = (SOURCES / "kubernetes" / "go.mod").read_text("utf-8")
    found = re.search(r"k8s\.io/kubernetes (v(\d+)\.(\d+)\.\d+)", pinned)
    assert found, "kubernetes/go.mod pins no version of k8s.io/kubernetes"
    values = zip(("gitVersion", "gitMajor", "gitMinor"), found.groups(), strict=True)
    return " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in values)


def _go(module: str, output: str, packages: list[str], log: int, flags: str = "") -> None:
    options = ["-trimpath", "-buildvcs=false", "-ldflags", f"-s -w {flags}"]
    command = ["go", "build", *options, "-o", output, *packages]
    # Without cgo the binaries need nothing of the machine, and no C compiler is called.
    environment = os.environ | {"CGO_ENABLED": "0"}
    try:
        done = subprocess.run(
            command, cwd=SOURCES / module, env=environment, check=False, stdout=log, stderr=log
        )
    except FileNotFoundError as error:
        raise ClusterError("Go is not installed: `make cluster` says how to get it") from error
    if done.returncode:
        said = tail(LOG.read_text("utf-8"))
        raise ClusterError(f"building {module} failed; the end of {LOG}:\n{said}")


@contextmanager
def _alone() -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
