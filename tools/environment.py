"""Make the virtual environment `.venv` and install a lock into it, with Python and pip alone.

`python3 tools/environment.py demo` is what `make demo` calls first, `dev` what `make test` does.
It runs on the machine's own Python, so it uses the standard library alone. Nothing is done where
the environment is up to date already.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
BOOTSTRAP = ROOT / ".bootstrap"
LOCKS = ROOT / "requirements"
#: What `dev` holds, `demo` needs: installing the smaller after the larger one is not needed.
INCLUDES = {"demo": ("demo",), "dev": ("dev", "demo")}


def main(kind: str) -> int:
    """Bring `.venv` up to date with the lock of `kind`; return an exit status."""
    # pip's advice to root is to make a virtual environment: that is what is done here.
    os.environ.setdefault("PIP_ROOT_USER_ACTION", "ignore")
    try:
        if not _usable():
            _create()
        if not _up_to_date(kind):
            _install(kind)
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"nbtrain: the environment could not be set up: {error}", file=sys.stderr)
        return 1
    return 0


def _usable() -> bool:
    """Tell whether `.venv` has a Python that starts and has pip (a moved checkout's has not)."""
    if not PYTHON.exists():
        return False
    # `sys.prefix` is a link's target on some machines: compare files, not names.
    probe = f"import sys, pip, os; sys.exit(not os.path.samefile(sys.prefix, {str(VENV)!r}))"
    return _quiet(PYTHON, "-c", probe) and _quiet(VENV / "bin" / "pip", "--version")


def _create() -> None:
    print(f"nbtrain: making {VENV.name} with Python {sys.version.split()[0]}", flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    # Debian has `venv` without `ensurepip` where python3-venv is not installed, slim builds
    # have neither: virtualenv brings its own pip, and `--target` is allowed where the system's
    # pip is guarded (EXTERNALLY-MANAGED).
    if _quiet(sys.executable, "-m", "venv", VENV) and _usable():
        return
    print("nbtrain: this Python has no working venv; using virtualenv", flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    environment = dict(os.environ)
    if not _quiet(sys.executable, "-m", "virtualenv", "--version"):
        pip = _pip()
        _run(*pip, "install", "--quiet", "--upgrade", "--target", BOOTSTRAP, "virtualenv>=20.26")
        environment["PYTHONPATH"] = str(BOOTSTRAP)
    command = [sys.executable, "-m", "virtualenv", "--quiet", "--no-periodic-update", VENV]
    _run(*command, environment=environment)


def _pip() -> list[str]:
    if _quiet(sys.executable, "-m", "pip", "--version"):
        return [sys.executable, "-m", "pip"]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for name in (f"pip{version}", "pip3", "pip"):
        if path := shutil.which(name):
            # It may belong to another Python; virtualenv itself runs on any.
            return [path]
    raise OSError(f"{sys.executable} has neither venv nor pip: install python3-venv, or pip")


def _install(kind: str) -> None:
    print(f"nbtrain: installing requirements/{kind}.lock (TensorFlow is large)", flush=True)
    pip = [PYTHON, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _run(*pip, "install", "--require-hashes", "--requirement", LOCKS / f"{kind}.lock")
    # hatchling is in the lock, so building the editable install fetches nothing more.
    _run(*pip, "install", "--no-deps", "--no-build-isolation", "--editable", ROOT)
    _stamp(kind).write_text(_fingerprint(kind), "utf-8")


def _stamp(kind: str) -> Path:
    return VENV / f".nbtrain-{kind}"


def _up_to_date(kind: str) -> bool:
    for larger, kinds in INCLUDES.items():
        stamp = _stamp(larger)
        if kind in kinds and stamp.exists() and stamp.read_text("utf-8") == _fingerprint(larger):
            return True
    return False


def _fingerprint(kind: str) -> str:
    """Return what changes when the environment has to be installed again."""
    content = (LOCKS / f"{kind}.lock").read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    return hashlib.sha256(content).hexdigest()


def _run(*command: str | Path, environment: dict[str, str] | None = None) -> None:
    subprocess.run([str(part) for part in command], check=True, env=environment, cwd=ROOT)


def _quiet(*command: str | Path) -> bool:
    """Tell whether a command succeeds; what it prints is dropped."""
    try:
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, check=False, cwd=ROOT
        )
    except OSError:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in INCLUDES:
        sys.exit(f"usage: {Path(__file__).name} {'|'.join(INCLUDES)}")
    sys.exit(main(sys.argv[1]))
