"""Runs on a real cluster that can't begin end with an error that says why; none waits for ever."""

from __future__ import annotations

import os

import pytest

import nbtrain
from nbtrain.backends.kubernetes import backend
from nbtrain.errors import RunFailed

from . import places, programs
from .harness import launch, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


@pytest.fixture
def place(request, nbtrain_home):
    with (
        places.open_place("kubernetes", request.getfixturevalue) as found,
        places.left_as_found(found),
    ):
        yield found


def error_of(run, place):
    """Return what a run ends with; afterwards none of its pods is at work."""
    with pytest.raises(RunFailed) as raised:
        run.wait(150).check()
    running = backend._running_pod
    until(lambda: not running(place.client, run.id, "worker"), 60)
    until(lambda: not [ref for ref in place.backend.runs() if ref.live], 60)
    return raised.value


@pytest.mark.parametrize(
    "memory",
    [
        pytest.param("16MiB", id="of-the-agent"),  # its pods die before it has said anything
        pytest.param("160MiB", id="of-tensorflow"),
    ],
)
def test_a_worker_with_too_little_memory_ends_the_run_and_is_named(place, memory):
    image = place.fields["container"]["image"]
    run = nbtrain.train(
        programs.model, programs.dataset, backend="kubernetes", workers=2, epochs=1, batch=32,
        seed=7, live=False, rehearse=False, cpu=0.5, memory=memory, storage="none", image=image,
        name="small",
    )  # fmt: skip
    error = error_of(run, place)
    assert error.worker in (0, 1)
    assert f"worker {error.worker}: " in str(error)
    assert "memory" in str(error)


def test_a_head_that_can_not_run_ends_the_run(place):
    """Its Job would go on for ten minutes."""
    broken = {"spec": {"containers": [{"name": "head", "command": ["false"]}]}}
    container = {**place.fields["container"], "pod_template": broken}
    functions = {"model": programs.model, "dataset": programs.dataset}
    run = launch(functions, epochs=1, **{**place.fields, "container": container})
    error = error_of(run, place)
    assert (error.worker, error.cause) == (None, "placement")
    assert "exit code 1; 3 of its pods have failed" in str(error)
    assert "--image" in str(error)


def test_a_payload_that_the_head_refuses_ends_the_run(place, monkeypatch):
    """By both ways to it: each knows the SHA-256 that the payload should have."""
    upload = backend._Upload
    other = "0" * 64
    monkeypatch.setattr(backend, "_Upload", lambda files, path, _: upload(files, path, other))
    data = os.urandom(3 * 2**20)

    def dataset():
        return data and programs.dataset()

    functions = {"model": programs.model, "dataset": dataset}
    error = error_of(launch(functions, epochs=1, **place.fields), place)
    assert (error.worker, error.cause) == (None, "placement")
    assert "the head: the payload could not be sent: " in str(error)
