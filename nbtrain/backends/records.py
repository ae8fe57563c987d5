"""What this machine remembers of runs that are elsewhere: a small file for each."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from ..runtime.rundir import RunDir
from .local import home


class Records:
    """Remembers something about runs, in a folder beside the runs of this machine.

    Parameters
    ----------
    kind
        The folder's name.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def _folder(self) -> RunDir:
        return RunDir(home().with_name(self._kind))

    def keep(self, run_id: str, about: dict[str, Any]) -> None:
        """Remember this about a run."""
        folder = self._folder()
        folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.write_json(f"{run_id}.json", about)

    def forget(self, run_id: str) -> None:
        """Remember nothing of a run."""
        (self._folder() / f"{run_id}.json").unlink(missing_ok=True)

    def get(self, run_id: str) -> dict[str, Any] | None:
        """Return what is remembered of a run; None if that is nothing."""
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads((self._folder() / f"{run_id}.json").read_bytes())
            return found
        return None

    def all(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the ids of all runs of which something is remembered, and what."""
        for path in self._folder().path.glob("*.json"):
            if (about := self.get(path.stem)) is not None:
                yield path.stem, about
