"""A run directory over HTTP and over a pipe: whole, or known not to be."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import threading
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbtrain.runtime import framing, reading
from nbtrain.runtime.errors import Corrupt
from nbtrain.runtime.reading import take_lock
from nbtrain.runtime.receiving import receive
from nbtrain.runtime.rundir import RunDir
from nbtrain.runtime.serving import SHA256_HEADER, TOKEN_HEADER, Server

from .harness import until

TOKEN = "a-token"
PAYLOAD = bytes(range(256)) * 9000
SHA256 = hashlib.sha256(PAYLOAD).hexdigest()


@pytest.fixture
def rundir(tmp_path):
    rundir = RunDir(tmp_path / "run")
    rundir.create()
    rundir.write_json(RunDir.REQUEST, {"name": "t", "payload_sha256": SHA256})
    (rundir / RunDir.EVENTS).write_bytes(b"one\ntwo\n")
    (tmp_path / "outside").write_text("secret")
    return rundir


@pytest.fixture
def server(rundir):
    calls = []
    server = Server(
        rundir, TOKEN, on_stop=lambda: calls.append("stop"), on_quit=lambda: calls.append("quit")
    ).start()
    server.calls = calls
    yield server
    server.close()
    until(lambda: not [t for t in threading.enumerate() if "process_request" in t.name])


def ask(server, method, path, body=None, headers=None, token=TOKEN):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    given = {TOKEN_HEADER: token} if token is not None else {}
    with contextlib.closing(connection):
        connection.request(method, path, body, {**given, **(headers or {})})
        response = connection.getresponse()
        return response.status, response.read()


def get(server, path, **keywords):
    return ask(server, "GET", path, **keywords)


def unframed(data):
    unframer = framing.Unframer()
    found = b"".join(unframer.feed(data))
    return found, unframer.sealed


# -- frames ---------------------------------------------------------------------------------------

PIECES = st.lists(st.binary(max_size=40), max_size=6)


@given(PIECES, st.lists(st.integers(1, 50), min_size=1))
def test_frames_may_arrive_in_pieces_of_any_size(pieces, sizes):
    stream = io.BytesIO(b"".join(framing.framed(pieces)))
    unframer, found = framing.Unframer(), b""
    while not unframer.sealed:
        data = stream.read(sizes[0])
        sizes = sizes[1:] + sizes[:1]
        assert data
        found += b"".join(unframer.feed(data))
    assert found == b"".join(pieces)
    assert not stream.read()


@given(PIECES, st.integers(0, 10**6), st.integers(1, 255))
def test_a_damaged_stream_is_never_sealed_with_other_data(pieces, place, change):
    stream = bytearray(b"".join(framing.framed(pieces)))
    stream[place % len(stream)] ^= change
    with contextlib.suppress(Corrupt):
        found, sealed = unframed(bytes(stream))
        assert not sealed or found == b"".join(pieces)


@given(PIECES, st.integers(0, 10**6))
def test_a_stream_that_is_cut_off_is_not_sealed(pieces, place):
    stream = b"".join(framing.framed(pieces))
    _, sealed = unframed(stream[: place % len(stream)])
    assert not sealed


def test_silence_becomes_a_frame_now_and_then(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(framing.time, "monotonic", lambda: next(clock) * 0.6)
    frames = list(framing.framed([b""] * 8 + [b"x"]))
    assert frames[:-3] == [bytes(4)] * 4
    assert frames[-3:-1] == [b"\0\0\0\1", b"x"]


# -- reading --------------------------------------------------------------------------------------


def test_a_file_is_read_from_an_offset(server):
    assert get(server, "/files/events.jsonl") == (200, b"one\ntwo\n")
    assert get(server, "/files/events.jsonl?offset=4") == (200, b"two\n")
    assert get(server, "/files/events.jsonl?offset=400") == (200, b"")
    assert unframed(get(server, "/files/events.jsonl?offset=4&frames=1")[1]) == (b"two\n", True)


BIG = bytes(range(251)) * (3 * reading.CHUNK // 251 + 1)


def begun(server, path):
    """Ask for a file; return the connection and the answer, of which nothing has been read."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", path, headers={TOKEN_HEADER: TOKEN})
    return connection, connection.getresponse()


