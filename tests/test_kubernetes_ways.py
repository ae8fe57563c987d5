"""Which way to a pod's run directory is taken, as the pod's own server comes up or does not."""

from __future__ import annotations

import pytest

from nbtrain.backends.kubernetes import files
from nbtrain.backends.kubernetes.files import PodFiles


class Way:
    """A way whose server answers in this order, the last answer for ever."""

    def __init__(self, *answers):
        self.answers, self.sent = list(answers), []

    def works(self):
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def put(self, source, size, sha256, sent):
        self.sent.append(source.read())


@pytest.fixture
def sent(tmp_path, monkeypatch):
    """Return a function that sends a payload, and tells by which ways it went."""
    monkeypatch.setattr(files, "SOON_S", 0.02)
    monkeypatch.setattr(files, "START_S", 0.2)
    payload = tmp_path / "payload.bin"
    payload.write_bytes(b"functions")

    def send(fast):
        run = PodFiles(None, "pod", "head", "token")
        run._fast, run._sure = fast, Way(True)
        with payload.open("rb") as file:
            run.put(file, "0" * 64)
        return run._fast.sent, run._sure.sent

    return send


def test_a_payload_waits_for_a_head_that_is_starting_and_takes_the_fast_way(sent):
    assert sent(Way(False, False, True)) == ([b"functions"], [])


def test_a_payload_goes_by_exec_where_the_fast_way_does_not_come(sent):
    assert sent(Way(False)) == ([], [b"functions"])


class Counted(Way):
    """A way that counts how often it was tried."""

    tried = 0

    def works(self):
        self.tried += 1
        return super().works()


@pytest.fixture
def pod(monkeypatch):
    """Return a function that gives the files in a pod of whose server this is the fast way."""

    def make(fast, token="token"):
        run = PodFiles(None, "pod", "head", token)
        run._fast, run._sure = fast, Way(True)
        return run

    monkeypatch.setattr(files, "FRESH_S", 0.5)
    monkeypatch.setattr(files, "EAGER_S", 0.01)
    return make


def test_a_reader_waits_a_moment_for_a_server_that_is_starting(pod):
    run = pod(Counted(False, False, True))
    assert run.way() is run._fast
    assert run._fast.tried == 3
    assert run.way() is run._fast
    assert run._fast.tried == 3


def test_a_reader_takes_exec_where_no_server_comes(pod):
    run = pod(Counted(False))
    assert run.way() is run._sure
    assert run._fast.tried > 2
    tried = run._fast.tried
    assert run.way() is run._sure  # it is not waited for a second time
    assert run._fast.tried <= tried + 1


def test_a_proxy_that_is_slow_to_say_no_and_one_without_a_token_are_not_waited_for(
    pod, monkeypatch
):
    monkeypatch.setattr(files, "TRY_S", 0.0)  # any answer is a slow one
    run = pod(Counted(False))
    assert run.way() is run._sure
    assert run._fast.tried == 1
    run = pod(Counted(True), token="")
    assert run.way() is run._sure
    assert run._fast.tried == 0
