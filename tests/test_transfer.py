"""What is shown of big files on their way."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import pytest

from nbtrain import display, transfer
from nbtrain.backend import RunRef
from nbtrain.backends.docker import tars
from nbtrain.files import RunPath
from nbtrain.transfer import Transfer

PIECE = bytes(10_000_000)


class Slow:
    """A backend whose files come in three pieces."""

    def read(self, ref, path, offset=0, follow=False):
        if not path:
            yield json.dumps([{"path": "model.keras", "bytes": 3 * len(PIECE)}]).encode()
            return
        yield from [PIECE] * 3


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(display, "INTERVAL_S", 0.0)
    return RunPath(Slow(), RunRef("docker", "digits", "digits-1"), "model.keras")


def test_a_file_that_takes_long_is_told_of_in_a_terminal(model, monkeypatch):
    monkeypatch.setattr(transfer, "SHOWN_S", -1.0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert len(model.read_bytes()) == 3 * len(PIECE)
    lines = sys.stderr.getvalue().split("\r\x1b[K")
    assert [line.split(",")[0] for line in lines] == [
        "",
        "reading model.keras: 10.0 MB of 30.0 MB",
        "reading model.keras: 20.0 MB of 30.0 MB",
        "reading model.keras: 30.0 MB of 30.0 MB",
        "",
    ]
    assert "/s" in lines[1]


def test_a_log_has_one_line_of_it(model, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(transfer, "SHOWN_S", -1.0)
    model.download(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("reading model.keras: 10.0 MB of 30.0 MB")


def test_a_notebook_shows_a_line_that_is_taken_away(model, monkeypatch):
    published = []

    def publish(data, metadata, transient, update=False):
        published.append((data["text/plain"].split(",")[0], transient["display_id"], update))

    shell = SimpleNamespace(display_pub=SimpleNamespace(publish=publish))
    monkeypatch.setattr(display, "kernel_shell", lambda: shell)
    monkeypatch.setattr(transfer, "SHOWN_S", -1.0)
    model.read_bytes()
    said, ids, updates = zip(*published, strict=True)
    assert said[0] == "reading model.keras: 10.0 MB of 30.0 MB"
    assert said[-1] == ""
    assert len(set(ids)) == 1
    assert updates == (False, True, True, True)


def test_what_is_quick_is_not_told_of(model, monkeypatch, capsys):
    monkeypatch.setattr(transfer, "SHOWN_S", 1000.0)
    model.read_bytes()
    assert capsys.readouterr().err == ""


def test_what_is_sent_to_containers_is_counted(tmp_path):
    payload, told = tmp_path / "payload.bin", []
    payload.write_bytes(bytes(tars.CHUNK + 1))
    archive = tars.packed({"payload.bin": payload, "token": b"x"}, "run", lambda *n: told.append(n))
    assert sum(map(len, archive)) % 512 == 0
    assert told == [(tars.CHUNK, tars.CHUNK + 1), (tars.CHUNK + 1, tars.CHUNK + 1)]


def test_the_time_left_is_that_of_the_rate_so_far():
    times = iter([0.0, 4.0, 10.0])
    sending = Transfer("sending", lambda: next(times))
    assert sending.said(0, 1_000_000_000) == "sending: 0 B of 1.0 GB"
    said = "sending: 500 MB of 1.0 GB, 50.0 MB/s, 10 s left"
    assert sending.said(500_000_000, 1_000_000_000) == said
