"""How a cluster is reached: from a kubeconfig as kubectl reads it, or from inside of a pod."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import libraries
from ...errors import BackendError, nearest

#: The name of a context that is in no kubeconfig: the account of the pod that this runs in.
IN_CLUSTER = "in-cluster"
#: What a kubeconfig's user has that acts for somebody else.
_IMPERSONATION = ("as", "as-uid", "as-groups", "as-user-extra")
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Access:
    """A cluster, and how to be somebody there.

    Attributes
    ----------
    context, namespace
        Names; the context is IN_CLUSTER where a pod's own account is used.
    configuration
        The kubernetes client's: address, certificates, proxy, tokens and their renewal.
    """

    context: str
    namespace: str
    configuration: Any

    @property
    def host(self) -> str:
        """The address of the API server."""
        return str(self.configuration.host).rstrip("/")

    def headers(self) -> dict[str, str]:
        """Return the headers that say who asks; a token that has expired is renewed first."""
        settings = self.configuration.auth_settings().values()
        return {s["key"]: s["value"] for s in settings if s["in"] == "header" and s["value"]}


def load(context: str = "", namespace: str = "") -> Access:
    """Return how to reach the cluster of a context, or of the current one.

    Without a kubeconfig the account of the pod is taken that this runs in.

    Raises
    ------
    BackendError
        If there is no such cluster, or its credentials can't be had.
    """
    libraries.load("kubernetes")
    import yaml
    from kubernetes.config.config_exception import ConfigException

    try:
        if context in ("", IN_CLUSTER) and not _kubeconfig_exists() and _in_cluster():
            return _load_in_cluster(namespace)
        return _load_kubeconfig(context, namespace)
    # The kubernetes client takes the file's form for granted.
    except (ConfigException, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise BackendError(
            f"the kubeconfig can't be used: {error}", "`kubectl config view` shows it."
        ) from None


def kubeconfig() -> str:
    """Return the kubeconfig's path, or paths, as kubectl takes them from KUBECONFIG."""
    return os.environ.get("KUBECONFIG") or "~/.kube/config"


def _kubeconfig_exists() -> bool:
    paths = kubeconfig().split(os.pathsep)
    return any(path and Path(path).expanduser().exists() for path in paths)


def _in_cluster() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ and _NAMESPACE_FILE.exists()


def _load_in_cluster(namespace: str) -> Access:
    from kubernetes.client.configuration import Configuration
    from kubernetes.config import incluster_config

    configuration = Configuration()
    incluster_config.load_incluster_config(client_configuration=configuration)
    own = _NAMESPACE_FILE.read_text("utf-8").strip()
    return Access(IN_CLUSTER, namespace or own, configuration)


def _load_kubeconfig(context: str, namespace: str) -> Access:
    from kubernetes.client.configuration import Configuration
    from kubernetes.config import kube_config

    if not _kubeconfig_exists():
        raise BackendError(
            f"there is no kubeconfig ({kubeconfig()}), so no cluster to train on.",
            "Set KUBECONFIG, or take --backend local.",
        )
    contexts, _ = kube_config.list_kube_config_contexts(config_file=kubeconfig())
    chosen = _chosen(context or _current(), contexts)
    _check_impersonation(chosen.get("context", {}).get("user", ""))
    configuration = Configuration()
    with _complaints() as complaints:
        kube_config.load_kube_config(
            config_file=kubeconfig(),
            context=chosen["name"],
            client_configuration=configuration,
            persist_config=False,
        )
    if complaints and not configuration.api_key and not configuration.cert_file:
        raise BackendError(
            f"no credentials for the context {chosen['name']}: {complaints[0]}",
            f"Try `kubectl --context {chosen['name']} get pods`, which asks the same program.",
        )
    own = chosen.get("context", {}).get("namespace")
    return Access(chosen["name"], namespace or own or "default", configuration)


def _files() -> Iterator[dict[str, Any]]:
    """Yield what the kubeconfig's files hold."""
    import yaml

    for path in kubeconfig().split(os.pathsep):
        with contextlib.suppress(OSError, yaml.YAMLError):
            content = yaml.safe_load(Path(path).expanduser().read_text("utf-8"))
            if isinstance(content, dict):
                yield content


def _current() -> str:
    """Return the current context: of several files the first that has one, as for kubectl.

    The kubernetes client takes the last.
    """
    found = (content["current-context"] for content in _files() if content.get("current-context"))
    return str(next(found, ""))


def _check_impersonation(user: str) -> None:
    """Refuse a user that acts for somebody else.

    The kubernetes client leaves that out, of commands in pods for good: it would be the user's own
    account that acts.
    """
    users = (one for content in _files() for one in content.get("users") or ())
    entry = next((one.get("user") or {} for one in users if one.get("name") == user), {})
    asked = [f"{key}: {entry[key]}" for key in _IMPERSONATION if entry.get(key)]
    if asked:
        raise BackendError(
            f"the kubeconfig's user {user} acts for somebody else ({', '.join(asked)}), which"
            " nbtrain can't.",
            "Take a context with that account's own credentials; a service account's come from"
            " `kubectl create token`.",
        )


def _chosen(context: str, contexts: list[dict[str, Any]]) -> dict[str, Any]:
    by_name = {entry["name"]: entry for entry in contexts}
    if context in by_name:
        return by_name[context]
    near = nearest(context, by_name)
    if not context:
        raise BackendError(
            "the kubeconfig has no current context.",
            f"--context takes one of: {', '.join(by_name)}.",
        )
    raise BackendError(
        f"the kubeconfig has no context {context!r}" + (f"; did you mean {near}?" if near else "."),
        f"There are: {', '.join(by_name)}." if by_name else "It has none at all.",
    )


@contextlib.contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect what the kubernetes client says of a failing credentials program: it only logs it."""
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.module in ("kube_config", "exec_provider"):
                found.append(record.getMessage().strip())

    # It is the root logger that is logged to. A handler there also keeps `logging` from setting
    # one up by itself, which would change what the notebook shows from then on.
    root, collector = logging.getLogger(), Collector()
    root.addHandler(collector)
    try:
        yield found
    finally:
        root.removeHandler(collector)
