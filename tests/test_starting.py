"""What goes on between a cell's return and the run's first event, on a backend that can be held."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

import nbtrain
from nbtrain import config, training
from nbtrain.backend import RunRef, untold
from nbtrain.backends.docker import DockerBackend
from nbtrain.backends.kubernetes.backend import KubernetesBackend
from nbtrain.backends.local import LocalBackend
from nbtrain.display import news
from nbtrain.errors import (
    BackendError,
    NameInUse,
    NotReady,
    OptionError,
    RunStopped,
    WaitInterrupted,
)
from nbtrain.report import html
from nbtrain.runtime.payload import Payload
from nbtrain.view import view

from . import programs
from .harness import until

OPTIONS = {"backend": "docker", "live": False, "rehearse": False, "warm": False, "workers": 1}


class Held(LocalBackend):
    """A backend that stands in for containers: its start waits for a gate, half-way."""

    name = "docker"

    def __init__(self):
        super().__init__()
        self.gate, self.came = threading.Event(), threading.Event()
        self.problem = None
        self.aborted = False

    def start(self, request, payload, sent=untold):
        self.came.set()
        try:
            while not self.gate.wait(0.01):
                sent(1, 2)
        except BaseException:
            self.aborted = True
            raise
        if self.problem is not None:
            raise self.problem
        return super().start(request, payload)


@pytest.fixture(autouse=True)
def folder(temporary):
    """The folder for temporary files, in which no payload may be left."""
    yield temporary
    until(lambda: not list(temporary.glob("nbtrain-*/**/payload*")))


@pytest.fixture
def held(monkeypatch):
    backend = Held()
    for name in ("check", "start", "runs", "read", "placements", "stop", "delete"):
        function = getattr(backend, name)
        monkeypatch.setattr(DockerBackend, name, lambda self, *a, call=function, **k: call(*a, **k))
    # Held's runs are the local backend's, in the same folder.
    monkeypatch.setattr(LocalBackend, "runs", lambda self: [])
    monkeypatch.setattr(backend, "runs", list)
    yield backend
    backend.gate.set()


def train(**options):
    functions = {"model": programs.model, "dataset": programs.dataset}
    return nbtrain.train(**{**functions, **OPTIONS, **options})


def test_the_cell_has_returned_before_the_start_is_over(held):
    run = train(name="digits")
    assert held.came.wait(30)
    assert not held.gate.is_set()
    assert (run.status, run.state.doing) == ("starting", "starting the head and the workers")
    assert [r.id for r in nbtrain.runs()] == [run.id]
    assert nbtrain.attach("digits") is run
    assert run.logs() == ""
    with pytest.raises(NotReady, match="still being started"):
        list(run.read("events.jsonl"))
    held.gate.set()
    assert run.wait().status == "succeeded"
    assert run.state.doing == ""
    assert run.metrics["loss"] > 0


def test_what_the_user_changes_meanwhile_is_not_trained_with(held):
    namespace = {"rows": 64}
    code = "def dataset():\n    import numpy as np\n    return np.zeros((rows, 8)), np.zeros(rows)"
    exec(code, namespace)
    namespace["dataset"].__module__ = "__main__"
    packed = []
    original = LocalBackend.begin

    def begin(self, rundir, request, payload, environment=None):
        packed.append(payload.read_bytes())
        original(self, rundir, request, payload, environment)

    held.begin = begin.__get__(held)
    run = train(dataset=namespace["dataset"], epochs=1)
    namespace["rows"] = 1
    held.gate.set()
    run.wait()
    path = Path(tempfile.gettempdir()) / "seen.bin"
    path.write_bytes(packed[0])
    assert Payload.open(path).load()["dataset"]()[0].shape == (64, 8)


def test_an_error_that_is_known_at_once_is_one_of_the_cell(held, monkeypatch):
    monkeypatch.setattr(training, "AT_ONCE_S", 30.0)  # "at once" is no time on a busy machine
    held.problem = BackendError("there is no engine", "Start one.")
    held.gate.set()
    with pytest.raises(BackendError, match="there is no engine"):
        train()
    assert nbtrain.runs() == []
    with pytest.raises(OptionError, match="epochs"):
        train(epocs=2)


def test_what_a_backend_warns_of_is_shown_with_the_run(held, monkeypatch):
    start = DockerBackend.start

    def warned(self, *arguments):
        return dataclasses.replace(start(self, *arguments), warnings=("there is no volume",))

    monkeypatch.setattr(DockerBackend, "start", warned)
    held.gate.set()
    run = train()
    assert run.wait().status == "succeeded"
    assert "there is no volume" in repr(run)
    assert "there is no volume" in html(run.state, 0)


def test_an_error_that_comes_later_is_one_of_the_run(held):
    run = train(name="digits")
    held.problem = BackendError("the quota is used up", "Ask for more.")
    held.gate.set()
    assert run.wait().status == "failed"
    for ask in (lambda: run.model, run.check, lambda: run.history):
        with pytest.raises(BackendError, match="quota is used up\nAsk for more"):
            ask()
    shown = repr(run)
    assert "the run could not be started" in shown
    assert "Ask for more." in shown
    assert "Ask for more." in html(run.state, 0)
    assert "Ask for more." in str(view(run.state, 0)["error"])
    assert "logs(" not in shown  # there are none
    assert [r.status for r in nbtrain.runs()] == ["failed"]
    with pytest.raises(NotReady, match="was not started"):
        run.logs()
    held.problem = None
    assert train(name="digits", wait=True).status == "succeeded"  # the name is free again
    assert run not in nbtrain.runs()


def test_a_fault_of_our_own_is_told_like_any_other(held):
    run = train()
    held.problem = ZeroDivisionError("by nought")
    held.gate.set()
    with pytest.raises(BackendError, match="ZeroDivisionError: by nought"):
        run.wait().check()


@pytest.mark.parametrize("how", ["stop", "delete"])
def test_a_start_that_is_called_off_is_broken_off(held, how):
    run = train()
    held.came.wait(30)
    getattr(run, how)()
    assert held.aborted
    assert run.status == "stopped"
    assert "nothing is left of it" in repr(run)
    with pytest.raises(RunStopped):
        run.model  # noqa: B018
    assert nbtrain.runs() == []


def test_a_start_that_can_not_be_broken_off_is_undone(held, monkeypatch):
    deleted = []

    def start(request, payload, sent=untold):
        held.came.set()
        held.gate.wait(30)  # tells nobody of its progress
        return RunRef("docker", request.name, request.id)

    monkeypatch.setattr(DockerBackend, "start", lambda self, *a: start(*a))
    monkeypatch.setattr(DockerBackend, "delete", lambda self, ref: deleted.append(ref.id))
    run = train()
    held.came.wait(30)
    stopping = threading.Thread(target=run.stop)
    stopping.start()
    until(lambda: run._start._off)
    held.gate.set()
    stopping.join(30)
    assert deleted == [run.id]
    assert run.status == "stopped"


def test_interrupting_the_waiting_leaves_the_start_alone(held, monkeypatch):
    run = train()

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run._changed, "wait", interrupted)
        with pytest.raises(WaitInterrupted, match=r"\.stop\(\)"):
            run.model  # noqa: B018
    assert run.status == "starting"
    held.gate.set()
    assert run.wait().status == "succeeded"


def test_interrupting_the_cell_calls_the_start_off(held, monkeypatch):
    def interrupted(self, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Condition, "wait_for", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train()
    until(lambda: held.aborted)
    until(lambda: nbtrain.runs() == [])


def test_the_name_of_a_run_that_is_being_started_is_taken_until_it_is_replaced(held):
    first = train(name="digits")
    with pytest.raises(NameInUse, match="--replace"):
        train(name="digits")
    second = train(name="digits", replace=True)
    first.wait()
    assert first.status == "stopped"
    held.gate.set()
    assert second.wait().status == "succeeded"


def test_where_the_settings_name_a_context_a_run_is_one_of_the_cluster(held, monkeypatch):
    for name in ("check", "start", "runs", "read", "placements", "stop", "delete"):
        monkeypatch.setattr(KubernetesBackend, name, getattr(DockerBackend, name))
    config.update({"context": "production"})
    there, here = train(backend=None, name="there"), train(backend="docker", name="here")
    assert (there._ref.backend, here._ref.backend) == ("kubernetes", "docker")
    held.gate.set()
    assert [run.wait().status for run in (there, here)] == ["succeeded"] * 2


def test_two_threads_that_start_runs_of_one_name_start_one(held, monkeypatch):
    # Both have looked whether the name is free before either has taken it.
    monkeypatch.setattr(training, "check_free", lambda *a, **k: None)
    train(name="digits")
    with pytest.raises(NameInUse, match="in another thread"):
        train(name="digits")


def test_a_forked_process_has_nothing_to_do_with_it(held, folder):
    run = train()
    held.came.wait(30)
    child = os.fork()
    if child == 0:
        os._exit(0 if nbtrain.runs() == [] else 1)
    assert os.waitpid(child, 0)[1] == 0
    held.gate.set()
    assert run.wait().status == "succeeded"


def test_a_log_has_a_line_for_each_thing_that_the_start_is_at(held):
    run = train()
    held.came.wait(30)
    state = run.state
    before = training.dataclasses.replace(state, doing="looking at what is needed")
    assert news(before, state) == ["training: starting the head and the workers"]
    sending = training.dataclasses.replace(state, doing="sending: 1 of 2")
    assert news(sending, training.dataclasses.replace(state, doing="sending: 2 of 2")) == []


@pytest.mark.timeout(200)
def test_a_script_that_has_come_to_its_end_has_started_its_run(nbtrain_home, monkeypatch):
    script = nbtrain_home / "script.py"
    script.write_text(
        "import nbtrain\n"
        "from tests.programs import dataset, model\n"
        "nbtrain.train(model, dataset, name='digits', rehearse=True, warm=False)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, str(script)],
        env=environment, cwd=Path(__file__).parent.parent, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    (run,) = nbtrain.runs()
    assert run.wait().status == "succeeded"
