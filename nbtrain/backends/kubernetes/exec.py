"""A command in a pod, through the API server: works wherever `kubectl exec` does.

Frames are read from the websocket itself: the kubernetes client joins all it has got to one text
with every new piece, and does not come to an end with big files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from ...errors import BackendError
from .client import Client
from .errors import Unreachable, unreachable

#: Channels of the exec protocol, the first byte of every frame.
_STDIN, _STDOUT, _STDERR, _STATUS = 0, 1, 2, 3
#: What is sent in one frame, in bytes.
_FRAME = 256 << 10
#: A connection that is silent for so long is dead: what is followed says something every second.
_SILENCE_S = 30.0
#: Of what a command complains, so much is kept, in bytes.
_COMPLAINT = 4000


class CommandFailed(BackendError):
    """A command in a pod ended with an exit code of its own.

    Attributes
    ----------
    code : int
        The exit code; -1 if there is none.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Command:
    """A running command; use it as a context manager.

    Raises
    ------
    ApiError, Unreachable
        If it can't be started.
    """

    def __init__(
        self,
        client: Client,
        pod: str,
        container: str,
        command: Sequence[str],
        *,
        stdin: bool = False,
        silence_s: float = _SILENCE_S,
    ) -> None:
        query = [("command", word) for word in command]
        query += [("container", container), ("stdout", "1"), ("stderr", "1")]
        query += [("stdin", "1")] if stdin else []
        self._host = client.host
        self._socket = client.websocket(client.path("Pod", pod, "exec"), query)
        self._socket.settimeout(silence_s)
        self._complaint = b""

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *error: object) -> None:
        # Not the polite way, which waits for an answer.
        self._socket.shutdown()

    def output(self) -> Iterator[bytes]:
        """Yield what the command writes, until it ends.

        Raises
        ------
        CommandFailed
            If it ends with another exit code than 0.
        Unreachable
            If the connection breaks off before.
        """
        while True:
            channel, data = self._frame()
            if channel == _STDOUT:
                yield data
            elif channel == _STDERR:
                self._complaint = (self._complaint + data)[-_COMPLAINT:]
            elif channel == _STATUS:
                self._check(data)
                return

    def send(self, source: IO[bytes], sent: Callable[[int], None] = lambda _: None) -> None:
        """Write a file to the command's standard input; `sent` gets how much has gone so far."""
        from websocket import ABNF, WebSocketException

        total = 0
        try:
            while data := source.read(_FRAME):
                self._socket.send(bytes([_STDIN]) + data, ABNF.OPCODE_BINARY)
                total += len(data)
                sent(total)
        except (WebSocketException, OSError) as error:
            raise unreachable(error, self._host) from None

    def _frame(self) -> tuple[int, bytes]:
        """Return channel and content of the next frame that is one of the protocol."""
        from websocket import ABNF, WebSocketException

        while True:
            try:
                kind, frame = self._socket.recv_data_frame(True)
            except (WebSocketException, OSError) as error:
                raise unreachable(error, self._host) from None
            if kind == ABNF.OPCODE_CLOSE:
                raise Unreachable(f"{self._host} closed the connection to the pod", "Try again.")
            if kind in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) and frame.data:
                return frame.data[0], frame.data[1:]

    def _check(self, data: bytes) -> None:
        status: dict[str, Any] = json.loads(data)
        if status.get("status") == "Success":
            return
        causes = (status.get("details") or {}).get("causes") or []
        codes = [c["message"] for c in causes if c.get("reason") == "ExitCode"]
        said = self._complaint.decode("utf-8", "replace").strip() or status.get("message", "")
        raise CommandFailed(str(said), int(codes[0]) if codes else -1)