@pytest.mark.parametrize("offset", [0, 1, len(BIG) - 2 * reading.CHUNK, len(BIG), len(BIG) + 1])
def test_a_file_comes_with_its_length_and_one_that_is_followed_without(server, rundir, offset):
    (rundir / "logs/worker-0.log").write_bytes(BIG)
    path = f"/files/logs/worker-0.log?offset={offset}"
    for query in ("", "&frames=1"):
        connection, response = begun(server, path + query)
        with contextlib.closing(connection):
            body = response.read()
            assert response.headers["Content-Length"] == str(len(body))
        assert (unframed(body) if query else (body, True)) == (BIG[offset:], True)
    connection, response = begun(server, f"{path}&frames=1&follow=1")
    with contextlib.closing(connection):
        assert response.headers["Content-Length"] is None
        assert unframed(response.read()) == (BIG[offset:], True)


def test_what_is_written_meanwhile_is_left_out(rundir):
    path = "logs/worker-0.log"
    (rundir / path).write_bytes(BIG)
    with (rundir / path).open("rb") as read:
        pieces = reading.exactly(read, len(BIG))
        first = next(pieces)
        with (rundir / path).open("ab") as file:
            file.write(b"more")
        assert first + b"".join(pieces) == BIG


def test_a_file_that_became_shorter_is_not_taken_for_whole(server, rundir):
    for query in ("", "?frames=1"):
        with (rundir / RunDir.EVENTS).open("wb") as file:
            file.truncate(64 << 20)  # more than is on its way before anybody reads
        connection, response = begun(server, f"/files/events.jsonl{query}")
        os.truncate(rundir / RunDir.EVENTS, 1000)
        with contextlib.closing(connection), pytest.raises(http.client.IncompleteRead):
            response.read()


def test_a_digest_that_is_known_is_that_of_the_seal(server, rundir):
    (rundir / RunDir.WEIGHTS).write_bytes(BIG)
    asked = []

    def sha256(name, stat):
        asked.append((name, stat.st_size))
        return known

    server.sha256 = sha256
    path = f"/files/{RunDir.WEIGHTS}?frames=1"
    known = hashlib.sha256(BIG).digest()
    assert unframed(get(server, path)[1]) == (BIG, True)
    known = bytes(32)  # not what comes: it was damaged on the disk
    with pytest.raises(Corrupt):
        unframed(get(server, path)[1])
    assert unframed(get(server, f"{path}&offset=1")[1]) == (BIG[1:], True)
    known = None
    assert unframed(get(server, path)[1]) == (BIG, True)
    assert asked == [(RunDir.WEIGHTS, len(BIG))] * 3


@pytest.mark.parametrize("size", [framing._Digest.SMALL - 1, 5 * framing._Digest.SMALL + 7])
def test_a_seal_is_the_sha256_of_all_pieces_in_their_order(size):
    data = os.urandom(size)
    pieces = [data[i : i + (1 << 18)] for i in range(0, size, 1 << 18)]
    stream = b"".join(framing.framed(pieces))
    assert stream.endswith(hashlib.sha256(data).digest())
    unframer = framing.Unframer()
    found = [piece for i in range(0, len(stream), 100_003)
             for piece in unframer.feed(stream[i : i + 100_003])]  # fmt: skip
    assert b"".join(found) == data
    assert unframer.sealed


def test_a_folder_gives_its_index(server):
    status, body = get(server, "/files/")
    assert status == 200
    assert {f["path"] for f in json.loads(body)} == {"events.jsonl", "request.json"}


@pytest.mark.parametrize("offset", ["-1", "x", "1.5", "9" * 30, "²"])
def test_a_strange_offset_is_refused(server, offset):
    assert get(server, f"/files/events.jsonl?offset={quote(offset)}")[0] == 400


def test_a_file_that_is_not_there(server):
    assert get(server, "/files/nothing")[0] == 404
    assert get(server, "/files/events.jsonl/x")[0] == 404
    assert get(server, "/files/" + "x" * 300)[0] == 404
    assert get(server, "/else")[0] == 404


@pytest.mark.parametrize("token", [None, "", "b-token", "a-token ", "a-tokenx", "\xe9"])
@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_without_the_token_there_is_nothing(server, rundir, method, token):
    path = {"GET": "/files/events.jsonl", "PUT": "/payload", "POST": "/stop"}[method]
    if token == "a-token ":  # HTTP itself drops the space
        token = "a-token."
    status, body = ask(server, method, path, b"", {SHA256_HEADER: SHA256}, token)
    assert status == 403
    assert b"one" not in body
    assert not (rundir / RunDir.PAYLOAD).exists()
    assert not server.calls


