"""What every backend can do; local processes, containers and pods behave alike behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .runtime.request import TrainRequest


@dataclass(frozen=True)
class RunRef:
    """Where a run is to be found: the backend's name, the run's name and id, and its time.

    `created` is Unix time in seconds. `live` says whether its head was alive when looked at.
    `context` is the kubeconfig's name of the cluster that it was found on. `stored` is a run that
    has ended and whose directory nobody serves now, so that reading from it takes its time.
    `request` is the request as JSON, as far as a list of runs needs it, where it was found by the
    way. `warnings` is what the user should know of a start, where this is what it returns.
    """

    backend: str
    name: str
    id: str
    created: float = 0.0
    live: bool = False
    context: str = ""
    stored: bool = False
    request: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Placement:
    """The infrastructure's view of a worker (None: of the head), apart from what it says itself.

    `phase` is one of "pending", "running", "gone"; `reason` is for reading, `fix` says what to do
    about it. What is `stuck` stays so until somebody does.
    """

    worker: int | None
    phase: str
    reason: str = ""
    host: str = ""
    fix: str = ""
    stuck: bool = False


#: Is told how many bytes have been sent, and how many there are.
Sent = Callable[[int, int], None]


def untold(_done: int, _total: int) -> None:
    """Tell nobody."""


class Backend(Protocol):
    """Seven methods; a run is a directory, and whoever wants to know something reads a file."""

    name: str

    def check(self, request: TrainRequest) -> None:
        """Raise what a start would raise, as far as it shows before anything is made."""

    def start(self, request: TrainRequest, payload: Path, sent: Sent = untold) -> RunRef:
        """Start the run, or go on with it where its directory exists and its head is dead.

        `sent` is told how much of the payload has been sent; what it raises ends the start. A start
        that raises leaves nothing behind.
        """

    def runs(self) -> Iterable[RunRef]:
        """Return the runs there are, newest first."""

    def placements(self, run: RunRef) -> Iterator[Placement]:
        """Yield where the workers are, as the infrastructure sees it, until the run has ended."""

    def read(
        self, run: RunRef, path: str, offset: int = 0, follow: bool = False
    ) -> Iterator[bytes]:
        """Yield a file of the run directory from `offset`; with `follow` until the run has ended.

        A directory gives its index as JSON. A file that does not exist raises FileNotFoundError,
        with `follow` it is waited for. While following, an empty chunk is yielded now and then,
        so that a reader can stop.
        """

    def stop(self, run: RunRef, grace_s: float) -> None:
        """Stop at the next step and save what there is; after `grace_s` (0: at once) kill."""

    def delete(self, run: RunRef) -> None:
        """Remove the run and everything of it; a live one is killed first."""
