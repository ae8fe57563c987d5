"""The run directory in a pod, read and written through the API server.

There are two ways. HTTP through the API server's pod proxy is the fast one; a command in the pod
works wherever `kubectl exec` does, also where the control plane reaches only the kubelets. Which
one works is found by trying. Both send frames with a seal (`nbtrain.runtime.framing`).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, BinaryIO, Protocol
from urllib.parse import quote

from ...errors import BackendError
from ...runtime.errors import Corrupt
from ...runtime.framing import Unframer
from ...runtime.reading import NOT_FOUND
from ...runtime.rundir import RunDir
from ...runtime.serving import SHA256_HEADER, TOKEN_HEADER
from .client import Client, Readable
from .errors import ApiError, NotFound, Unreachable
from .exec import Command, CommandFailed
from .manifests import FILES_PORT, GIVEN, RUN_FOLDER, RUNTIME

#: How long the pod proxy may take to answer when it is tried, in seconds: where the control plane
#: does not reach pods, it takes half a minute to say so.
TRY_S = 3.0
#: How long a proxy that did not answer is left alone, and one that said no at once: the head may
#: just be starting. Seconds.
AGAIN_S, SOON_S = 30.0, 1.0
#: How long the fast way into a pod that was not known before is waited for, and how often it is
#: tried meanwhile, in seconds.
FRESH_S, EAGER_S = 2.0, 0.1
#: How long sending a payload waits for a head that may just be starting, in seconds: the fast way
#: is several times faster.
START_S = 15.0
#: A followed file says something every second; a connection silent for so long is dead.
SILENCE_S = 30.0
#: How long reading is tried on without anything new, in seconds, and how often.
PATIENCE_S, PAUSE_S = 30.0, 0.5

Sent = Callable[[int], None]


class Way(Protocol):
    """A way to a pod's run directory."""

    def frames(self, path: str, offset: int, follow: bool) -> Iterator[bytes]:
        """Yield a file in frames; FileNotFoundError if it is not there."""

    def put(self, source: IO[bytes], size: int, sha256: str, sent: Sent) -> None:
        """Send the payload."""

    def ask(self, what: str) -> None:
        """Ask the head to "stop" or to "quit"."""


@dataclass(frozen=True)
class Proxy:
    """HTTP through the API server's pod proxy."""

    client: Client
    pod: str
    token: str

    def works(self) -> bool:
        """Tell whether the run's own server answers.

        Raises
        ------
        ApiError
            If the API server does not allow it.
        """
        try:
            with self._open("GET", f"files/{RunDir.REQUEST}", read_s=TRY_S):
                return True
        except Unreachable:
            return False
        except ApiError as error:
            # An answer with Kubernetes' own word in it is none of ours.
            if error.reason == "Forbidden":
                raise
            return error.reason == "" and error.status < 500

    def frames(self, path: str, offset: int, follow: bool) -> Iterator[bytes]:
        """Yield a file in frames; see `Way`."""
        query = {"offset": offset, "frames": 1, "follow": int(follow)}
        try:
            with self._open("GET", f"files/{quote(path)}", query) as response:
                yield from self.client.pieces(response, gathered=not follow)
        except NotFound as error:
            if error.reason:  # it is the pod that is not there
                raise
            raise FileNotFoundError(path) from None

    def put(self, source: IO[bytes], size: int, sha256: str, sent: Sent) -> None:
        """Send the payload; see `Way`."""
        headers = {SHA256_HEADER: sha256, "Content-Length": str(size)}
        with self._open("PUT", "payload", body=_Counted(source, sent), headers=headers, read_s=300):
            pass

    def ask(self, what: str) -> None:
        """Ask the head for something; see `Way`."""
        with self._open("POST", what):
            pass

    def _open(
        self,
        method: str,
        path: str,
        query: dict[str, int] | None = None,
        *,
        body: Readable | None = None,
        headers: dict[str, str] | None = None,
        read_s: float = SILENCE_S,
    ) -> contextlib.AbstractContextManager[object]:
        address = self.client.path("Pod", f"{self.pod}:{FILES_PORT}", f"proxy/{path}")
        given = {TOKEN_HEADER: self.token, **(headers or {})}
        return self.client.open(method, address, query, body, given, read_s=read_s)


class _Counted:
    """A file that tells how much of it has been read; urllib3 takes it for a body."""

    def __init__(self, source: IO[bytes], sent: Sent) -> None:
        self._source, self._sent, self._total = source, sent, 0

    def read(self, size: int = -1) -> bytes:
        # urllib3 asks for 16 KiB at a time.
        data = self._source.read(max(size, 1 << 20) if size > 0 else size)
        self._total += len(data)
        self._sent(self._total)
        return data


