"""What people before a browser have is what the wheel brings, and nothing of this checkout."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

EXTENSION = "share/jupyter/labextensions/nbtrain"


def test_wheel_has_all_that_jupyter_looks_for(prefix):
    files = {path.relative_to(prefix).as_posix() for path in prefix.rglob("*") if path.is_file()}
    assert {
        f"{EXTENSION}/package.json",
        f"{EXTENSION}/install.json",
        f"{EXTENSION}/schemas/nbtrain/runs.json",
        "etc/jupyter/jupyter_server_config.d/nbtrain.json",
    } <= files
    build = json.loads((prefix / EXTENSION / "package.json").read_text("utf-8"))["jupyterlab"]
    assert re.fullmatch(r"static/remoteEntry\.\w+\.js", build["_build"]["load"])
    assert f"{EXTENSION}/{build['_build']['load']}" in files
    packed = {name.partition("site-packages/nbtrain/")[2] for name in files}
    assert {"static/widget.js", "openapi.yaml", "base_image/Dockerfile"} <= packed
    assert not any(name.startswith("labextension/") for name in packed)  # it would be there twice


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("labextension list", r"nbtrain v[\d.]+\w* enabled OK"),
        ("server extension list", r"nbtrain\.server enabled\n.*\n\s*nbtrain\.server .*OK"),
    ],
    ids=["labextension", "server extension"],
)
def test_jupyter_lists_the_extensions_as_enabled(lab, command, found):
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", *command.split()],
        env=lab.environment,
        cwd=lab.home.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    said = re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr)
    assert re.search(found, said), said


def test_kernels_import_what_was_installed(person, prefix):
    person.write("where.ipynb", "import nbtrain\nprint(nbtrain.__file__)")
    person.open("where.ipynb")
    person.run(0)
    expect(person.cell(0).locator(".jp-OutputArea-output")).to_contain_text(f"{prefix}/lib/")
