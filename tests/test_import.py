"""nbtrain is quick to import: what is heavy is imported where it is used."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

#: Each takes between a tenth of a second and several seconds.
HEAVY = {
    "docker",
    "ipywidgets",
    "keras",
    "kubernetes",
    "matplotlib",
    "numpy",
    "pandas",
    "requests",
    "rich",
    "tensorflow",
    "tf_keras",
}

IMPORT = "import nbtrain"
LOAD = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
before = set(sys.modules)
shell.run_line_magic("load_ext", "nbtrain")
"""


def loaded(code: str) -> set[str]:
    """Return the top-level modules that `code` loads in a fresh interpreter.

    What was there when it set `before` does not count: IPython's own may load some.
    """
    script = f"""
import json, sys
before = set()
{code}
print(json.dumps(sorted({{name.split(".")[0] for name in set(sys.modules) - before}})))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("code", [IMPORT, LOAD], ids=["import", "load_ext"])
def test_nothing_heavy_is_imported(code, nbtrain_home):
    modules = loaded(code)
    assert "nbtrain" in modules
    assert not modules & HEAVY


@pytest.mark.parametrize(
    ("setting", "imported"),
    [
        ('backend = "kubernetes"', {"kubernetes", "docker"}),
        ('namespace = "ml"', {"kubernetes", "docker"}),
        ('backend = "docker"', {"docker"}),
    ],
)
def test_what_the_settings_call_for_is_imported_in_the_background(
    setting, imported, nbtrain_home, monkeypatch, tmp_path
):
    file = tmp_path / "config.toml"
    file.write_text(f"warm = false\n{setting}\n")
    monkeypatch.setenv("NBTRAIN_CONFIG", str(file))
    wait = """
import threading
for thread in threading.enumerate():
    if thread.name == "nbtrain-imports":
        thread.join()
"""
    assert loaded(LOAD + wait) & {"kubernetes", "docker"} == imported


def test_every_public_name_can_be_imported():
    script = "import nbtrain\nfor name in nbtrain.__all__: print(name, getattr(nbtrain, name))"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    assert len(done.stdout.splitlines()) == 5


def test_the_version_is_that_of_the_installed_package():
    import importlib.metadata

    import nbtrain

    assert importlib.metadata.version("nbtrain") == nbtrain.__version__
