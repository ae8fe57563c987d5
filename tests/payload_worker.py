"""What the tests of the payload share: cells as a notebook runs them, and a worker's process."""

from __future__ import annotations

import itertools
import json
import linecache
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbtrain.payload import Packed, pack, runtime_zip

_numbers = itertools.count(1)


class Notebook(dict[str, Any]):
    """The namespace of a notebook; calling it runs a cell, as ipykernel does."""

    def __init__(self, **values: Any) -> None:
        super().__init__(values, __name__="__main__")

    def __call__(self, cell: str) -> Notebook:
        source = textwrap.dedent(cell).lstrip("\n")
        name = f"/tmp/ipykernel_0/{next(_numbers)}.py"
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        exec(compile(source, name, "exec"), self)
        return self


def packed(functions: Mapping[str, Any], folder: Path, **options: Any) -> Packed:
    """Pack into `folder`."""
    return pack(functions, folder / "payload.bin", **options)


def worker(payload: Packed, code: str, *, check: bool = True, keras: bool = False) -> Any:
    """Load a payload in a process that has no nbtrain but the runtime zip, and run code there.

    The code finds the functions in `f`, the payload in `p` and `call`; it sets `result`, which
    comes back as JSON. Keras' settings are restored with `keras` alone: its import takes seconds.
    """
    scratch = payload.path.parent / "scratch"
    program = f"""
import json, os, sys
# Without the checkout, which an editable install has put there.
sys.path[:] = [p for p in sys.path if not os.path.isfile(os.path.join(p, "nbtrain", "run.py"))]
sys.path.insert(0, {str(runtime_zip())!r})
from nbtrain_runtime.payload import Payload, call
p = Payload.open({str(payload.path)!r})
p.install({str(scratch)!r})
os.chdir({str(scratch)!r})
{"p.restore_keras()" if keras else ""}
f = p.load()
assert not getattr(sys.modules.get("nbtrain"), "__file__", None)
{textwrap.dedent(code)}
print("\\n" + json.dumps(result, default=str))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if not check:
        return done
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
