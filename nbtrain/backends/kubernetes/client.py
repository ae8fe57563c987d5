"""The API server, as far as nbtrain needs it: objects as dicts, streams, and commands in a pod.

The kubernetes client reads kubeconfigs, gets credentials and knows the way there; its models of
every object are not needed, since manifests are dicts already.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from . import access
from .errors import ApiError, Gone, NotFound, refused, unreachable

Object = dict[str, Any]

#: API group and plural of the kinds that are used; those in capitals belong to no namespace.
KINDS = {
    "Job": ("apis/batch/v1", "jobs"),
    "Pod": ("api/v1", "pods"),
    "Service": ("api/v1", "services"),
    "Secret": ("api/v1", "secrets"),
    "Event": ("api/v1", "events"),
    "ConfigMap": ("api/v1", "configmaps"),
    "PersistentVolumeClaim": ("api/v1", "persistentvolumeclaims"),
    "ResourceQuota": ("api/v1", "resourcequotas"),
    "LimitRange": ("api/v1", "limitranges"),
    "NetworkPolicy": ("apis/networking.k8s.io/v1", "networkpolicies"),
    "Namespace": ("api/v1", "namespaces"),
    "StorageClass": ("apis/storage.k8s.io/v1", "storageclasses"),
    "Node": ("api/v1", "nodes"),
    "SelfSubjectAccessReview": ("apis/authorization.k8s.io/v1", "selfsubjectaccessreviews"),
    "SelfSubjectRulesReview": ("apis/authorization.k8s.io/v1", "selfsubjectrulesreviews"),
}
_OF_THE_CLUSTER = {
    "Namespace",
    "StorageClass",
    "Node",
    "SelfSubjectAccessReview",
    "SelfSubjectRulesReview",
}
#: Seconds to connect, and to wait for the next bytes of an answer.
CONNECT_S, READ_S = 10.0, 60.0
#: How long a watch lasts, and how long it may be silent: bookmarks come every minute, so that one
#: which is silent for longer is dead. Seconds.
WATCH_S, SILENCE_S = 300, 90.0
#: What is gathered of an answer that nobody follows, in bytes.
GATHERED = 1 << 18


class Readable(Protocol):
    """What can be sent without being in memory."""

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""


class Client:
    """A cluster's API server, and the namespace that a run is in.

    Parameters
    ----------
    context, namespace
        Names; empty for those of the kubeconfig, or of the pod that this runs in.

    Raises
    ------
    BackendError
        If there is no such context, or no credentials for it.
    """

    def __init__(self, context: str = "", namespace: str = "") -> None:
        self._asked = (context, namespace)
        self._lock = threading.Lock()
        self._renewals = 0
        self._connect()

    def _connect(self) -> None:
        self._access = access.load(*self._asked)
        from kubernetes.client.rest import RESTClientObject  # loaded by now, and whole

        self._pool = RESTClientObject(self._access.configuration).pool_manager

    @property
    def context(self) -> str:
        """The name of the context."""
        return self._access.context

    @property
    def namespace(self) -> str:
        """The namespace of everything that is made."""
        return self._access.namespace

    @property
    def host(self) -> str:
        """The address of the API server."""
        return self._access.host

    # -- objects ------------------------------------------------------------------------------

    def path(self, kind: str, name: str = "", part: str = "") -> str:
        """Return the path of an object, of all of a kind, or of a part of one ("log", "exec")."""
        group, plural = KINDS[kind]
        inside = "" if kind in _OF_THE_CLUSTER else f"/namespaces/{self.namespace}"
        parts = [f"/{group}{inside}/{plural}", quote(name), part]
        return "/".join(p for p in parts if p)

    def get(self, kind: str, name: str) -> Object:
        """Return an object; NotFound if there is none."""
        return self.call("GET", self.path(kind, name))

    def find(self, kind: str, *, labels: str = "", fields: str = "") -> Object:
        """Return a list of objects, with the `resourceVersion` to watch on from."""
        query = {"labelSelector": labels, "fieldSelector": fields}
        return self.call("GET", self.path(kind), query)

    def create(self, manifest: Object, *, dry_run: bool = False) -> Object:
        """Create an object; with `dry_run` everything is checked and nothing made."""
        query = {"dryRun": "All"} if dry_run else {}
        return self.call("POST", self.path(manifest["kind"]), query, manifest)

    def patch(self, kind: str, name: str, change: Object) -> Object:
        """Merge a change into an object."""
        headers = {"Content-Type": "application/merge-patch+json"}
        return self.call("PATCH", self.path(kind, name), {}, change, headers)

    def delete(self, kind: str, name: str, *, grace_s: int | None = None) -> None:
        """Delete an object, and in the background what it owns; it need not be there."""
        options: Object = {"propagationPolicy": "Background"}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        with contextlib.suppress(NotFound):
            self.call("DELETE", self.path(kind, name), {}, options)

    def delete_all(self, kind: str, labels: str) -> None:
        """Delete all objects of a kind that have these labels."""
        # Not every kind can be deleted as a collection (Services can't in older clusters).
        for item in self.find(kind, labels=labels)["items"]:
            self.delete(kind, item["metadata"]["name"])

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Object | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Object:
        """Return the API's answer to a request."""
        content = None if body is None else json.dumps(body).encode()
        given = {"Content-Type": "application/json", **(headers or {})}
        with self.open(method, path, query, content, given) as response:
            found: Object = json.loads(_whole(response, self.host) or b"{}")
        return found

    # -- streams ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: bytes | Readable | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        read_s: float | None = READ_S,
    ) -> Iterator[Any]:
        """Open a request and give its answer as a stream; it is closed, not drained, at the end.

        Raises
        ------
        ApiError, Unreachable
            If the API server refuses, or is not there.
        """
        response = self._answer(method, path, query, body, headers or {}, read_s)
        try:
            yield response
        finally:
            response.close()
            response.release_conn()

    def _answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: bytes | Readable | None,
        headers: Mapping[str, str],
        read_s: float | None,
    ) -> Any:
        renewals = self._renewals
        try:
            return self._ask(method, path, query, body, headers, read_s)
        except ApiError as error:
            # A token that had no expiry written on it, a certificate, a kubeconfig that was
            # written anew: read it all again, once. What was streamed can't be sent twice.
            if error.status != 401 or (body is not None and not isinstance(body, bytes)):
                raise
        self._renew(renewals)
        return self._ask(method, path, query, body, headers, read_s)

    def _renew(self, seen: int) -> None:
        with self._lock:
            if self._renewals == seen:  # else another thread has done it
                self._connect()
                self._renewals += 1

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: bytes | Readable | None,
        headers: Mapping[str, str],
        read_s: float | None,
    ) -> Any:
        import urllib3

        # Only what surely did not reach the server is tried again.
        retries = urllib3.Retry(
            connect=2, read=0, redirect=0, status=0, other=0, backoff_factor=0.2
        )
        try:
            response = self._pool.request(
                method,
                self.host + path + _query(query),
                body=body,
                headers={"Accept": "application/json", **self._access.headers(), **headers},
                timeout=urllib3.Timeout(connect=CONNECT_S, read=read_s),
                retries=False if body is not None and not isinstance(body, bytes) else retries,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise unreachable(error, self.host) from None
        if response.status >= 400:
            with contextlib.closing(response):
                said = _whole(response, self.host)
            raise refused(response.status, said, context=self.context)
        return response

    def lines(self, response: Any) -> Iterator[bytes]:
        """Yield the lines of an open answer, as they come."""
        rest = b""
        for data in self.pieces(response):
            *whole, rest = (rest + data).split(b"\n")
            yield from whole

    def pieces(self, response: Any, *, gathered: bool = False) -> Iterator[bytes]:
        """Yield an open answer as it comes.

        That is a record of TLS at a time, at most 16 KiB; with `gathered` many of them, which
        costs less where there is much and nobody waits for the first of it.
        """
        import urllib3

        read = response.read if gathered else response.read1
        try:
            while data := read(GATHERED if gathered else 1 << 20):
                yield data
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise unreachable(error, self.host) from None

    def watch(
        self,
        kind: str,
        since: str,
        *,
        labels: str = "",
        opened: Callable[[Any], None] = lambda _: None,
    ) -> Iterator[Object]:
        """Yield changes after a `resourceVersion`: {"type", "object"}, until the server ends it.

        `opened` gets the answer, which `hang_up` ends from another thread.

        Raises
        ------
        Gone
            If that version is too long ago.
        """
        query = {
            "watch": "1",
            "resourceVersion": since,
            "labelSelector": labels,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": WATCH_S,
        }
        with self.open("GET", self.path(kind), query, read_s=SILENCE_S) as response:
            opened(response)
            for line in self.lines(response):
                change: Object = json.loads(line)
                if change["type"] == "ERROR":
                    status = change["object"]
                    kind_of = Gone if status.get("code") == 410 else ApiError
                    raise kind_of(str(status.get("message")), status=int(status.get("code", 0)))
                yield change

    # -- commands -----------------------------------------------------------------------------

    def websocket(self, path: str, query: list[tuple[str, str]]) -> Any:
        """Return an open websocket, of the `websocket-client` package."""
        renewals = self._renewals
        try:
            return self._websocket(path, query)
        except ApiError as error:
            if error.status != 401:
                raise
        self._renew(renewals)
        return self._websocket(path, query)

    def _websocket(self, path: str, query: list[tuple[str, str]]) -> Any:
        from kubernetes.stream.ws_client import create_websocket
        from websocket import WebSocketBadStatusException, WebSocketException

        address = "ws" + self.host.removeprefix("http") + path + "?" + urlencode(query)
        try:
            return create_websocket(self._access.configuration, address, self._access.headers())
        except WebSocketBadStatusException as error:
            body = error.resp_body or b""
            raise refused(error.status_code, body, context=self.context) from None
        except (WebSocketException, OSError) as error:
            raise unreachable(error, self.host) from None

    def reachable(self) -> str:
        """Return the server's version; raises what keeps it from answering."""
        return str(self.call("GET", "/version").get("gitVersion", ""))


def hang_up(response: Any) -> None:
    """End an open answer from another thread than the one that reads it."""
    # Through a second descriptor: shutting down Python's own SSL socket takes the decryption off
    # it first, and whoever reads from it at that moment gets what was meant for nobody.
    with contextlib.suppress(OSError, AttributeError, ValueError):
        descriptor = os.dup(response.connection.sock.fileno())
        with socket.socket(fileno=descriptor) as twin:
            twin.shutdown(socket.SHUT_RDWR)


def _query(query: Mapping[str, Any] | None) -> str:
    given = {key: value for key, value in (query or {}).items() if value not in ("", None)}
    return "?" + urlencode(given) if given else ""


def _whole(response: Any, host: str) -> bytes:
    import urllib3

    try:
        return bytes(response.read())
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise unreachable(error, host) from None
