"""The user's own modules and packages travel as sources; the runtime as a zip."""

from __future__ import annotations

import ast
import concurrent.futures
import importlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from nbtrain import payload as payload_module
from nbtrain import sources
from nbtrain.payload import Packed, runtime_zip
from nbtrain.runtime.payload import Payload

from .payload_worker import Notebook, packed, worker


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make files beside a notebook; modules imported from there are forgotten afterwards."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)

    def write(**files: str) -> Path:
        for name, text in files.items():
            path = folder / name.replace("__slash__", "/").replace("__dot__", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        importlib.invalidate_caches()
        return folder

    yield write
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
    for name in ("space", "pkg"):
        sys.modules.pop(name, None)


def _files(payload: Packed) -> set[str]:
    section = bytes(Payload.open(payload.path)._sections["sources"])
    (payload.path.parent / "s.zip").write_bytes(section)
    with zipfile.ZipFile(payload.path.parent / "s.zip") as archive:
        return set(archive.namelist())


def test_modules_and_packages_beside_the_notebook_travel(tmp_path: Path, project: Any) -> None:
    project(
        **{
            "helpers.py": "import late\nSTATE = []\nSTATE.append(1)\n"
            "def three(): return late.two() + 1\n",
            "late.py": "def two(): return 2\n",
            "lazily.py": "import lazier\nvalue = lazier.value\n",
            "lazier.py": "value = 40\n",
            "never.py": "raise SystemExit\n",
            "pkg/__init__.py": "from .a import *\nfrom . import data\n",
            "pkg/a.py": "__all__ = ['starred', 'Layer']\nfrom .sub.b import b\n"
            "def starred(): return b()\nclass Layer:\n    def go(self): return starred()\n",
            "pkg/sub/__init__.py": "",
            "pkg/sub/b.py": "from ..data import read\ndef b():\n    from ..inner import x\n"
            "    return read() + x\n",
            "pkg/inner.py": "x = '!'\n",
            "pkg/data.py": "from pathlib import Path\n"
            "def read(): return (Path(__file__).parent / 'words.txt').read_text()\n",
            "pkg/words.txt": "hello",
            "pkg/.git/config": "",
            "pkg/__pycache__/x.py": "",
            "pkg/venv/pyvenv.cfg": "",
            "pkg/venv/x.py": "",
            "pkg/node_modules/x.js": "",
            "space/one.py": "def one(): return 1\n",
        }
    )
    notebook = Notebook()(
        """
        import helpers, pkg.sub.b as b, space.one
        from pkg import *
        layer = Layer()
        def dataset():
            import lazily
            from helpers import STATE
            return [helpers.three(), starred(), b.b(), layer.go(), space.one.one(), lazily.value,
                    STATE, helpers.__file__]
        """
    )
    payload = packed({"dataset": notebook["dataset"]}, tmp_path)
    *result, where = worker(payload, "result = f['dataset']()")
    assert result == [3, "hello!", "hello!", "hello!", 1, 40, [1]]
    assert where.startswith(str(tmp_path / "scratch"))
    names = {n for n in _files(payload) if not n.startswith("tests/")}
    assert names >= {"helpers.py", "late.py", "lazier.py", "pkg/words.txt", "space/one.py"}
    assert "never.py" not in names
    assert not [n for n in names if "venv" in n or ".git" in n or "node" in n or "cache" in n]


def test_an_editable_install_elsewhere_travels(
    tmp_path: Path, project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere" / "src"
    (elsewhere / "edited").mkdir(parents=True)
    (elsewhere / "edited" / "__init__.py").write_text("def f(): return 5\n")
    monkeypatch.syspath_prepend(str(elsewhere))
    project()
    import edited  # type: ignore[import-not-found]

    payload = packed({"dataset": edited.f}, tmp_path)
    assert worker(payload, "result = f['dataset']()") == 5
    del sys.modules["edited"]


def test_installed_packages_and_nbtrain_stay(tmp_path: Path) -> None:
    import hypothesis  # noqa: F401
    import numpy as np  # noqa: F401

    tops = {name.split("/")[0] for name in _files(packed({"dataset": 1}, tmp_path))}
    assert not tops & {"numpy", "hypothesis", "pytest", "nbtrain", "json", "site"}
    assert "tests" in tops  # this module is one of the user's own


def test_functions_of_a_test_module_travel(tmp_path: Path) -> None:
    payload = packed({"dataset": function_of_this_module}, tmp_path)
    assert worker(payload, "result = f['dataset']()") == 6


def function_of_this_module() -> int:
    return 6


def test_data_beside_modules_travels_while_it_is_small(tmp_path: Path, project: Any) -> None:
    folder = project(**{"pkg/__init__.py": "def f(): return 1\n", "pkg/small.json": "{}"})
    (folder / "pkg" / "big.bin").write_bytes(bytes(sources.MAX_DATA_FILE + 1))
    notebook = Notebook()("import pkg\ndef dataset(): return pkg.f()")
    payload = packed({"dataset": notebook["dataset"]}, tmp_path)
    assert "pkg/small.json" in _files(payload)
    assert "pkg/big.bin" not in _files(payload)
    (warning,) = payload.warnings
    assert "`pkg`: 1 data file (1.0 MB, such as big.bin)" in warning
    assert "--files" in warning


def test_a_module_with_a_syntax_error_is_sent_as_it_is(tmp_path: Path, project: Any) -> None:
    project(**{"fine.py": "def f():\n    import broken\n", "broken.py": "def ("})
    notebook = Notebook()("import fine\ndef dataset(): return fine.f()")
    payload = packed({"dataset": notebook["dataset"]}, tmp_path)
    done = worker(payload, "f['dataset']()", check=False)
    assert "SyntaxError" in done.stderr
    assert "broken.py" in done.stderr


def test_a_module_that_imports_nbtrain_can_be_used_in_a_worker(
    tmp_path: Path, project: Any
) -> None:
    project(
        **{
            "experiment.py": """
import nbtrain
from nbtrain.errors import NbtrainError
def dataset():
    try:
        nbtrain.train(dataset)
    except NbtrainError:
        return "never"
    except RuntimeError as error:
        return str(error)
"""
        }
    )
    notebook = Notebook()("import experiment")
    payload = packed({"dataset": notebook["experiment"].dataset}, tmp_path)
    result = worker(payload, "result = f['dataset']()")
    assert result == "nbtrain.train can't be used in a worker: nbtrain is not there"


def test_a_folder_of_the_name_is_not_taken_for_nbtrain(tmp_path: Path) -> None:
    (tmp_path / "nbtrain" / "data").mkdir(parents=True)
    program = f"""
import os, sys
sys.path[:0] = [{str(tmp_path)!r}, {str(runtime_zip())!r}]
sys.path[:] = [p for p in sys.path if not os.path.isfile(os.path.join(p, "nbtrain", "run.py"))]
from nbtrain_runtime import absent
absent.install()
import nbtrain
nbtrain.train()
"""
    command = [sys.executable, "-I", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "RuntimeError: nbtrain.train can't be used in a worker" in done.stderr


def test_a_visited_process_keeps_its_own_modules_and_environment(
    tmp_path: Path, project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_SOMETHING", "theirs")
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = project(**{"mine.py": "def f(): return 'old'\n"})
    notebook = Notebook()("import mine\ndef dataset(): return mine.f()")
    payload = Payload.open(packed({"dataset": notebook["dataset"]}, tmp_path).path)
    monkeypatch.setenv("TF_SOMETHING", "ours")
    (folder / "mine.py").write_text("def f(): return 'new, and longer'\n")
    del sys.modules["mine"]
    payload.install(tmp_path / "scratch", visiting=True)
    assert payload.load()["dataset"]() == "new, and longer"
    assert os.environ["TF_SOMETHING"] == "ours"


# -- what a module imports ----------------------------------------------------------------------


def parsed_imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_no_import_of_the_standard_library_is_overlooked() -> None:
    folder = Path(os.__file__).parent
    files = [*folder.glob("*.py"), *folder.glob("asyncio/*.py"), *folder.glob("email/*.py")]
    assert len(files) > 200
    missed = {p.name: parsed_imports(p) - sources._imports(str(p), 0) for p in files}
    assert not {name: names for name, names in missed.items() if names}


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("if x: import a.b as c, d  # e", {"a", "d"}),
        ("x = 1; from a.b import (\n    c,\n)", {"a"}),
        ("import a, \\\n    b", {"a", "b"}),
        ("from . import a\nfrom .b import c\nimportant = 1", set()),
    ],
)
def test_imports_are_found_wherever_they_begin(tmp_path: Path, code: str, names: set[str]) -> None:
    path = tmp_path / "m.py"
    path.write_text(code)
    assert parsed_imports(path) == names
    assert sources._imports(str(path), 0) == names


# -- notebooks and scripts ----------------------------------------------------------------------


def test_a_script_is_pickled_by_value(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        f"""
from pathlib import Path
from nbtrain.payload import pack
class Net: rate = 3
def dataset():
    return Net().rate  # rate
def model():
    raise ValueError("here")  # the line
if __name__ == "__main__":
    roles = {{"model": model, "dataset": dataset}}
    print(pack(roles, Path({str(tmp_path / "payload.bin")!r})).sha256)
"""
    )
    sha256 = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True
    ).stdout.strip()
    script.unlink()
    payload = Packed(tmp_path / "payload.bin", sha256, 0, [], [], {}, {})
    result = worker(
        payload,
        """
        import traceback
        try: f["model"]()
        except ValueError: result = [f["dataset"](), traceback.format_exc()]
        """,
    )
    assert result[0] == 3
    assert 'raise ValueError("here")  # the line' in result[1]


def test_a_kernel_sends_its_cells(tmp_path: Path) -> None:
    manager = pytest.importorskip("jupyter_client.manager")
    target = tmp_path / "payload.bin"
    cells = [
        "import nbtrain.payload, pathlib\nclass Net:\n    def go(self):\n        return 1 / 0",
        "def dataset():\n    display('seen')\n    return Net().go()",
        f"target = pathlib.Path({str(target)!r})\n"
        "print(nbtrain.payload.pack(dict(dataset=dataset), target).sha256)",
        "def shell():\n    !ls\n",
        "nbtrain.payload.pack(dict(dataset=shell), pathlib.Path('/tmp/never'))",
    ]
    out: list[str] = []
    with manager.run_kernel(kernel_name="python3") as client:
        for cell in cells:
            client.execute_interactive(
                cell,
                timeout=60,
                output_hook=lambda m: out.append(str(m["content"].get("text", m["content"]))),
            )
    sha256 = next(text.strip() for text in out if len(text.strip()) == 64)
    result = worker(
        Packed(target, sha256, 0, [], [], {}, {}),
        """
        import traceback
        try: f["dataset"]()
        except ZeroDivisionError: result = [traceback.format_exc(), sorted(p.cells.values())]
        """,
    )
    assert "    return Net().go()\n" in result[0]
    assert "    return 1 / 0\n" in result[0]
    assert result[1] == ["In[1]", "In[2]"]
    assert "`get_ipython`" in out[-1] or any("!commands" in text for text in out)


# -- the runtime --------------------------------------------------------------------------------


def test_the_runtime_runs_from_its_zip_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", str(runtime_zip()), "no-such-role"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert "unknown role: no-such-role" in done.stderr


def test_the_runtime_has_the_same_bytes_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import sys; {}from nbtrain.payload import runtime_zip; import hashlib;"
        "print(hashlib.sha256(runtime_zip().read_bytes()).hexdigest())"
    )
    digests = set()
    for i, first in enumerate(("", "import asyncio, json, ast, cloudpickle; ")):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(i)))
        done = subprocess.run(
            [sys.executable, "-c", program.format(first)], capture_output=True, check=True
        )
        digests.add(done.stdout)
        (path,) = (tmp_path / str(i) / "nbtrain").iterdir()
        assert path.name.startswith("runtime-")
    assert len(digests) == 1


def test_kernels_that_build_the_runtime_at_once_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        (path,) = set(pool.map(lambda _: payload_module.runtime_zip(), range(4)))
    assert zipfile.ZipFile(path).testzip() is None
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_bytecode_in_the_runtime_is_used() -> None:
    program = f"""
import sys
sys.path.insert(0, {str(runtime_zip())!r})
import builtins
import nbtrain_runtime.wire, cloudpickle
print(nbtrain_runtime.wire.__spec__.loader.get_filename("nbtrain_runtime.wire"))
print(nbtrain_runtime.wire.encode.__code__.co_filename)
print(nbtrain_runtime.wire.__loader__.get_source("nbtrain_runtime.wire")[:3])
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0].endswith(".pyc")
    assert lines[1] == "runtime.zip/nbtrain_runtime/wire.py"
    assert lines[2] == '"""'
