"""What the API server, or the way to it, answers instead of doing it: in words, with what to do."""

from __future__ import annotations

import json
import re
import ssl
from typing import Any

from ...errors import BackendError


class ApiError(BackendError):
    """The API server refused.

    Attributes
    ----------
    status : int
        Of HTTP.
    reason : str
        Kubernetes' own word for it: NotFound, AlreadyExists, Forbidden, ...
    """

    def __init__(self, message: str, fix: str = "", *, status: int = 0, reason: str = "") -> None:
        super().__init__(message, fix)
        self.status, self.reason = status, reason


class NotFound(ApiError):
    """There is no such object."""


class AlreadyExists(ApiError):
    """There is an object of this name."""


class Gone(ApiError):
    """What a watch is to go on from is too long ago: list anew."""


class Unreachable(BackendError):
    """There is no way to the API server, at the moment or at all."""


def refused(status: int, body: bytes, *, context: str = "") -> ApiError:
    """Return the error for an answer of the API server that is none of success."""
    kind: type[ApiError]
    answer = _status(body)
    reason = str(answer.get("reason") or "")
    if "error" in answer and not reason:  # of a run's own server, behind the API server
        kind = NotFound if status == 404 else ApiError
        return kind(f"the run's server refuses: {answer['error']}", status=status)
    said = str(answer.get("message") or body[:300].decode("utf-8", "replace") or f"HTTP {status}")
    kind = {404: NotFound, 410: Gone}.get(status, ApiError)
    if reason == "AlreadyExists":
        kind = AlreadyExists
    message, fix = _explained(status, said, context)
    return kind(message, fix, status=status, reason=reason)


def _status(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _explained(status: int, said: str, context: str) -> tuple[str, str]:
    again = f"kubectl --context {context} get pods" if context else "kubectl get pods"
    if status == 401:
        return (
            "the cluster does not know who you are (401 Unauthorized).",
            f"Log in again, as for kubectl; try `{again}`.",
        )
    if status == 403:
        return forbidden(said)
    if status == 404:
        missing = re.fullmatch(r'namespaces "([^"]+)" not found', said)
        return no_namespace(missing[1]) if missing else (said, "")
    if status == 422:
        return f"the cluster finds this invalid: {said}", "Mind --pod-template and --labels."
    if status == 429 or status >= 500:
        return f"the cluster has trouble of its own ({status}): {said}", "Try again later."
    return f"the cluster refused: {said}", ""


def no_namespace(name: str) -> tuple[str, str]:
    """Return what is wrong and what to do where there is no namespace of a name."""
    return (
        f"there is no namespace {name}.",
        f"Create it (kubectl create namespace {name}), or take another --namespace.",
    )


def forbidden(said: str) -> tuple[str, str]:
    """Return what is forbidden and what to do: by rights, quota, LimitRange or PodSecurity."""
    said = " ".join(said.split())
    quota = re.search(r"exceeded quota: ([^,]+), (.*)", said)
    if quota:
        return (
            f"the namespace's quota {quota[1]} has no room for this: {quota[2]}",
            "Ask for less (--cpu, --memory, --workers), or delete old runs (%k8s_runs).",
        )
    if "violates PodSecurity" in said:
        what = said.partition("violates PodSecurity")[2].strip()
        return (
            f"the namespace's Pod Security level does not admit these pods: {what}",
            "Mind --pod-template and --volume; without them pods are `restricted`.",
        )
    if " is forbidden: User " in said or "cannot " in said:
        what = said.partition(" is forbidden: ")[2] or said
        return (
            f"you lack a right: {what}",
            "%k8s_doctor shows the Role to ask the cluster's administrator for.",
        )
    limits = said.partition(" is forbidden: ")[2] or said
    return f"the cluster forbids this: {limits}", "%k8s_doctor says what the namespace allows."


def unreachable(error: BaseException, host: str) -> Unreachable:
    """Return the error for a connection that failed, with urllib3's, ssl's or an OSError."""
    texts = " ".join(str(cause) for cause in _causes(error))
    kinds = {type(cause).__name__ for cause in _causes(error)}
    if any(isinstance(cause, ssl.SSLError) for cause in _causes(error)) or "SSLError" in kinds:
        return Unreachable(
            f"{host} has a certificate that is not trusted: {_short(texts)}",
            "The kubeconfig's certificate-authority must be that of this cluster.",
        )
    if "NameResolutionError" in kinds or "gaierror" in kinds:
        return Unreachable(
            f"{host}: the name is not known to this machine's DNS.",
            "Is the VPN on, and the cluster still there? `kubectl cluster-info` tells.",
        )
    if "ProxyError" in kinds:
        return Unreachable(
            f"the proxy on the way to {host} refuses: {_short(texts)}",
            "Mind proxy-url in the kubeconfig, HTTPS_PROXY and NO_PROXY.",
        )
    if "ConnectTimeoutError" in kinds:
        return Unreachable(
            f"{host} does not answer.", "Is the VPN on? `kubectl cluster-info` tells."
        )
    if any(isinstance(cause, ConnectionRefusedError) for cause in _causes(error)):
        return Unreachable(
            f"nothing listens at {host}.", "Is the cluster up? `kubectl cluster-info` tells."
        )
    return Unreachable(f"the connection to {host} broke off: {_short(texts)}", "Try again.")


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and what it came from; urllib3 keeps the inner one as `reason`."""
    found: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and one not in found:
            found.append(one)
            waiting += [getattr(one, "reason", None), one.__cause__, one.__context__]
            waiting += [arg for arg in one.args if isinstance(arg, BaseException)]
    return found


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:199] + "…"
