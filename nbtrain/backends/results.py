"""Runs of which only the results are left, at the address that `--results` gave: they are read.

Which runs have some is kept in a small file for each, beside the runs of this machine.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..backend import Backend, Placement, RunRef, Sent, untold
from ..errors import BackendError, NoSuchRun
from ..runtime.request import TrainRequest
from ..runtime.results import Results, ResultsError
from ..runtime.rundir import RunDir
from .records import Records

_records = Records("results")


def note(request: TrainRequest) -> None:
    """Remember where the results of a run are going to be."""
    known = {"name": request.name, "id": request.id, "created": request.created}
    _records.keep(request.id, {**known, "url": request.results})


def forget(run_id: str) -> None:
    """Remember it no more."""
    _records.forget(run_id)


class ResultsBackend:
    """What a backend can do with results alone."""

    name = "results"

    def __init__(self) -> None:
        self._opened: dict[str, Results] = {}

    def at(self, url: str) -> RunRef:
        """Return the run whose folder of results has this address."""
        parent, _, run_id = url.rstrip("/").rpartition("/")
        self._opened[run_id] = Results(parent, run_id)
        about = json.loads(b"".join(self.read(RunRef(self.name, "", run_id), RunDir.REQUEST)))
        return RunRef(self.name, about["name"], run_id, about["created"])

    def check(self, request: TrainRequest) -> None:
        """Nothing is started here."""

    def start(self, request: TrainRequest, payload: Path, sent: Sent = untold) -> RunRef:
        """Refuse to go on with a run of which only the results are left."""
        raise BackendError(
            f"only the results of {request.id} are left: it can't go on",
            "Run its cell again.",
        )

    def runs(self) -> Iterable[RunRef]:
        """Return the runs that have been given an address for their results, newest first."""
        found = []
        for _, about in _records.all():
            with contextlib.suppress(KeyError):
                found.append(RunRef(self.name, about["name"], about["id"], about["created"]))
        return sorted(found, key=lambda ref: ref.created, reverse=True)

    def placements(self, run: RunRef) -> Iterator[Placement]:
        """Yield nothing: there are no workers any more."""
        yield from ()

    def read(
        self, run: RunRef, path: str, offset: int = 0, follow: bool = False
    ) -> Iterator[bytes]:
        """Yield a file of the results; see `Backend.read`."""
        try:
            results = self._results(run)
            files = results.files()
            entry = next((e for e in files if e["path"] == path), None)
            if entry is not None:
                yield from results.read(entry, offset)
                return
        except ResultsError as error:
            raise NoSuchRun(str(error)) from None
        below = [e for e in files if not path or e["path"].startswith(f"{path}/")]
        if not below:
            raise FileNotFoundError(path)
        yield json.dumps(below).encode()

    def stop(self, run: RunRef, grace_s: float) -> None:
        """Do nothing: it has ended."""

    def delete(self, run: RunRef) -> None:
        """Remove the results, and forget where they were."""
        try:
            self._results(run).remove()
        except ResultsError as error:
            raise NoSuchRun(str(error)) from None
        finally:
            forget(run.id)

    def _results(self, run: RunRef) -> Results:
        if run.id not in self._opened:
            url = (_records.get(run.id) or {}).get("url")
            if url is None:
                raise NoSuchRun(f"it is not known where the results of {run.id} are")
            self._opened[run.id] = Results(url, run.id)
        return self._opened[run.id]


class OrResults(ResultsBackend):
    """Reads a run where it trained, and its results where it is gone from there."""

    def __init__(self, first: Backend, request: TrainRequest) -> None:
        super().__init__()
        self._first = first
        self._opened[request.id] = Results(request.results, request.id)

    def read(
        self, run: RunRef, path: str, offset: int = 0, follow: bool = False
    ) -> Iterator[bytes]:
        """Yield a file; see `Backend.read`."""
        came = offset
        try:
            for piece in self._first.read(run, path, offset, follow):
                came += len(piece)
                yield piece
        except (BackendError, NoSuchRun):
            yield from super().read(run, path, came, follow)
