"""What containers can suffer, and what they may do: beyond what all backends promise."""

from __future__ import annotations

import json
import os
import signal

import pytest
from docker.errors import APIError

from nbtrain import backends
from nbtrain.backends.docker import specs
from nbtrain.errors import ImageDoesNotFit, ImageError, RunFailed
from nbtrain.run import attach
from nbtrain.runtime.events import EpochEnd, Failed, Phase, Progress, Started, Warned

from . import places, programs
from .harness import assert_equal_to_plain, launch, plain, until

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("nbtrain_home")]

SLOW = {
    "model": programs.model,
    "dataset": programs.slow_without_python,
    "validation": programs.validation,
}


@pytest.fixture
def place(request):
    with places.open_place("docker", request.getfixturevalue) as found, places.left_as_found(found):
        yield found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return plain(tmp_path_factory.mktemp("plain"), dataset="slow_without_python", epochs=4)


def container(place, run, *parts):
    client = place.backend._client
    return client.containers.get(specs.object_name(run.id, *parts))


def kill(place, run, *parts):
    """Kill the first process of a container, as the kernel does when memory is short."""
    pid = container(place, run, *parts).attrs["State"]["Pid"]
    os.kill(pid, signal.SIGKILL)


def events_of(run, kind):
    return [e for e in run.events if isinstance(e, kind)]


def second_epoch(run):
    return next(e for e in run.watch() if isinstance(e, Progress) and e.epoch and e.step > 1)


def assert_like_undisturbed(run, undisturbed):
    assert_equal_to_plain(run, undisturbed)
    assert [e.epoch for e in events_of(run, EpochEnd)] == [0, 1, 2, 3]
    assert [e.seq for e in run.events] == list(range(len(run.events)))


@pytest.mark.parametrize("worker", ["0", "1"])
def test_a_killed_container_is_started_again(place, undisturbed, worker):
    run = launch(SLOW, checkpoint_every="2 steps", epochs=4, **place.fields)
    second_epoch(run)
    kill(place, run, worker)
    assert_like_undisturbed(run, undisturbed)
    assert [e.worker for e in events_of(run, Failed)] == [int(worker)]
    assert [e.generation for e in events_of(run, Started)] == [1, 2]


def test_a_killed_head_is_started_again_and_the_workers_go_on(place, undisturbed):
    run = launch(SLOW, checkpoint_every="2 steps", epochs=4, **place.fields)
    second_epoch(run)
    kill(place, run, "head")
    assert_like_undisturbed(run, undisturbed)
    assert [e.code for e in events_of(run, Warned)] == ["head-back"]
    assert [e.generation for e in events_of(run, Started)] == [1]


def test_attach_starts_a_head_that_was_ended_from_outside(place, undisturbed):
    run = launch(SLOW, checkpoint_every="2 steps", epochs=4, **place.fields)
    second_epoch(run)
    container(place, run, "head").kill()
    assert run.wait().status == "lost"
    assert_like_undisturbed(attach(run.id), undisturbed)


def pause(one):
    """Pause a container; the kernel may not come to freeze a busy one, and then it goes on."""

    def is_paused():
        try:
            one.pause()
        except APIError as error:
            if "unable to freeze" not in str(error):
                raise
            return False
        return True

    until(is_paused)


def test_a_paused_container_is_waited_for(place, undisturbed):
    run = launch(SLOW, checkpoint_every="2 steps", epochs=4, unresponsive_s=3.0, **place.fields)
    second_epoch(run)
    paused = container(place, run, "1")
    pause(paused)
    run.wait_for(lambda state: [f for f in state.failures if f.worker == 1], timeout=60)
    paused.unpause()
    assert_like_undisturbed(run, undisturbed)
    assert [e.generation for e in events_of(run, Started)] == [1, 2]


def test_a_paused_head_forgives_its_workers(place, undisturbed):
    run = launch(SLOW, checkpoint_every="2 steps", epochs=4, unresponsive_s=3.0, **place.fields)
    second_epoch(run)
    head = container(place, run, "head")
    pause(head)
    # Nothing is heard of a head that is paused: the workers' own clocks tell the time.
    seen = len(run.events)
    with pytest.raises(TimeoutError):
        run.wait(timeout=8)
    assert len(run.events) <= seen + 20
    head.unpause()
    assert_like_undisturbed(run, undisturbed)
    assert events_of(run, Failed) == []


def test_a_worker_out_of_memory_is_named(place):
    functions = {**SLOW, "dataset": programs.needs_ten_gigabytes}
    run = launch(functions, max_restarts=0, memory=1 << 30, **place.fields)
    with pytest.raises(RunFailed, match="memory") as raised:
        run.wait().check()
    assert raised.value.cause == "memory"


