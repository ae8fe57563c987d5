"""A registry of the tests' own: Debian's docker-registry on loopback, with a password."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .harness import until

USER, PASSWORD = "trainer", "secret"
#: The password's bcrypt hash, as `htpasswd -B` writes it.
_HTPASSWD = f"{USER}:$2b$04$tCvVyVuFDKnzOqPwmDQLx.ZgyccCh6xLQ6DqWuTr0MS2U6l1a4JrK\n"
_CREDENTIALS = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@dataclass(frozen=True)
class Registry:
    """Where it is; the engine allows loopback without TLS."""

    host: str

    def login(self, folder: Path) -> None:
        """Write what `docker login` does into the config of this folder."""
        config = {"auths": {self.host: {"auth": _CREDENTIALS}}}
        (folder / "config.json").write_text(json.dumps(config), "utf-8")

    def digest(self, repository: str, tag: str) -> str:
        """Return the digest of what was pushed."""
        request = urllib.request.Request(
            f"http://{self.host}/v2/{repository}/manifests/{tag}",
            headers={
                "Authorization": f"Basic {_CREDENTIALS}",
                "Accept": "application/vnd.docker.distribution.manifest.v2+json",
            },
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.headers["Docker-Content-Digest"]


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[Registry]:
    """Run a registry that keeps its data in `folder`."""
    program = shutil.which("docker-registry")
    if program is None:
        missing = "the registry is missing: apt-get install docker-registry"
        # CI may not leave anything out.
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    host = f"127.0.0.1:{_free_port()}"
    (folder / "htpasswd").write_text(_HTPASSWD, "utf-8")
    (folder / "config.yml").write_text(_config(folder, host), "utf-8")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", folder / "config.yml"], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        until(lambda: process.poll() is not None or _answers(host))
        assert process.poll() is None, (folder / "log").read_text("utf-8")
        yield Registry(host)
    finally:
        process.terminate()
        process.wait(10)


def _config(folder: Path, host: str) -> str:
    # JSON is YAML.
    return json.dumps(
        {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
            "http": {"addr": host},
            "auth": {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}},
        }
    )


def _answers(host: str) -> bool:
    try:
        urllib.request.urlopen(f"http://{host}/v2/", timeout=5)
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
