"""A run directory over HTTP, for whoever has the run's token: in the head, or by itself.

    GET  /files/PATH?offset=N&follow=1&frames=1   a file, or a folder's index (JSON)
    PUT  /payload                                 the payload, where it was too big to come along
    POST /stop                                    stop at the next step, save what there is
    POST /quit                                    the results were fetched: serving may end

The token comes in a header of its own and never in an address, which proxies write into logs:
the API server of Kubernetes keeps `Authorization` for itself. With `frames` a file comes in frames
with a seal (see `framing`); without, plainly, for a browser or curl.
"""

from __future__ import annotations

import argparse
import hmac
import http.client
import http.server
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from . import framing, reading
from .errors import Corrupt
from .receiving import receive
from .rundir import RunDir

_T = TypeVar("_T")

TOKEN_HEADER = "X-Nbtrain-Token"
SHA256_HEADER = "X-Nbtrain-SHA256"
#: A connection on which nothing can be sent, or nothing comes, is closed after so long, in seconds.
IDLE_S = 120.0
#: By itself it serves until nobody has asked for anything for so long, in seconds.
UNASKED_S = 600.0


class _Refused(Exception):
    """The request is answered with an error."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class Server:
    """Serves a run directory from threads of its own.

    Parameters
    ----------
    rundir, token
        What is served, and what a request has to present.
    host, port
        Where; 0 takes any free port.
    sha256
        Returns that of a file, given by name and state, where it is known already.
    on_stop, on_quit
        Called, in a thread of the server, for the requests of these names; None refuses them.

    Attributes
    ----------
    port : int
        Where it listens.
    asked : float
        When the last request came or was being answered (`time.monotonic`).
    """

    def __init__(
        self,
        rundir: RunDir,
        token: str,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        sha256: Callable[[str, os.stat_result], bytes | None] = lambda name, stat: None,
        on_stop: Callable[[], None] | None = None,
        on_quit: Callable[[], None] | None = None,
    ) -> None:
        if not token:
            raise ValueError("a server needs a token")
        self.rundir, self.token = rundir, token.encode()
        self.sha256, self.on_stop, self.on_quit = sha256, on_stop, on_quit
        self.asked = time.monotonic()
        self.closing = threading.Event()
        self.uploading = threading.Lock()
        self._http = _HTTPServer((host, port), _Handler)
        self._http.run = self
        self.port = int(self._http.server_address[1])
        self._thread = threading.Thread(
            target=self._http.serve_forever,
            args=(0.05,),  # how often it looks whether it is to end, in seconds
            name="nbtrain-serving",
            daemon=True,
        )

    def start(self) -> Server:
        """Begin to serve."""
        self._thread.start()
        return self

    def close(self) -> None:
        """End what is being followed, and serve no more."""
        self.closing.set()
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join()
        self._http.server_close()


class _HTTPServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # who follows is told by `closing`
    request_queue_size = 64
    run: Server

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients, and of files, that go away in the middle."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError | EOFError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "nbtrain", ""
    timeout = IDLE_S
    server: _HTTPServer

    def setup(self) -> None:
        super().setup()
        # A followed line should come when it is written.
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_PUT(self) -> None:
        self._answer(self._put)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing: the events tell the run's story."""

    def _answer(self, work: Callable[[str], None]) -> None:
        self.server.run.asked = time.monotonic()
        try:
            self._check_token()
            work(urlsplit(self.path).path)
        except _Refused as refused:
            self._say(refused.status, str(refused), end=True)

    def _check_token(self) -> None:
        # Bytes, since `compare_digest` takes no text that is not ASCII.
        given = self.headers.get(TOKEN_HEADER, "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, self.server.run.token):
            # Not 401, which a client takes for the API server's own word on the way.
            raise _Refused(HTTPStatus.FORBIDDEN, f"{TOKEN_HEADER} is not that of this run")

    # -- reading ------------------------------------------------------------------------------

    def _get(self, path: str) -> None:
        rundir = self.server.run.rundir
        name = _name(path)
        try:
            rundir.inside(name)
        except PermissionError as error:
            raise _Refused(HTTPStatus.FORBIDDEN, str(error)) from None
        query = parse_qs(urlsplit(self.path).query)
        offset, follow, frames = _offset(query), _on(query, "follow"), _on(query, "frames")
        if not follow and self._found(name, (rundir / name).is_file):
            with self._found(name, lambda: (rundir / name).open("rb")) as file:
                self._send_file(file, name, offset, frames)
            return
        pieces = reading.read(rundir, name, offset, follow)
        # The first piece is read before the answer begins: it may be that there is no file.
        first = self._found(name, lambda: next(pieces, None))
        rest = self._until_closing(_chain(first, pieces))
        self._stream(framing.framed(rest) if frames else rest, None)

    def _found(self, name: str, look: Callable[[], _T]) -> _T:
        try:
            return look()
        except OSError as error:
            raise _Refused(HTTPStatus.NOT_FOUND, f"{name}: {error.strerror}") from None

    def _send_file(self, file: BinaryIO, name: str, offset: int, frames: bool) -> None:
        """Send what a file has now from `offset` on."""
        stat = os.fstat(file.fileno())
        size = max(0, stat.st_size - offset)
        file.seek(offset)
        pieces = self._until_closing(reading.exactly(file, size))
        if not frames:
            self._stream(pieces, size)
            return
        known = self.server.run.sha256(name, stat) if offset == 0 else None
        total = framing.framed_size(size, reading.CHUNK)
        self._stream(framing.framed(pieces, known), total)

    def _until_closing(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self.server.run.asked = time.monotonic()
            if self.server.run.closing.is_set():
                # Not the end of the file: the connection breaks off, and the reader knows.
                raise ConnectionAbortedError("the server ends")
            yield piece

    def _stream(self, pieces: Iterable[bytes], size: int | None) -> None:
        """Send pieces; those of a file that is followed have no size that is known yet.

        With a size it goes several times faster through the API server: its proxy (Go's
        `httputil.ReverseProxy`) flushes after each read where there is none.
        """
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/octet-stream")
        if size is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(size))
        self.end_headers()
        self.close_connection = True  # unless it ends well
        for piece in pieces if size is not None else _chunked(pieces):
            self.connection.sendall(piece)
        self.close_connection = False

    # -- writing ------------------------------------------------------------------------------

    def _put(self, path: str) -> None:
        if path != "/payload":
            raise _Refused(HTTPStatus.NOT_FOUND, "only /payload can be put")
        size, sha256 = self._length(), self._sha256()
        run = self.server.run
        if not run.uploading.acquire(blocking=False):
            raise _Refused(HTTPStatus.CONFLICT, "the payload is on its way already")
        try:
            receive(run.rundir, RunDir.PAYLOAD, self.rfile, size, sha256)  # type: ignore[arg-type]
        except Corrupt as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, str(error)) from None
        except ConnectionError:
            raise
        except OSError as error:
            raise _Refused(HTTPStatus.INSUFFICIENT_STORAGE, str(error)) from None
        finally:
            run.uploading.release()
        self._say(HTTPStatus.CREATED, "")

    def _length(self) -> int:
        text = self.headers.get("Content-Length", "")
        if not text.isdecimal():
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing")
        return int(text)

    def _sha256(self) -> str:
        """Return the SHA-256 that the payload is said to have: the one that the run was asked for.

        Raises
        ------
        _Refused
            If it is another one.
        """
        given = self.headers.get(SHA256_HEADER, "")
        try:
            expected = self.server.run.rundir.read_json(RunDir.REQUEST).get("payload_sha256")
        except (FileNotFoundError, Corrupt):
            raise _Refused(HTTPStatus.CONFLICT, "there is no run here yet") from None
        if given != expected:
            raise _Refused(HTTPStatus.CONFLICT, "this is the payload of another run")
        return given

    def _post(self, path: str) -> None:
        run = self.server.run
        calls = {"/stop": run.on_stop, "/quit": run.on_quit}
        call = calls.get(path)
        if call is None:
            raise _Refused(HTTPStatus.NOT_FOUND, f"nothing here can {path.strip('/')}")
        self._say(HTTPStatus.ACCEPTED, "", end=True)
        call()

    def _say(self, status: HTTPStatus, text: str, *, end: bool = False) -> None:
        """Answer with a text; with `end` the connection is closed (a body may lie unread in it)."""
        body = json.dumps({"error": text} if text else {}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if end:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


def _name(path: str) -> str:
    first, _, rest = path.removeprefix("/").partition("/")
    if first != "files":
        raise _Refused(HTTPStatus.NOT_FOUND, "there are /files/…")
    return unquote(rest, errors="surrogateescape")


def _offset(query: dict[str, list[str]]) -> int:
    text = query.get("offset", ["0"])[-1]
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise _Refused(HTTPStatus.BAD_REQUEST, "offset must be a whole number")
    return int(text)


def _on(query: dict[str, list[str]], name: str) -> bool:
    return query.get(name, ["0"])[-1] == "1"


def _chunked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield pieces as HTTP sends them where it does not know how many there will be."""
    for piece in pieces:
        if piece:
            yield b"%x\r\n" % len(piece)
            yield piece
            yield b"\r\n"
    yield b"0\r\n\r\n"


def _chain(first: bytes | None, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first is not None:
        yield first
    yield from rest


def ask(argv: list[str]) -> int:
    """Ask the server of this machine or pod for something, with the token that it was given."""
    parser = argparse.ArgumentParser(prog="ask")
    parser.add_argument("what", choices=["stop", "quit"])
    parser.add_argument("--given", type=Path, required=True, help="the folder with the token")
    parser.add_argument("--server", required=True, help="host:port")
    options = parser.parse_args(argv)
    token = (options.given / "token").read_text("utf-8").strip()
    connection = http.client.HTTPConnection(options.server, timeout=IDLE_S)
    try:
        connection.request("POST", f"/{options.what}", headers={TOKEN_HEADER: token})
        response = connection.getresponse()
        said = response.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        response, said = None, str(error)
    finally:
        connection.close()
    if response is None or response.status != HTTPStatus.ACCEPTED:
        print(said, file=sys.stderr)
        return 1
    return os.EX_OK


def main(argv: list[str]) -> int:
    """Serve the directory of a run whose head is gone, until nobody asks any more."""
    parser = argparse.ArgumentParser(prog="serve")
    parser.add_argument("rundir", type=Path)
    parser.add_argument("--given", type=Path, required=True, help="the folder with the token")
    parser.add_argument("--listen", default="127.0.0.1:0", help="host:port")
    parser.add_argument("--unasked", type=float, default=UNASKED_S, help="seconds")
    options = parser.parse_args(argv)
    token = (options.given / "token").read_text("utf-8").strip()
    host, _, port = options.listen.rpartition(":")
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    server = Server(RunDir(options.rundir), token, host, int(port), on_quit=over.set).start()
    print(f"serving at port {server.port}", flush=True)
    while not over.wait(min(1.0, options.unasked)):
        if time.monotonic() - server.asked > options.unasked:
            break
    server.close()
    return os.EX_OK
