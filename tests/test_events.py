"""Events as lines of a file."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbtrain.runtime import eventlog, events
from nbtrain.runtime.events import Ended, EpochEnd, Failed, Phase, Progress, Saved, Started, Warned

floats = st.floats(allow_nan=False) | st.sampled_from([math.inf, -math.inf])
logs = st.dictionaries(st.text(), floats, max_size=3)
some_events = st.one_of(
    st.builds(Started, workers=st.integers(1, 64), epochs=st.integers(1, 9)),
    st.builds(Phase, worker=st.integers(0, 63), phase=st.sampled_from(events.PHASES)),
    st.builds(Progress, epoch=st.integers(0, 9), step=st.integers(0, 99), logs=logs),
    st.builds(EpochEnd, epoch=st.integers(0, 9), steps=st.integers(0, 99), logs=logs),
    st.builds(Saved, what=st.text(), path=st.text()),
    st.builds(Warned, code=st.text(), message=st.text()),
    st.builds(Failed, worker=st.none() | st.integers(0, 9), cause=st.text(), message=st.text()),
    st.builds(Ended, outcome=st.sampled_from(events.OUTCOMES)),
)


@given(some_events)
def test_an_event_comes_back_from_its_line(event):
    line = events.encode(event)
    assert "\n" not in line
    assert events.decode(line) == event


def test_nan_losses_survive_json():
    event = events.decode(events.encode(EpochEnd(epoch=0, steps=1, logs={"loss": math.nan})))
    assert isinstance(event, EpochEnd)
    assert math.isnan(event.logs["loss"])


@given(st.binary() | st.text())
def test_any_line_decodes_or_is_no_event(line):
    with contextlib.suppress(ValueError):
        events.decode(line)


@given(st.dictionaries(st.text(), st.integers() | st.text()))
def test_unknown_kinds_and_fields_are_ignored(fields):
    assert events.decode(json.dumps(fields | {"kind": "of a later version"})) is None
    known = events.decode(json.dumps({**fields, "kind": "warned", "code": "c", "message": "m"}))
    assert isinstance(known, Warned)


def test_a_log_goes_on_after_a_head_that_died_in_the_middle_of_a_line(tmp_path):
    path = tmp_path / "events.jsonl"
    log = eventlog.EventLog(path)
    log.append(Warned(code="a", message="first"), 1)
    log.close()
    with path.open("ab") as file:
        file.write(b'{"v": 1, "kind": "warn')
    log = eventlog.EventLog(path)
    log.append(Warned(code="b", message="second"), 2)
    log.close()
    assert [(e.seq, e.code, e.generation) for e in eventlog.read(path)] == [
        (0, "a", 1),
        (1, "b", 2),
    ]
    assert all(dataclasses.is_dataclass(e) for e in eventlog.read(path))


def test_a_line_that_is_no_event_raises_value_error():
    with pytest.raises(ValueError, match="no kind"):
        events.decode("{}")
