"""Where runs are: in the context and namespace of the settings, and where others were started."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from ... import config
from ...backend import RunRef
from ...errors import BackendError
from ..records import Records
from .client import Client

#: A place that only the records name is not asked again so soon after it did not answer: a cluster
#: behind a VPN that is off would hold up everything. Seconds.
REST_S = 60.0

#: Context and namespace.
Place = tuple[str, str]

_records = Records("clusters")


class Places:
    """The clients of all contexts and namespaces that runs are in; from several threads."""

    def __init__(self) -> None:
        self._clients: dict[Place, Client] = {}
        self._runs: dict[str, Client] = {}
        self._silent: dict[Client, tuple[float, BackendError]] = {}
        self._lock = threading.Lock()

    def client(self, container: Mapping[str, object]) -> Client:
        """Return the client of a run's options; what they don't say is in the settings."""
        asked = {**config.defaults(), **container}
        return self._client(str(asked.get("context") or ""), str(asked.get("namespace") or ""))

    def _client(self, context: str, namespace: str) -> Client:
        key = (context, namespace)
        with self._lock:
            if key not in self._clients:
                self._clients[key] = Client(*key)
            return self._clients[key]

    def of(self, run_id: str) -> Client:
        """Return the client of a run."""
        with self._lock:
            known = self._runs.get(run_id)
        return known or self._recorded(run_id) or self.client({})

    def settle(self, run_id: str, client: Client) -> None:
        """Say where a run has been started: this machine's other kernels find it there, too."""
        with self._lock:
            self._runs[run_id] = client
        _records.keep(run_id, {"context": client.context, "namespace": client.namespace})

    def forget(self, run_id: str) -> None:
        """Say that a run is no more."""
        with self._lock:
            self._runs.pop(run_id, None)
        _records.forget(run_id)

    def runs(self, look: Callable[[Client], Iterable[RunRef]]) -> Iterator[RunRef]:
        """Yield what `look` finds in every place that something points at, newest first.

        Having a kubeconfig is no wish to train there: no other cluster is asked. What a place says
        that can't be reached is raised after the others' runs.
        """
        found: list[RunRef] = []
        failed = None
        recorded = self._records_by_place()
        for place, (client, ours) in self._all(recorded).items():
            try:
                refs = self._asked(client, look, again=ours)
            except BackendError as error:
                failed = failed or error
                continue
            found += refs
            with self._lock:
                self._runs = {ref.id: client for ref in refs} | self._runs
            for gone in set(recorded.get(place, ())) - {ref.id for ref in refs}:
                _records.forget(gone)
        yield from sorted(found, key=lambda ref: ref.created, reverse=True)
        if failed:
            raise failed

    def _all(self, recorded: Mapping[Place, list[str]]) -> dict[Place, tuple[Client, bool]]:
        """Return the clients, and whether settings or runs of this kernel point at them."""
        with self._lock:
            ours = list(self._runs.values())
        if _is_configured():
            ours.append(self.client({}))
        found = {(client.context, client.namespace): (client, True) for client in ours}
        for place in recorded:
            # Its context may be gone from the kubeconfig: nothing can be asked then.
            with contextlib.suppress(BackendError):
                found.setdefault(place, (self._client(*place), False))
        return found

    def _asked(
        self, client: Client, look: Callable[[Client], Iterable[RunRef]], *, again: bool
    ) -> list[RunRef]:
        when, error = self._silent.get(client, (0.0, None))
        if error and not again and time.monotonic() < when + REST_S:
            raise error
        try:
            return list(look(client))
        except BackendError as failed:
            self._silent[client] = time.monotonic(), failed
            raise

    def _records_by_place(self) -> dict[Place, list[str]]:
        found: dict[Place, list[str]] = {}
        for run_id, about in _records.all():
            with contextlib.suppress(KeyError):
                found.setdefault((about["context"], about["namespace"]), []).append(run_id)
        return found

    def _recorded(self, run_id: str) -> Client | None:
        """Return the client of the records; None where the kubeconfig has no such context now."""
        about = _records.get(run_id) or {}
        with contextlib.suppress(BackendError, KeyError):
            return self._client(about["context"], about["namespace"])
        return None


def _is_configured() -> bool:
    settings = config.defaults()
    named = "context" in settings or "namespace" in settings
    return named or settings.get("backend") == "kubernetes"
