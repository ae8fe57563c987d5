"""A payload on its way to a head: how far it is, and that one that is refused ends the run."""

from __future__ import annotations

import threading

import pytest

from nbtrain.backend import Placement
from nbtrain.backends.kubernetes.backend import _Upload
from nbtrain.backends.kubernetes.errors import ApiError
from nbtrain.backends.kubernetes.watch import RunWatch

from .harness import until

HEAD = Placement(None, "running", host="node1")
SIZE = 4_000_000


class Head:
    """A head's run directory that takes a payload in two halves, or refuses it."""

    def __init__(self, error=None):
        self.error = error
        self.go_on, self.half = threading.Event(), threading.Event()

    def put(self, _payload, _sha256, sent):
        sent(SIZE // 2)
        self.half.set()
        self.go_on.wait(20)
        if self.error:
            raise self.error
        sent(SIZE)


@pytest.fixture
def payload(tmp_path):
    path = tmp_path / "payload.bin"
    path.write_bytes(bytes(SIZE))
    return path


@pytest.fixture
def watch(monkeypatch):
    """A watch of a cluster in which nothing changes after the head has come to run."""
    monkeypatch.setattr("nbtrain.backends.kubernetes.watch.Mirror.start", lambda self: self)
    monkeypatch.setattr("nbtrain.backends.kubernetes.watch.Mirror.stop", lambda self: None)
    monkeypatch.setattr("nbtrain.backends.kubernetes.watch.placed", lambda *_: iter([HEAD]))
    found = RunWatch(None, "t-1", "t-1")
    found._jobs.listed.set()
    found._pods.listed.set()
    monkeypatch.setattr(found, "_over", lambda: False)
    return found


def test_how_far_a_payload_is_is_told_again_and_again(watch, payload):
    head = Head()
    upload = _Upload(lambda: head, payload, "0" * 64)
    seen = watch.placements(0.01, upload.shown)
    assert "gets the payload: " in next(seen).reason
    assert head.half.wait(20)
    until(lambda: "2.0 MB of 4.0 MB" in next(seen).reason)
    assert next(seen).reason  # no word of the cluster is needed for the next one
    head.go_on.set()
    assert upload.done.wait(20)
    until(lambda: next(seen) == HEAD)


def test_a_payload_that_is_refused_after_the_head_has_come_makes_it_stuck(watch, payload):
    head = Head(ApiError("No space left on device", status=507))
    upload = _Upload(lambda: head, payload, "0" * 64)
    seen = watch.placements(0.01, upload.shown)
    assert not next(seen).stuck
    head.go_on.set()
    assert upload.done.wait(20)
    until(lambda: next(seen).stuck)
    assert upload.shown(HEAD).reason.startswith("the payload could not be sent: No space left")


def test_an_upload_that_breaks_in_any_way_makes_the_head_stuck(watch, payload):
    head = Head(RuntimeError("unheard of"))
    upload = _Upload(lambda: head, payload, "0" * 64)
    head.go_on.set()
    assert upload.done.wait(20)
    found = next(watch.placements(0.01, upload.shown))
    assert found.stuck
    assert "RuntimeError: unheard of" in found.reason


def test_a_head_that_is_gone_has_its_own_reason(payload):
    head = Head(RuntimeError("unheard of"))
    upload = _Upload(lambda: head, payload, "0" * 64)
    head.go_on.set()
    assert upload.done.wait(20)
    gone = Placement(None, "gone", "it is being deleted")
    assert upload.shown(gone) is gone
