"""Build and check the front end: from `labextension/` to `nbtrain/labextension` and `static`.

`python tools/frontend.py build` needs node, and yarn in the form of `jlpm`, which comes with
jupyter-builder. Nothing is done where all is up to date. `check` runs the linters and jest.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "labextension"
EXTENSION = ROOT / "nbtrain" / "labextension"
WIDGET = ROOT / "nbtrain" / "static" / "widget.js"
STAMP = EXTENSION / ".built-from"

#: What the build depends on, below `labextension/`.
INPUTS = ("src", "style", "schema", "package.json", "yarn.lock", "tsconfig.json")

#: The first version of node that the build runs on.
NODE = 20


def lacking() -> list[str]:
    """Return what this machine lacks for a build, in words."""
    node = shutil.which("node", path=_path())
    if node is None:
        return [f"node {NODE} or later is not installed"]
    version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip()
    if not version.startswith("v") or int(version[1:].split(".")[0]) < NODE:
        return [f"node is {version} and has to be {NODE} or later"]
    if shutil.which("jlpm", path=_path()) is None:
        return ["jlpm is not installed (pip install jupyter-builder)"]
    return []


def is_built() -> bool:
    """Tell whether the built files are there and no source has changed since."""
    there = WIDGET.exists() and STAMP.exists()
    return there and (not SOURCE.exists() or STAMP.read_text("utf-8") == _fingerprint())


def install() -> None:
    """Install the pinned packages, unless they are."""
    state = SOURCE / "node_modules" / ".yarn-state.yml"
    lock = SOURCE / "yarn.lock"
    if not state.exists() or state.stat().st_mtime < lock.stat().st_mtime:
        _run("jlpm", "install", "--immutable")
        state.touch()


def build() -> None:
    """Build the widget and JupyterLab's extension."""
    if is_built():
        return
    install()
    _run("jlpm", "run", "build")
    STAMP.write_text(_fingerprint(), "utf-8")


def check() -> None:
    """Run the compiler, the linters and the tests of the models."""
    install()
    _run("jlpm", "run", "check")
    _run("jlpm", "run", "test")


def _fingerprint() -> str:
    found = hashlib.sha256()
    for name in INPUTS:
        path = SOURCE / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                found.update(f"{file.relative_to(SOURCE)}\0".encode() + file.read_bytes())
    return found.hexdigest()


def _path() -> str:
    """Return where programs are looked for: beside this Python first."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def _run(*command: str) -> None:
    program = shutil.which(command[0], path=_path())
    if program is None:
        raise FileNotFoundError(command[0])
    environment = os.environ | {"PATH": _path(), "YARN_ENABLE_PROGRESS_BARS": "false"}
    subprocess.run([program, *command[1:]], cwd=SOURCE, env=environment, check=True)


def main(arguments: list[str]) -> int:
    """Do what is asked; return an exit status."""
    actions = {"build": build, "check": check}
    if len(arguments) != 1 or arguments[0] not in actions:
        print(f"usage: {Path(__file__).name} {'|'.join(actions)}", file=sys.stderr)
        return 2
    if missing := lacking():
        print(f"the front end can't be built: {missing[0]}", file=sys.stderr)
        return 1
    try:
        actions[arguments[0]]()
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
