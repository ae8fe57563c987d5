"""Whole runs on the local backend: real heads, real trainers, real signals."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from nbtrain.backends.local import home
from nbtrain.errors import (
    NoSuchRun,
    NotReady,
    RunFailed,
    RunStopped,
    WaitInterrupted,
    WaitTimeout,
)
from nbtrain.run import attach, runs
from nbtrain.runtime import eventlog
from nbtrain.runtime.events import Ended, EpochEnd, Failed, Phase, Progress, Saved, Started, Warned
from nbtrain.runtime.payload import set_dtype_policy
from nbtrain.runtime.reading import is_live
from nbtrain.runtime.rundir import RunDir
from nbtrain.runtime.store import Store

from . import programs
from .harness import Apart, assert_equal_to_plain, launch, leftovers, plain, until, variables

pytestmark = pytest.mark.usefixtures("nbtrain_home")

BASIC = {
    "model": programs.model,
    "dataset": programs.dataset,
    "validation": programs.validation,
}


def pids(run, generation):
    """Return the pids of the trainers of a generation, by worker."""
    return {
        e.worker: e.pid
        for e in run.events
        if isinstance(e, Phase) and e.pid and e.generation == generation
    }


def after(run, condition):
    """Wait for the event that fulfils a condition."""
    return next(event for event in run.watch() if condition(event))


def kill(run, worker, number=signal.SIGKILL, generation=1):
    os.kill(pids(run, generation)[worker], number)


def failures(run):
    return [e for e in run.events if isinstance(e, Failed)]


def test_floatx_is_set_in_the_model_function(tmp_path):
    set_dtype_policy(None)  # tests before this one may have made a layer
    functions = {**BASIC, "model": programs.in_float64}
    run = launch(functions, epochs=1)
    assert_equal_to_plain(run, plain(tmp_path, model="in_float64", epochs=1), 1e-9)
    assert run.model.dtype == "float64"
    assert keras.config.floatx() == "float32"


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_n_workers_give_what_one_process_gives(tmp_path, workers):
    run = launch(BASIC, workers=workers)
    assert_equal_to_plain(run, plain(tmp_path))
    assert len(set(pids(run, 1).values())) == workers
    assert run.status == "succeeded"


def test_the_model_comes_back_compiled_with_its_optimizer_state(tmp_path):
    run = launch(BASIC)
    x, y = programs.validation()
    loss, accuracy = run.model.evaluate(x, y, verbose=0)
    assert loss == pytest.approx(run.metrics["val_loss"], abs=1e-6)
    assert accuracy == pytest.approx(run.metrics["val_accuracy"], abs=1e-6)
    assert int(run.model.optimizer.iterations.numpy()) == 3 * 7
    assert run.history.epoch == [0, 1, 2]
    assert run.card["seed"] == 7
    assert {path.name for path in run.files.iterdir()} >= {"model.keras", "run.json", "logs"}
    assert "Epoch 3/3" in run.logs(0)


def test_the_saved_keras_file_is_the_same_model(tmp_path):
    import keras

    run = launch(BASIC).wait()
    model = keras.saving.load_model((run.files / "model.keras").download(tmp_path))
    for ours, theirs in zip(model.variables, variables(run), strict=False):
        np.testing.assert_array_equal(ours.numpy(), theirs)


@pytest.mark.parametrize("worker", [0, 1])
@pytest.mark.parametrize("data", ["dataset", "shuffled"])
def test_a_killed_trainer_changes_nothing(tmp_path, worker, data):
    run = launch({**BASIC, "dataset": getattr(programs, data)}, epochs=5)
    after(run, lambda e: isinstance(e, Saved) and e.what == "checkpoint" and e.epoch == 3)
    kill(run, worker)
    assert_equal_to_plain(run, plain(tmp_path, dataset=data, epochs=5))
    (failed,) = failures(run)
    assert (failed.worker, failed.cause, failed.will_retry) == (worker, "lost", True)
    assert "SIGKILL" in failed.message
    starts = [e for e in run.events if isinstance(e, Started)]
    assert [e.generation for e in starts] == [1, 2]
    assert starts[1].first_epoch >= 3


def test_a_trainer_killed_before_any_checkpoint_begins_anew(tmp_path):
    run = launch(BASIC)
    after(run, lambda e: isinstance(e, Phase) and e.phase == "training" and e.worker == 1)
    kill(run, 1)
    assert_equal_to_plain(run, plain(tmp_path))
    assert len(failures(run)) == 1


def test_a_stopped_trainer_is_found_and_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("NBTRAIN_TEST_MARKER", str(tmp_path / "marker"))
    run = launch({**BASIC, "dataset": programs.stops_itself_once}, unresponsive_s=3.0)
    assert_equal_to_plain(run, plain(tmp_path))
    (failed,) = failures(run)
    assert failed.worker == 1
    assert "not answered" in failed.message


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    run = launch({**BASIC, "dataset": programs.slow}, epochs=5)
    saved = after(run, lambda e: isinstance(e, Saved) and e.epoch == 3)
    path = home() / run.id / saved.path
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    kill(run, 0)
    assert_equal_to_plain(run, plain(tmp_path, dataset="slow", epochs=5))
    assert [e.code for e in run.events if isinstance(e, Warned)] == ["checkpoint-damaged"]
    begun = [e for e in run.events if isinstance(e, Started)][-1]
    assert begun.first_epoch == 2  # the one before was of the epoch before


def test_a_users_error_is_shown_once_with_its_own_lines():
    run = launch({**BASIC, "dataset": programs.raises})
    with pytest.raises(RunFailed) as caught:
        run.model  # noqa: B018
    text = str(caught.value)
    assert 'raise RuntimeError("the file of the data is empty")' in text
    assert "programs.py" in text
    assert "nbtrain_runtime" not in text
    assert len(failures(run)) == 1
    assert caught.value.cause == "user"


@pytest.mark.parametrize(
    ("program", "hint"),
    [("reads_a_file", "--files"), ("imports_a_module", "no module 'sklearn_of_tomorrow'")],
)
def test_errors_of_being_elsewhere_come_with_the_fix(program, hint):
    run = launch({**BASIC, "dataset": getattr(programs, program)})
    with pytest.raises(RunFailed, match=hint):
        run.model  # noqa: B018


def test_an_error_on_one_worker_ends_all_of_them_within_seconds():
    run = launch({**BASIC, "dataset": programs.raises_on_worker_1}).wait()
    (failed,) = failures(run)
    assert (failed.worker, failed.cause) == (1, "user")
    assert run.state.ended_at - failed.time < 3


def test_a_trainer_that_always_exits_is_given_up():
    run = launch({**BASIC, "dataset": programs.exits}, max_restarts=1).wait()
    assert [e.will_retry for e in failures(run)] == [True, False]
    assert "exit code 3" in run.state.message


def test_a_hang_is_found_with_the_stacks_of_all_workers():
    run = launch(
        {**BASIC, "dataset": programs.hangs}, stacks_after_s=2.0, stall_timeout_s=5.0
    ).wait()
    (failed,) = failures(run)
    assert failed.cause == "stalled"
    assert "in hangs" in failed.traceback
    assert "worker 0" in failed.traceback
    assert "worker 1" in failed.traceback


def test_stop_ends_at_the_next_step_and_gives_a_model(tmp_path):
    run = launch({**BASIC, "dataset": programs.slow}, epochs=1000)
    after(run, lambda e: isinstance(e, Progress) and e.epoch >= 1 and e.step >= 1)
    run.stop()
    assert run.status == "stopped"
    steps = int(run.model.optimizer.iterations.numpy())
    assert steps > 7
    assert run.history.epoch == list(range(steps // 7))


def test_a_run_whose_time_is_over_stops_with_a_model():
    # It counts from the beginning of the training, however long ago the run was asked for.
    limit, yesterday = {"max_time": 4.0}, time.time() - 86400
    run = launch(
        {**BASIC, "dataset": programs.slow}, epochs=1000, container=limit, created=yesterday
    )
    run.wait().check()
    assert run.status == "stopped"
    began = next(e.time for e in run.events if isinstance(e, Started))
    stopped = next(e.time for e in run.events if isinstance(e, Warned) and e.code == "max-time")
    assert stopped - began >= 4.0
    assert "max-time" in [w.code for w in run.state.warnings]
    assert run.model.count_params()


def test_a_run_stopped_before_its_first_step_has_no_model():
    run = launch({**BASIC, "dataset": programs.hangs})
    after(run, lambda e: isinstance(e, Phase) and e.phase == "building")
    run.stop()
    with pytest.raises(RunStopped):
        run.model  # noqa: B018


def test_interrupting_the_wait_leaves_the_run_alive():
    run = launch({**BASIC, "dataset": programs.slow}, epochs=1000)
    after(run, lambda e: isinstance(e, EpochEnd))
    main = threading.main_thread().ident
    threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT)).start()
    with pytest.raises(WaitInterrupted, match="stop"):
        run.wait()
    with pytest.raises(WaitTimeout):
        run.wait(timeout=0.1)
    assert is_live(RunDir(home() / run.id))
    run.delete()
    assert not (home() / run.id).exists()


def test_delete_kills_a_live_run_and_leaves_nothing():
    run = launch({**BASIC, "dataset": programs.slow}, epochs=1000)
    after(run, lambda e: isinstance(e, Progress))
    run.delete()
    until(lambda: not leftovers(home()))
    assert not (home() / run.id).exists()
    with pytest.raises(NoSuchRun):
        attach(run.id)


def test_a_run_whose_directory_is_removed_ends_and_does_not_make_it_again():
    run = launch({**BASIC, "dataset": programs.slow}, epochs=1000)
    after(run, lambda e: isinstance(e, Progress))
    pid = RunDir(home() / run.id).read_json(RunDir.HEAD)["pid"]
    shutil.rmtree(home() / run.id)
    until(lambda: not Path(f"/proc/{pid}").exists(), 60)
    assert not (home() / run.id).exists()


def test_what_arrives_late_does_not_make_a_removed_directory_again(tmp_path):
    rundir = RunDir(tmp_path / "run")
    rundir.create()
    store = Store(rundir, [])
    shutil.rmtree(rundir.path)
    piece = {"what": "checkpoint", "path": rundir.checkpoint(1, 0), "last": True}
    with pytest.raises(FileNotFoundError):
        store.receive(piece, b"weights")
    with pytest.raises(FileNotFoundError):
        rundir.write_json(RunDir.CARD, {})
    assert not rundir.path.exists()


def test_the_digest_of_a_file_that_has_come_is_known_until_it_is_another_one(tmp_path):
    rundir = RunDir(tmp_path / "run")
    rundir.create()
    store = Store(rundir, [])
    path = rundir / RunDir.WEIGHTS
    for data in (b"weights", b"WEIGHTS"):
        piece = {"what": "weights", "path": RunDir.WEIGHTS, "last": True}
        store.receive(piece, data)
        assert store.sha256(RunDir.WEIGHTS, path.stat()) == hashlib.sha256(data).digest()
    beside = path.with_name("beside")
    beside.write_bytes(b"WEIGHTS")
    beside.replace(path)
    assert store.sha256(RunDir.WEIGHTS, path.stat()) is None
    assert store.sha256(RunDir.MODEL, path.stat()) is None


def test_processes_of_the_users_code_end_with_the_run():
    run = launch({**BASIC, "dataset": programs.leaves_a_child}).wait()
    assert run.status == "succeeded"
    until(lambda: not leftovers(home()))


KERNEL = """
import sys; sys.path.insert(0, {root!r})
from tests import programs
from tests.harness import launch
run = launch({{"model": programs.model, "dataset": programs.slow}}, epochs=4)
print(run.id, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.full)]
)
def test_a_run_outlives_the_kernel_that_started_it(tmp_path, number):
    root = os.path.dirname(os.path.dirname(__file__))
    kernel = subprocess.Popen(
        [sys.executable, "-c", KERNEL.format(root=root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with kernel:
        name = kernel.stdout.readline().strip()
        run = attach(name)
        after(run, lambda e: isinstance(e, Progress))
        kernel.send_signal(number)
        if number == signal.SIGSTOP:
            run.wait()
        kernel.kill()
    run = attach("t")
    assert run.id == name
    assert_equal_to_plain(run, plain(tmp_path, dataset="slow", validation="", epochs=4))
    assert [r.id for r in runs()] == [name]


def test_attach_goes_on_with_a_run_whose_head_was_killed(tmp_path):
    run = launch({**BASIC, "dataset": programs.slow}, epochs=5)
    after(run, lambda e: isinstance(e, Saved) and e.epoch == 2)
    rundir = RunDir(home() / run.id)
    os.kill(rundir.read_json(RunDir.HEAD)["pid"], signal.SIGKILL)
    run.wait()
    assert run.status == "lost"
    until(lambda: not is_live(rundir))
    again = attach(run.id)
    assert_equal_to_plain(again, plain(tmp_path, dataset="slow", epochs=5))
    seqs = [e.seq for e in eventlog.read(rundir / RunDir.EVENTS)]
    assert seqs == list(range(len(seqs)))


def test_trainers_can_be_spawned_where_fork_is_not_safe(tmp_path, monkeypatch):
    monkeypatch.setenv("NBTRAIN_START_METHOD", "spawn")
    run = launch(BASIC)
    assert_equal_to_plain(run, plain(tmp_path))
    assert "grpc-open" in [e.code for e in run.events if isinstance(e, Warned)]


def listening_addresses(pids):
    """Return the local addresses of processes' listening TCP sockets, as hex text."""
    links = [link for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir()]
    sockets = {os.readlink(link) for link in links if link.is_symlink()}
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.append(fields[1])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/net/tcp")
def test_no_port_is_open_to_the_network():
    run = launch({**BASIC, "dataset": programs.slow}, epochs=1000)
    after(run, lambda e: isinstance(e, Progress))
    pids = {e.pid for e in run.events if isinstance(e, Phase) and e.pid}
    opened = listening_addresses({*pids, RunDir(home() / run.id).read_json(RunDir.HEAD)["pid"]})
    run.delete()
    assert len(opened) >= 2
    loopback = ("0100007F", "0000000000000000FFFF00000100007F")
    assert all(address.startswith(loopback) for address in opened), opened


def test_head_and_agents_work_apart_from_the_zip_with_no_nbtrain(tmp_path):
    with Apart(tmp_path, BASIC) as apart:
        guess = tmp_path / "guess"
        guess.mkdir()
        (guess / "token").write_text("s3cret?")
        stranger = ["agent", "--head", apart.address, "--worker", "0"]
        assert apart.start(*stranger, given=guess).wait(60) == 1  # the head sends it away
        apart.ended()
        apart.assert_equal_to(plain(tmp_path))


def test_a_payload_that_was_changed_on_its_way_is_not_unpickled(tmp_path):
    apart = Apart(tmp_path, BASIC)
    sent = bytearray((apart.given / RunDir.PAYLOAD).read_bytes())
    sent[-5] ^= 1
    (apart.given / RunDir.PAYLOAD).write_bytes(sent)
    with apart:
        assert apart.head.wait(60) != 0
        (ended,) = apart.events(Ended)
        assert ended.outcome == "failed"
        assert "did not arrive as it was sent" in ended.message
        assert not apart.events(EpochEnd)


def test_a_followed_log_ends_with_the_run():
    run = launch({**BASIC, "dataset": programs.slow}, epochs=2)
    text = "".join(run.follow_logs(0))
    assert "Epoch 2/2" in text
    assert time.time() - run.wait().state.ended_at < 10


def test_whoever_follows_the_log_of_no_worker_is_told_so_at_once():
    run = launch({**BASIC, "dataset": programs.slow}, epochs=1000)
    with pytest.raises(NotReady, match="t has no worker 2"):
        next(run.follow_logs(2))
    run.stop(0)


@pytest.mark.full
def test_a_callback_that_evaluates_on_one_worker_alone_ends_in_an_error_that_shows_it():
    run = launch({**BASIC, "callbacks": programs.evaluates_on_worker_0}, stall_timeout_s=60.0)
    with pytest.raises(RunFailed):
        run.wait().check()
    (failed,) = [e for e in run.events if isinstance(e, Failed)]
    assert (failed.worker, failed.cause, failed.will_retry) == (0, "user", False)
    assert "in on_epoch_end" in failed.traceback
    assert "self.model.evaluate(" in failed.traceback
    assert "has to do so on every worker" in failed.traceback