@dataclass(frozen=True)
class Exec:
    """A command in the pod."""

    client: Client
    pod: str
    container: str

    def frames(self, path: str, offset: int, follow: bool) -> Iterator[bytes]:
        """Yield a file in frames; see `Way`."""
        # Empty names the folder itself, and would be no argument to a shell; here it is one.
        arguments = ["read", RUN_FOLDER, path, "--offset", str(offset), "--frames"]
        with self._command(arguments + (["--follow"] if follow else [])) as command:
            try:
                yield from command.output()
            except CommandFailed as error:
                if error.code == NOT_FOUND:
                    raise FileNotFoundError(path) from None
                raise

    def put(self, source: IO[bytes], size: int, sha256: str, sent: Sent) -> None:
        """Send the payload; see `Way`."""
        arguments = ["receive", RUN_FOLDER, RunDir.PAYLOAD, sha256, str(size)]
        with self._command(arguments, stdin=True) as command:
            command.send(source, sent)
            for _ in command.output():
                pass

    def ask(self, what: str) -> None:
        """Ask the head for something; see `Way`."""
        address = f"127.0.0.1:{FILES_PORT}"
        with self._command(["ask", what, "--given", GIVEN, "--server", address]) as command:
            for _ in command.output():
                pass

    def _command(self, arguments: list[str], *, stdin: bool = False) -> Command:
        words = ["python3", "-I", RUNTIME, *arguments]
        # Writing a big payload to the disk may take a while after it was sent.
        silence_s = 300.0 if stdin else SILENCE_S
        return Command(
            self.client, self.pod, self.container, words, stdin=stdin, silence_s=silence_s
        )


class PodFiles:
    """The run directory in one pod, by whichever way works.

    Parameters
    ----------
    pod, container
        Names; a container has that of its role.
    token
        The run's; it is needed for the fast way alone.
    """

    def __init__(self, client: Client, pod: str, container: str, token: str) -> None:
        self.pod, self.role = pod, container
        self._fast, self._sure = Proxy(client, pod, token), Exec(client, pod, container)
        self._fast_from = 0.0 if token else float("inf")
        self._fast_works = False
        # A pod runs before the server in it does. A command in it would take as long as that to
        # start, and be in its way.
        self._patient_until = time.monotonic() + FRESH_S

    def way(self) -> Way:
        """Return the way to take now; the fast one is waited for in a pod that has just begun."""
        while (way := self._way_now()) is self._sure:
            now = time.monotonic()
            if not now < self._fast_from < self._patient_until:
                break
            time.sleep(self._fast_from - now)
        return way

    def _way_now(self) -> Way:
        if not self._fast_works and time.monotonic() >= self._fast_from:
            began = time.monotonic()
            try:
                self._fast_works = self._fast.works()
                now = time.monotonic()
                soon = EAGER_S if now < self._patient_until else SOON_S
                self._fast_from = now + (soon if now - began < TRY_S / 2 else AGAIN_S)
            except ApiError:
                self._fast_from = float("inf")
        return self._fast if self._fast_works else self._sure

    def _way_to_send(self) -> Way:
        """Return the way to take for much; the fast one is waited for where it may come soon."""
        deadline = time.monotonic() + START_S
        while (way := self.way()) is self._sure:
            now = time.monotonic()
            if now > deadline or self._fast_from - now > SOON_S:
                break
            time.sleep(SOON_S / 5)
        return way

    def read(self, path: str, offset: int = 0, follow: bool = False) -> Iterator[bytes]:
        """Yield a file from `offset`, going on where a connection broke off.

        Raises
        ------
        FileNotFoundError
            If there is no such file (and it is not waited for).
        NotFound
            If the pod is gone.
        BackendError
            If it does not come through.
        """
        last, answered = time.monotonic(), False
        while True:
            unframer = Unframer()
            try:
                for raw in self.way().frames(path, offset, follow):
                    answered = True
                    for piece in unframer.feed(raw):
                        offset += len(piece)
                        last = time.monotonic()
                        yield piece
                problem: BackendError = Unreachable("the connection to the pod was cut off")
            except Corrupt as error:
                raise BackendError(f"{path}: {error}", "Read it again.") from None
            except Unreachable as error:
                problem = error
            except ApiError as error:
                # An API server that has just started does not know yet what it has allowed.
                if error.status == 404 or (error.status in (401, 403) and not answered):
                    raise
                problem = error
            if unframer.sealed:
                return
            self._fast_works = False
            if time.monotonic() - last > PATIENCE_S:
                raise problem
            yield b""  # a reader may want to stop
            time.sleep(PAUSE_S)

    def put(self, payload: BinaryIO, sha256: str, sent: Sent = lambda _: None) -> None:
        """Send the payload, an open file, by the other way if the first one fails.

        Raises
        ------
        BackendError
            If it does not come through.
        """
        size = os.fstat(payload.fileno()).st_size
        for way in (self._way_to_send(), self._sure):
            payload.seek(0)
            try:
                way.put(payload, size, sha256, sent)
                return
            except BackendError:
                if way is self._sure:
                    raise
                self._fast_works = False

    def ask(self, what: str) -> None:
        """Ask the head to "stop" or to "quit"."""
        way = self.way()
        try:
            way.ask(what)
        except BackendError:
            if way is self._sure:
                raise
            self._sure.ask(what)