def test_containers_are_restricted_and_labelled(place):
    run = launch(SLOW, epochs=1000, **place.fields)
    next(e for e in run.watch() if isinstance(e, Phase) and e.phase == "training")
    for part in ("head", "0", "1"):
        found = container(place, run, part)
        config, limits = found.attrs["Config"], found.attrs["HostConfig"]
        assert config["User"] == "1000"
        assert config["Labels"][specs.RUN] == run.id
        assert limits["ReadonlyRootfs"]
        assert limits["CapDrop"] == ["ALL"]
        assert limits["SecurityOpt"] == ["no-new-privileges:true"]
        assert limits["Memory"] > 0
        assert limits["NanoCpus"] > 0
        assert list(found.attrs["NetworkSettings"]["Networks"]) == [specs.object_name(run.id)]
        volumes = {m["Destination"]: m["Name"] for m in found.attrs["Mounts"] if "Name" in m}
        assert volumes[specs.GIVEN] == specs.object_name(run.id, "given")
        assert volumes.get(specs.RESULTS) == (specs.object_name(run.id) if part == "head" else None)
    token = container(place, run, "0").exec_run(["cat", f"{specs.GIVEN}/token"]).output.decode()
    assert len(token) == 64
    told = json.dumps([container(place, run, part).attrs for part in ("head", "0", "1")])
    told += "".join(container(place, run, p).logs().decode() for p in ("head", "0", "1"))
    assert token not in told
    run.delete()


def test_an_image_that_does_not_fit_is_refused_before_anything_is_made(place, tmp_path):
    image = place.fields["container"]["image"]
    (tmp_path / "Dockerfile").write_text(f"FROM {image}\nLABEL io.nbtrain.python=3.9\n")
    client = place.backend._client
    built, _ = client.images.build(path=str(tmp_path), tag="nbtrain-test/old:1", rm=True)
    before = place.objects()
    try:
        with pytest.raises(ImageDoesNotFit, match=r"Python 3\.9") as raised:
            launch(SLOW, backend="docker", container={"image": "nbtrain-test/old:1"})
        assert "This one fits" in str(raised.value)
        assert place.objects() == before
    finally:
        client.images.remove(built.id, force=True)


def test_the_cell_trains_in_containers_with_the_image_that_fits(place):
    import nbtrain

    # Named as `nbtrain image build` names it.
    client = place.backend._client
    client.images.get(place.fields["container"]["image"]).tag("nbtrain", "test-cell")
    try:
        run = nbtrain.train(
            programs.model, programs.dataset, backend="docker", epochs=1, live=False, name="cell"
        )
        assert run.model.count_params()
    finally:
        client.images.remove("nbtrain:test-cell")


def test_a_start_that_is_stopped_while_it_sends_leaves_nothing(place, monkeypatch):
    import numpy as np

    import nbtrain
    from nbtrain import transfer

    monkeypatch.setattr(transfer, "SHOWN_S", 0.0)
    data = np.random.default_rng(0).random((4_000_000, 16), "float32")  # 256 MB

    def dataset():
        return data[:64], np.zeros(64, "int32")

    before = place.objects()
    run = nbtrain.train(
        programs.model, dataset, rehearse=False, live=False, name="sent", **asked(place)
    )
    run.wait_for(lambda state: state.doing.startswith("sending the functions and data: "))
    assert run.status == "starting"
    run.stop()
    assert run.status == "stopped"
    assert place.objects() == before


def test_results_that_the_image_can_not_write_end_the_run_before_it_trains(place):
    import nbtrain

    run = nbtrain.train(
        programs.model, programs.dataset, results="s3://bucket/runs", live=False, **asked(place)
    )
    with pytest.raises(RunFailed, match=r"is not installed here.*image build fsspec s3fs"):
        run.wait().check()
    assert run.state.started_at is None


def asked(place):
    return {"backend": "docker", **place.fields["container"]}


def test_there_is_nothing_of_docker_without_an_engine(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    backend = type(backends.get("docker"))()
    assert list(backend.runs()) == []


def test_a_head_that_can_not_start_is_an_error_within_seconds(place, tmp_path):
    """An image with no Python at all: its labels are right, so it is tried."""
    (tmp_path / "nothing").touch()
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY nothing /\n")
    client = place.backend._client
    built, _ = client.images.build(path=str(tmp_path), tag="nbtrain-test/empty:1", rm=True)
    before = place.objects()
    try:
        with pytest.raises(ImageError, match="python"):
            launch(SLOW, backend="docker", container={"image": "nbtrain-test/empty:1"})
        assert place.objects() == before
    finally:
        client.images.remove(built.id, force=True)


def test_pods_are_not_asked_for_an_image_that_is_known_not_to_fit(place, tmp_path):
    from nbtrain.backends.kubernetes.images import check_known

    fits = place.fields["container"]["image"]
    (tmp_path / "Dockerfile").write_text(f"FROM {fits}\nLABEL io.nbtrain.keras=2.12.0\n")
    client = place.backend._client
    built, _ = client.images.build(path=str(tmp_path), tag="nbtrain-test/keras2:1", rm=True)
    try:
        with pytest.raises(ImageDoesNotFit, match=r"Keras 2\.12\.0"):
            check_known("nbtrain-test/keras2:1")
    finally:
        client.images.remove(built.id, force=True)
    check_known(fits)
    check_known("registry.example/nowhere/to/be:found")
