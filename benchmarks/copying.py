"""A raw copy over a network: bytes from one process to others, which write them to a file.

`python copying.py serve BYTES COUNT` sends so much to each of so many that connect, all at once;
`receive HOST` takes it. `http FOLDER` keeps what is PUT and gives it back (GET), for copies through
a proxy. It is given to containers as a file, and uses the standard library alone.
"""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

PORT = 8000
CHUNK = 4 << 20


def serve(size: int, count: int) -> None:
    """Send `size` bytes to each of `count` receivers, once all of them are there."""
    with tempfile.TemporaryFile() as source, socket.create_server(("", PORT)) as server:
        source.truncate(size)
        receivers = [server.accept()[0] for _ in range(count)]
        threads = [threading.Thread(target=_send, args=(r, source.fileno())) for r in receivers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _send(receiver: socket.socket, source: int) -> None:
    with receiver, open(source, "rb", closefd=False) as file:
        receiver.sendfile(file)  # type: ignore[arg-type]
        receiver.shutdown(socket.SHUT_WR)
        receiver.recv(1)


def receive(host: str) -> dict[str, float]:
    """Write what is sent to a file; return when it began and ended."""
    with _connected(host) as sock, tempfile.TemporaryFile() as target:
        began, size = 0.0, 0
        while data := sock.recv(CHUNK):
            began = began or time.time()
            target.write(data)
            size += len(data)
        return {"began": began, "ended": time.time(), "bytes": size}


def _connected(host: str) -> socket.socket:
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection((host, PORT), timeout=60)
        except OSError:  # it is not up yet
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


class Keeper(http.server.SimpleHTTPRequestHandler):
    """Keeps files in the current folder."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        """Take a file."""
        left = int(self.headers["Content-Length"])
        with open(Path(self.path).name, "wb") as file:
            while left and (data := self.rfile.read(min(left, CHUNK))):
                file.write(data)
                left -= len(data)
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def copyfile(self, source: object, outputfile: object) -> None:
        """Send a file in big pieces."""
        shutil.copyfileobj(source, outputfile, CHUNK)  # type: ignore[misc]


def main(role: str, *arguments: str) -> None:
    """Play a role; a receiver prints its times."""
    match role:
        case "serve":
            serve(int(arguments[0]), int(arguments[1]))
        case "receive":
            print(json.dumps(receive(arguments[0])), flush=True)
        case "http":
            http.server.ThreadingHTTPServer(("", PORT), Keeper).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
