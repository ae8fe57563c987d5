"""The frames between head, agent and trainer."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbtrain.runtime.wire import Channel, Decoder, ProtocolError, encode

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
headers = st.dictionaries(st.text(), json_values, max_size=4)
frames = st.lists(st.tuples(headers, st.binary(max_size=200)), max_size=5)


@given(frames, st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_frames_survive_being_cut_anywhere(sent, cuts):
    stream = b"".join(bytes(part) for header, body in sent for part in encode(header, body))
    decoder, received, position, turn = Decoder(), [], 0, 0
    while position < len(stream):
        size = cuts[turn % len(cuts)]
        received += decoder.feed(stream[position : position + size])
        position, turn = position + size, turn + 1
    assert received == sent


@given(st.lists(st.binary(max_size=64), max_size=10))
def test_garbage_is_a_protocol_error_and_nothing_worse(pieces):
    decoder = Decoder()
    try:
        for piece in pieces:
            for header, body in decoder.feed(piece):
                assert isinstance(header, dict)
                assert isinstance(body, bytes)
    except ProtocolError:
        pass


def test_an_absurd_length_is_refused_before_memory_is_taken():
    with pytest.raises(ProtocolError):
        list(Decoder().feed(struct.pack(">IQ", 10, 1 << 60)))


def test_a_header_that_is_no_object_is_refused():
    with pytest.raises(ProtocolError):
        list(Decoder().feed(struct.pack(">IQ", 2, 0) + b"[]"))


def test_a_channel_ends_when_the_other_side_closes():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Channel(ours).send({"say": "one"}, b"body")
        ours.close()
        assert list(Channel(theirs).receive()) == [({"say": "one"}, b"body")]
