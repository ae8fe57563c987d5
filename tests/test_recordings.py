"""Recorded runs shown again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nbtrain.errors import OptionError
from nbtrain.recordings import Replay, recording
from nbtrain.runtime.rundir import RunDir

from .recordings import generated


def test_a_real_recording_ends_as_the_run_did():
    replay = Replay(recording(generated.REAL), speed=1e6)
    assert replay.state.status == "packing"
    ended = replay.wait().state
    assert (ended.status, len(ended.workers), len(ended.epoch_numbers)) == ("succeeded", 2, 6)
    last = json.loads(generated.REAL.read_text("utf-8").splitlines()[-1])
    assert (ended.ended_at, ended.ended_at > ended.started_at) == (last["time"], True)


def test_the_generated_recording_is_what_its_generator_makes_and_says_so():
    lines = generated.FILE.read_text("utf-8").splitlines()
    assert lines == generated.lines()
    assert "never ran" in lines[0]


def test_sixty_four_workers_lose_one_and_end():
    ended = Replay(recording(generated.FILE), speed=1e6).wait().state
    assert (ended.status, len(ended.workers), len(ended.restarts)) == ("succeeded", 64, 1)


def test_replay_follows_the_clock_times_its_speed():
    time = [0.0]
    replay = Replay(recording(generated.REAL), speed=10, clock=lambda: time[0])
    begin = replay.now()
    replay._start()
    time[0] = 1.0
    assert replay.now() - begin == pytest.approx(10)
    assert replay.state.live
    time[0] = 1e6
    assert replay.wait().state.ended


def test_recording_that_breaks_off_says_so(tmp_path):
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(generated.REAL.read_bytes()[:9000])
    state = Replay(recording(cut), speed=1e6).wait().state
    assert (state.status, state.message) == ("lost", "the recording ends here")


def test_run_directory_gives_the_name(tmp_path):
    shutil.copy(generated.REAL, tmp_path / RunDir.EVENTS)
    about = {"name": "digits", "id": "x", "backend": "local", "workers": 2, "created": 1.0}
    RunDir(tmp_path).write_json(RunDir.REQUEST, about)
    assert recording(tmp_path).before.name == "digits"


def test_what_is_no_recording_is_refused(tmp_path, nbtrain_home):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("no event\n")
    with pytest.raises(OptionError, match="no events"):
        recording(empty)
    with pytest.raises(OptionError, match="no such file"):
        recording(tmp_path / "nothing")
    with pytest.raises(OptionError, match="over 0"):
        Replay(recording(generated.REAL), speed=0)


def test_command_writes_lines_and_the_final_report():
    command = [sys.executable, "-m", "nbtrain.cli", "replay", str(generated.REAL), "--speed", "1e6"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert "epoch 6/6" in done.stderr
    assert "2-workers · trained" in done.stdout
