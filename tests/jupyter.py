"""A real JupyterLab of the tests' own, with nbtrain from this checkout or from its wheel."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .harness import until

ROOT = Path(__file__).parents[1]
TOKEN = "a-token-of-the-tests"

#: JupyterLab's own news would lie over what is looked at.
QUIET = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}


class Jupyter:
    """A running server; `url` ends with a slash, `environment` is that of its process."""

    def __init__(self, url: str, home: Path, log: Path, environment: dict[str, str]) -> None:
        self.url, self.home, self.log, self.environment = url, home, log, environment

    def request(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> Any:
        """Make a request with the token; return the answer, open."""
        data = None if body is None else json.dumps(body).encode()
        known = {"Authorization": f"token {TOKEN}", **headers}
        request = urllib.request.Request(self.url + path, data, known, method=method)
        return urllib.request.urlopen(request, timeout=30)

    def json(self, path: str, method: str = "GET", body: Any = None) -> Any:
        with self.request(path, method, body) as answer:
            return json.load(answer)

    def status(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> int:
        """Return the status of an answer."""
        try:
            with self.request(path, method, body, **headers) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


@contextlib.contextmanager
def jupyter(
    folder: Path,
    nbtrain_home: Path,
    base_url: str = "/",
    program: str = "lab",
    *,
    installed: Path | None = None,
    config: str = "",
) -> Iterator[Jupyter]:
    """Start JupyterLab (or another program of `jupyter`) in a folder, and end it.

    `installed` is where `install` has put nbtrain's wheel; without it, it is this checkout's that
    is served. `config` is code of the server's configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = folder.parent / f".{folder.name}-jupyter"
    _configure(state, config)
    if installed is None:
        _serve_the_checkout(state)
    port = _free_port()
    log = state / "server.log"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "NBTRAIN_HOME": str(nbtrain_home),
        "NBTRAIN_CONFIG": str(state / "nbtrain.toml"),
        "JUPYTER_CONFIG_DIR": str(state / "config"),
        "JUPYTER_DATA_DIR": str(state / "data"),
        "JUPYTER_RUNTIME_DIR": str(state / "runtime"),
        # An nbtrain that is installed beside this Python may be that of another checkout.
        "JUPYTER_PREFER_ENV_PATH": "0",
        # Runs in containers are of the whole machine, and none of the test's.
        "DOCKER_HOST": f"unix://{state / 'no-engine'}",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **(_where_installed(installed) if installed else {}),
    }
    command = [sys.executable, "-m", "jupyter", program, "--no-browser", "--allow-root"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", f"--ServerApp.base_url={base_url}"]
    command += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output
        )
    server = Jupyter(f"http://localhost:{port}{base_url}", nbtrain_home, log, environment)
    try:
        until(lambda: _answers(server, process), 60)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError("Jupyter's server did not end") from None


def install(folder: Path) -> Path:
    """Build this checkout's wheel and install it below a folder; return that, as pip's prefix.

    All that nbtrain needs is there already, and pip is kept from looking elsewhere.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    alone = ["--no-deps", "--no-index"]
    wheels, prefix = folder / "wheels", folder / "prefix"
    subprocess.run(
        [*pip, "wheel", *alone, "--no-build-isolation", f"--wheel-dir={wheels}", str(ROOT)],
        check=True,
    )
    (wheel,) = wheels.iterdir()
    subprocess.run(
        [*pip, "install", *alone, "--ignore-installed", f"--prefix={prefix}", str(wheel)],
        check=True,
    )
    return prefix


def _where_installed(prefix: Path) -> dict[str, str]:
    """Return what has Python and Jupyter look below pip's prefix before anywhere else."""
    packages = sysconfig.get_path("purelib", "posix_prefix", {"base": str(prefix)})
    return {
        "PYTHONPATH": packages,
        "JUPYTER_PATH": str(prefix / "share" / "jupyter"),
        "JUPYTER_CONFIG_PATH": str(prefix / "etc" / "jupyter"),
    }


def _configure(state: Path, config: str) -> None:
    """Lay the folders of a user of Jupyter, who wants no news."""
    folder = state / "config"
    (folder / "labconfig").mkdir(parents=True)
    (folder / "labconfig" / "page_config.json").write_text(json.dumps(QUIET))
    (folder / "jupyter_server_config.py").write_text(config)


def _serve_the_checkout(state: Path) -> None:
    """Have the server and JupyterLab find this checkout's nbtrain, built or not."""
    enabled = ROOT / "jupyter-config" / "server-config" / "nbtrain.json"
    (state / "config" / "jupyter_server_config.d").mkdir()
    (state / "config" / "jupyter_server_config.d" / "nbtrain.json").write_bytes(
        enabled.read_bytes()
    )
    extensions = state / "data" / "labextensions"
    extensions.mkdir(parents=True)
    (extensions / "nbtrain").symlink_to(ROOT / "nbtrain" / "labextension")


def _answers(server: Jupyter, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, server.log.read_text()
    with contextlib.suppress(OSError):
        return server.status("api/status") == 200
    return False


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
