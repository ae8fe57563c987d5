"""Servers of trainers are kept off the network."""

from __future__ import annotations

import os
import selectors
import socket
import sys

import pytest

from nbtrain.runtime import loopback

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux'")


def _bind_in_child(family: int, address: tuple[str, int]) -> str:
    """Return the address that a child under `loopback` is bound to when it asks for `address`."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            socket.send_fds(theirs, [b"."], [loopback.install()])
            with socket.socket(family) as sock:
                try:
                    sock.bind(address)
                    answer = sock.getsockname()[0]
                except OSError as error:
                    answer = os.strerror(error.errno)
            theirs.sendall(answer.encode())
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        listener = socket.recv_fds(ours, 1, 1)[1][0]
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(ours, selectors.EVENT_READ)
            while ours not in [key.fileobj for key, _ in selector.select(10)]:
                loopback.answer(listener, pid)
        os.close(listener)
        os.waitpid(pid, 0)
        return ours.recv(100).decode()


@pytest.mark.parametrize(
    ("family", "asked", "got"),
    [
        (socket.AF_INET, "0.0.0.0", "127.0.0.1"),
        (socket.AF_INET, "127.0.0.2", "127.0.0.2"),
        (socket.AF_INET6, "::", "::ffff:127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
    ],
)
def test_all_addresses_become_loopback_and_others_stay(family, asked, got):
    assert _bind_in_child(family, (asked, 0)) == got


def test_an_address_in_use_is_still_an_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert "in use" in _bind_in_child(socket.AF_INET, ("0.0.0.0", port))
