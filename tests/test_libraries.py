"""The big libraries are imported whole, whichever threads need them at once."""

from __future__ import annotations

import subprocess
import sys

from .jupyter import ROOT

THREADS = """
import threading
from nbtrain import backends
from nbtrain.backends.kubernetes import access
from nbtrain.errors import BackendError
from nbtrain.images.client import connect
meeting, wrong = threading.Barrier(8), []

def need(work):
    meeting.wait()
    try:
        work()
    except BackendError:
        pass  # there is no cluster and no engine
    except BaseException as error:
        wrong.append(repr(error))

works = [lambda: backends.preload("kubernetes"), access.load, connect, access.load] * 2
threads = [threading.Thread(target=need, args=(work,)) for work in works]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(wrong)
"""


def test_threads_that_need_it_at_once_all_get_it_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-c", THREADS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
