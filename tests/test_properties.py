"""What comes from outside may be anything: no input may crash, hang or be half believed.

Where CI is set, 100,000 inputs in all; else a small part of them. They are the same in every run
(`derandomize`), so that a red run can be looked at and a green one says nothing by luck.
"""

from __future__ import annotations

import itertools
import json
import os
import string
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbtrain.errors import NbtrainError
from nbtrain.line import parse
from nbtrain.request import OPTIONS, make_request
from nbtrain.runtime import checkpoint, eventlog, events, tensors, wire
from nbtrain.runtime.errors import Corrupt
from nbtrain.runtime.events import Ended, EpochEnd, Progress, Saved
from nbtrain.runtime.rundir import RunDir

SHARE = 1.0 if os.environ.get("CI") else 0.02


def inputs(count: int):
    """Return the settings for a test with so many inputs in CI."""
    return settings(
        max_examples=max(20, int(count * SHARE)), derandomize=True, database=None,
        deadline=timedelta(seconds=2), suppress_health_check=(),
    )  # fmt: skip


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
KINDS = st.sampled_from([*events.KINDS, "of-tomorrow"])
LOGS = st.dictionaries(st.text(max_size=8), st.floats(), max_size=4)
EVENTS = st.one_of(
    st.builds(
        Progress, epoch=st.integers(0, 99), step=st.integers(0, 10**9), logs=LOGS,
        seq=st.integers(0, 10**6), time=st.floats(0, 2e9),
    ),
    st.builds(EpochEnd, epoch=st.integers(0, 99), steps=st.integers(0, 10**6), logs=LOGS),
    st.builds(Saved, what=st.text(max_size=9), path=st.text(max_size=9), bytes=st.integers(0)),
    st.builds(Ended, outcome=st.sampled_from(events.OUTCOMES), message=st.text(max_size=50)),
)  # fmt: skip

# -- the event decoder ----------------------------------------------------------------------------


def decoded(line: str | bytes) -> events.Event | None:
    try:
        return events.decode(line)
    except ValueError:
        return None


@inputs(20_000)
@given(st.text() | st.binary())
def test_any_line_is_an_event_or_none(line):
    assert decoded(line) is None or json.loads(line)["kind"] in events.KINDS


@inputs(8_000)
@given(KINDS, st.dictionaries(st.sampled_from(["seq", "epoch", "logs", "worker", "x"]), JSON))
def test_any_json_is_an_event_or_none(kind, fields):
    event = decoded(json.dumps({**fields, "kind": kind}))
    assert (event is None) == (kind not in events.KINDS)


@inputs(9_000)
@given(EVENTS)
def test_what_is_written_is_read_again(event):
    again = events.decode(events.encode(event))
    assert repr(again) == repr(event)  # NaN is not equal to itself


# -- the wire -------------------------------------------------------------------------------------

HEADERS = st.dictionaries(st.text(max_size=6), st.integers() | st.text(max_size=6), max_size=2)
FRAMES = st.lists(st.tuples(HEADERS, st.binary(max_size=60)), max_size=3)


def frames_of(data: bytes, cuts: list[int]) -> list[tuple[dict, bytes]] | None:
    """Return what a decoder makes of data in pieces; None where it says that it is none."""
    decoder = wire.Decoder()
    found = []
    edges = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    try:
        for a, b in itertools.pairwise(edges):
            found += decoder.feed(data[a:b])
    except wire.ProtocolError:
        return None
    assert len(decoder._buffer) <= len(data)
    return found


def encoded(frames: list[tuple[dict, bytes]]) -> bytes:
    return b"".join(bytes(part) for frame in frames for part in wire.encode(*frame))


@inputs(8_000)
@given(FRAMES, st.lists(st.integers(0, 10**6), max_size=6))
def test_frames_are_read_whatever_the_pieces(frames, cuts):
    read = frames_of(encoded(frames), cuts)
    assert read is not None
    assert [body for _, body in read] == [body for _, body in frames]
    assert [json.dumps(h) for h, _ in read] == [json.dumps(h) for h, _ in frames]


@inputs(20_000)
@given(st.binary(max_size=400), st.lists(st.integers(0, 10**6), max_size=6))
def test_any_bytes_are_frames_or_refused(data, cuts):
    for header, body in frames_of(data, cuts) or []:
        assert isinstance(header, dict)
        assert isinstance(body, bytes)


