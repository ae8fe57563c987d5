"""A proxy as companies have them: who wants to get out asks it to CONNECT."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading


class ConnectProxy(socketserver.ThreadingTCPServer):
    """A proxy that connects everybody to one place, whatever they ask for.

    Attributes
    ----------
    url
        Where it listens.
    asked
        What was asked of it, as "CONNECT host:port".
    """

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.target, self.asked = target, []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.ends: list[socket.socket] = []

    def __enter__(self) -> ConnectProxy:
        self._serving = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._serving.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self._serving.join()
        for end in self.ends:  # clients keep connections for the next time
            _shut(end)
        self.server_close()  # waits for the connections' threads


class _Connection(socketserver.StreamRequestHandler):
    server: ConnectProxy

    def handle(self) -> None:
        method, target, _ = self.rfile.readline().decode().split()
        while self.rfile.readline().strip():
            pass
        self.server.asked.append(f"{method} {target}")
        with socket.create_connection(self.server.target) as there:
            self.server.ends += [self.connection, there]
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pour, args=(there, self.connection))
            back.start()
            _pour(self.connection, there)
            back.join()


def _pour(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    _shut(source)
    _shut(sink)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
