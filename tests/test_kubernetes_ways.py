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