@inputs(8_000)
@given(FRAMES.filter(bool), st.integers(0), st.integers(1, 255))
def test_a_flipped_byte_is_no_crash(frames, where, flip):
    data = bytearray(encoded(frames))
    data[where % len(data)] ^= flip
    read = frames_of(bytes(data), [])
    assert read is None or len(read) <= len(data) // 12


# -- the run directory ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rundir")


@inputs(3_000)
@given(written=st.lists(EVENTS, min_size=1, max_size=5), part=st.floats(0, 1))
def test_events_of_a_head_that_died_anywhere_are_gone_on_with(folder, written, part):
    path = folder / "events.jsonl"
    path.unlink(missing_ok=True)
    log = eventlog.EventLog(path)
    for event in written:
        log.append(event, 1)
    log.close()
    whole = path.read_bytes()
    left = whole[: int(part * len(whole))]
    path.write_bytes(left)
    again = eventlog.EventLog(path)
    assert len(again.past) == left.count(b"\n")
    again.append(Ended(outcome="stopped"), 2)
    again.close()
    after = eventlog.read(path)
    assert isinstance(after[-1], Ended)
    assert [e.seq for e in after] == list(range(left.count(b"\n") + 1))


@inputs(5_000)
@given(st.binary(max_size=200) | JSON.map(lambda v: json.dumps(v).encode()))
def test_a_damaged_request_is_said_to_be(folder, content):
    rundir = RunDir(folder)
    (folder / RunDir.REQUEST).write_bytes(content)
    try:
        found = rundir.read_json(RunDir.REQUEST)
    except Corrupt as error:
        found = {"said": str(error)}
    assert isinstance(found, dict)
    assert RunDir.REQUEST in found.get("said", RunDir.REQUEST)


STATE = checkpoint.State(
    2, 3, {"model/0": np.arange(12.0).reshape(3, 4), "model/1": np.zeros(0, "int32")}, b"x" * 9
)


@inputs(6_000)
@given(cut=st.integers(0), where=st.integers(0), flip=st.integers(0, 255))
def test_a_damaged_checkpoint_is_said_to_be_or_read(folder, cut, where, flip):
    path = folder / "state.safetensors"
    data = bytearray(b"".join(bytes(p) for p in checkpoint.pieces(STATE)))
    data[where % len(data)] ^= flip
    data = data[: len(data) - cut % 2 * (cut % len(data))]
    path.write_bytes(data)
    try:
        state = checkpoint.read(path)
    except Corrupt:
        return
    assert all(isinstance(a, np.ndarray) for a in state.variables.values())


@inputs(4_000)
@given(st.binary(max_size=300))
def test_any_file_is_tensors_or_corrupt(folder, content):
    path = folder / "any.safetensors"
    path.write_bytes(content)
    try:
        tensors.load(path)
    except Corrupt:
        return


# -- the cell's line ------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [o.dashed for o in OPTIONS] + [f"--no-{o.name}" for o in OPTIONS if o.flag]
    + ["2", "-1", "1e9", "auto", "{n}", "{", "}", "'", '"', "\\", "#", "=", "--", "-w", "name", "٣",
       "epoch", "100steps", "5m", "nan", "inf", "True", "{0: 1}", "local", "a b", "∞", "0x10"]
)  # fmt: skip
LINES = st.one_of(
    st.lists(WORDS, max_size=8).map(" ".join),
    st.lists(st.tuples(WORDS, WORDS).map("=".join), max_size=4).map(" ".join),
    st.text(alphabet=string.printable, max_size=60),
    st.text(max_size=40),
)


def put_in(word: str) -> object:
    return {"{n}": 3, "{0: 1}": {0: 1.0}}.get(word, word)


@inputs(10_000)
@given(LINES)
def test_any_line_of_options_is_a_request_or_a_sentence(line):
    try:
        parsed = parse(line.replace("\n", " "), expand=put_in)
        fields = {o.name for o in OPTIONS if o.field or o.fit} - {"name"}
        options = {k: v for k, v in parsed.options.items() if k in fields}
        request = make_request(parsed.options.get("name", "t"), options)
    except NbtrainError as error:
        said = str(error)
    else:
        said = repr(request.from_json(json.loads(json.dumps(request.to_json()))))
    assert said.strip()