@pytest.mark.parametrize(
    "path", ["../outside", "%2e%2e/outside", "logs/../../outside", "/etc/passwd", "link", "%00"]
)
@pytest.mark.parametrize("follow", [0, 1])
def test_no_path_leaves_the_run_directory(server, rundir, path, follow):
    (rundir / "link").symlink_to(rundir.path.parent / "outside")
    status, body = get(server, f"/files/{path}?follow={follow}")
    assert status == 403
    assert b"secret" not in body


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(max_size=30), st.booleans())
def test_any_path_is_answered(server, path, escaped):
    raw = quote(path, safe="/") if escaped else quote(path, safe="/%?&=#;.")
    status, body = get(server, f"/files/../{raw}")
    assert status in (200, 400, 403, 404)
    assert b"secret" not in body


@given(data=st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_leave_the_server_alive(server, data):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            sock.recv(1000)
    assert get(server, "/files/events.jsonl")[0] == 200


# -- following ------------------------------------------------------------------------------------


def follow(server, path, offset=0, pieces=None):
    """Follow a file to its end; returns what came and whether it is sealed."""
    unframer, found = framing.Unframer(), b""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    with contextlib.closing(connection):
        address = f"/files/{path}?offset={offset}&follow=1&frames=1"
        connection.request("GET", address, headers={TOKEN_HEADER: TOKEN})
        response = connection.getresponse()
        with contextlib.suppress(http.client.IncompleteRead):
            while data := response.read1(1000):
                for piece in unframer.feed(data):
                    found += piece
                    if pieces is not None:
                        pieces.append(piece)
    return found, unframer.sealed


class Following(threading.Thread):
    def __init__(self, *arguments):
        super().__init__()
        self.pieces, self.result = [], None
        self.arguments = arguments
        self.start()

    def run(self):
        self.result = follow(*self.arguments, pieces=self.pieces)

    def wait(self):
        self.join(20)
        assert not self.is_alive()
        return self.result


def test_many_follow_at_once_and_all_see_all(server, rundir):
    head = take_lock(rundir)
    readers = [Following(server, "logs/worker-0.log", i) for i in range(8)]
    until(lambda: all(not b"".join(r.pieces) for r in readers))
    expected = b""
    with (rundir / "logs/worker-0.log").open("ab", buffering=0) as file:
        for number in range(200):
            line = b"line %d\n" % number
            file.write(line)
            expected += line
            if number == 100:
                until(lambda: all(b"line 90" in b"".join(r.pieces) for r in readers))
        os.close(head)
        for i, reader in enumerate(readers):
            assert reader.wait() == (expected[i:], True)


def test_silence_is_told_from_a_dead_connection(server, rundir):
    head = take_lock(rundir)
    reader = Following(server, RunDir.EVENTS)
    until(lambda: reader.pieces[-2:] == [b"", b""])
    os.close(head)
    assert reader.wait() == (b"one\ntwo\n", True)


def test_a_server_that_ends_seals_nothing(server, rundir):
    head = take_lock(rundir)
    reader = Following(server, RunDir.EVENTS)
    until(lambda: reader.pieces)
    server.close()
    assert reader.wait() == (b"one\ntwo\n", False)
    os.close(head)


def test_a_follower_that_goes_away_leaves_no_thread(server, rundir):
    head = take_lock(rundir)
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        line = (
            f"GET /files/events.jsonl?follow=1&frames=1 HTTP/1.1\r\n{TOKEN_HEADER}: {TOKEN}\r\n\r\n"
        )
        sock.sendall(line.encode())
        assert sock.recv(10)
    until(lambda: not [t for t in threading.enumerate() if "process_request" in t.name])
    os.close(head)


# -- writing --------------------------------------------------------------------------------------


def put(server, body=PAYLOAD, sha256=SHA256, **headers):
    return ask(server, "PUT", "/payload", body, {SHA256_HEADER: sha256, **headers})


def parts(rundir):
    return [name for name in os.listdir(rundir.path) if name.endswith(".part")]


def test_the_payload_is_put(server, rundir):
    assert put(server)[0] == 201
    assert (rundir / RunDir.PAYLOAD).read_bytes() == PAYLOAD
    assert put(server)[0] == 201  # again, after an answer that was lost


@pytest.mark.parametrize(
    ("body", "sha256", "status"),
    [
        (PAYLOAD[:-1] + b"x", SHA256, 400),
        (PAYLOAD[:-1], SHA256, 400),
        (PAYLOAD, "0" * 64, 409),
        (PAYLOAD, "", 409),
    ],
)
def test_another_payload_leaves_nothing_behind(server, rundir, body, sha256, status):
    # What the server refuses at first sight it does not read.
    with contextlib.suppress(ConnectionError):
        assert put(server, body, sha256)[0] == status
    assert not (rundir / RunDir.PAYLOAD).exists()
    assert not parts(rundir)


def test_a_payload_that_breaks_off_can_be_put_again(server, rundir):
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        head = f"PUT /payload HTTP/1.1\r\n{TOKEN_HEADER}: {TOKEN}\r\n{SHA256_HEADER}: {SHA256}\r\n"
        sock.sendall(f"{head}Content-Length: {len(PAYLOAD)}\r\n\r\n".encode() + PAYLOAD[:2000000])
        until(lambda: parts(rundir))
        assert put(server, b"")[0] == 409  # the first is on its way
    until(lambda: not parts(rundir))
    assert put(server)[0] == 201


def test_the_length_has_to_be_known(server):
    body = iter([PAYLOAD])
    with contextlib.suppress(ConnectionError):
        assert put(server, body)[0] == 411


def test_stop_and_quit_are_passed_on(server):
    assert ask(server, "POST", "/stop")[0] == 202
    assert ask(server, "POST", "/quit")[0] == 202
    until(lambda: server.calls == ["stop", "quit"])
    assert ask(server, "POST", "/dance")[0] == 404


def test_a_server_without_a_token_is_no_server(rundir):
    with pytest.raises(ValueError, match="token"):
        Server(rundir, "")


# -- the roles ------------------------------------------------------------------------------------


def runtime(*arguments, **keywords):
    from nbtrain.payload import runtime_zip

    command = [sys.executable, "-I", str(runtime_zip()), *map(str, arguments)]
    return subprocess.Popen(command, **keywords)


def test_a_file_is_received_from_the_standard_input(rundir):
    arguments = ("receive", rundir.path, RunDir.PAYLOAD, SHA256, len(PAYLOAD))
    # The input is not closed: some ways into a container can't say that it has ended.
    process = runtime(*arguments, stdin=subprocess.PIPE)
    process.stdin.write(PAYLOAD)
    process.stdin.flush()
    assert process.wait(20) == 0
    process.stdin.close()
    assert (rundir / RunDir.PAYLOAD).read_bytes() == PAYLOAD


def test_what_is_not_received_whole_is_not_there(rundir):
    with pytest.raises(Corrupt, match="3 of 4 bytes came"):
        receive(rundir, RunDir.PAYLOAD, io.BytesIO(b"abc"), 4, SHA256)
    with pytest.raises(Corrupt, match="SHA-256"):
        receive(rundir, RunDir.PAYLOAD, io.BytesIO(b"abc"), 3, SHA256)
    assert not (rundir / RunDir.PAYLOAD).exists()
    assert not parts(rundir)


def test_reading_through_a_pipe_is_sealed_too(rundir):
    process = runtime("read", rundir.path, RunDir.EVENTS, "--frames", stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=20)
    assert unframed(out) == (b"one\ntwo\n", True)


class Served:
    """A server in a process of its own, as in a pod that only mounts the volume."""

    def __init__(self, rundir, *arguments):
        given = rundir.path.parent / "given"
        given.mkdir()
        (given / "token").write_text(TOKEN + "\n")
        self.process = runtime(
            "serve", rundir.path, "--given", given, *arguments, stdout=subprocess.PIPE
        )
        self.port = int(self.process.stdout.readline().split()[-1])

    def end(self):
        status = self.process.wait(20)
        self.process.stdout.close()
        return status


def test_it_serves_by_itself_until_it_is_sent_away(rundir):
    served = Served(rundir)
    assert follow(served, RunDir.EVENTS) == (b"one\ntwo\n", True)
    assert ask(served, "POST", "/stop")[0] == 404
    assert ask(served, "POST", "/quit")[0] == 202
    assert served.end() == 0


def test_it_can_be_asked_from_its_own_machine(rundir):
    served = Served(rundir)
    given = rundir.path.parent / "given"

    def asked(what):
        server = f"127.0.0.1:{served.port}"
        process = runtime("ask", what, "--given", given, "--server", server, stderr=subprocess.PIPE)
        _, said = process.communicate(timeout=20)
        return process.returncode, said

    assert asked("stop")[0] == 1
    assert asked("quit") == (0, b"")
    assert served.end() == 0
    assert b"refused" in asked("quit")[1]


def test_it_ends_when_nobody_asks_any_more(rundir):
    served = Served(rundir, "--unasked", "0.2")
    assert served.end() == 0


def test_it_ends_on_sigterm(rundir):
    served = Served(rundir)
    served.process.terminate()
    assert served.end() == 0
