"""Who may do what: tokens, roles and kubeconfig files."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from .network import HOST
from .paths import CACHE, STATE
from .shell import ClusterError, run

SERVER = f"https://{HOST}:6443"
CERTIFICATE = STATE / "pki" / "apiserver.crt"
TOKENS = STATE / "tokens.csv"
CONTEXT = "nbtrain-test"

#: Each user and its group. `user` is an ordinary one: `edit` in the namespaces that it is granted.
USERS = {
    "admin": ("admin", "system:masters"),
    "user": ("user", "nbtrain:users"),
    "controllers": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
    "dns": ("nbtrain:dns", ""),
    "node1": ("system:node:node1", "system:nodes"),
    "node2": ("system:node:node2", "system:nodes"),
}
#: The same ordinary user, known by what a program prints, as on the clouds' clusters.
PLUGIN = "plugin"


def own_context() -> str | None:
    """Return the context of the developer's own cluster that is to be used instead, if any."""
    return os.environ.get("NBTRAIN_TEST_CONTEXT") or None


def only_ours(what: str) -> None:
    """Refuse what nobody should do to a developer's own cluster."""
    if own_context():
        raise ClusterError(f"{what} needs the test cluster: unset NBTRAIN_TEST_CONTEXT")


def kubeconfig(user: str = "admin") -> Path:
    """Return the kubeconfig file (JSON) of a user: admin, user, or plugin.

    On a cluster of the developer's own there is the developer alone.
    """
    context = own_context()
    if context is None:
        return path(user)
    if user == PLUGIN:
        only_ours("a user that a program tells")
    target = CACHE / "own-context"
    CACHE.mkdir(parents=True, exist_ok=True)
    view = ["config", "view", "--minify", "--flatten", f"--context={context}", "--output=json"]
    _write(target, run("kubectl", *view))
    return target


def write(namespace: str) -> None:
    """Give every user a token and a kubeconfig file; the API server knows the tokens."""
    (STATE / "kubeconfig").mkdir(parents=True, exist_ok=True)
    lines = []
    for user, (name, group) in USERS.items():
        token = secrets.token_hex(16)
        lines.append(f"{token},{name},{user}" + (f",{group}" if group else ""))
        _write(path(user), json.dumps(_kubeconfig(user, namespace, {"token": token})))
        if user == "user":
            _write(path(PLUGIN), json.dumps(_kubeconfig(user, namespace, _plugin(token))))
    _write(TOKENS, "\n".join(lines))


def path(user: str) -> Path:
    """Return the kubeconfig file of a user (JSON is YAML)."""
    return STATE / "kubeconfig" / user


def token(user: str) -> str:
    config = json.loads(path(user).read_text("utf-8"))
    return str(config["users"][0]["user"]["token"])


def _kubeconfig(user: str, namespace: str, credentials: dict[str, Any]) -> dict[str, Any]:
    cluster = {"server": SERVER, "certificate-authority": str(CERTIFICATE)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CONTEXT, "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [
            {
                "name": CONTEXT,
                "context": {"cluster": CONTEXT, "user": user, "namespace": namespace},
            }
        ],
        "current-context": CONTEXT,
    }


def _plugin(token: str) -> dict[str, Any]:
    """Return credentials that a program prints: here, cat does."""
    version = "client.authentication.k8s.io/v1"
    credential = STATE / "kubeconfig" / "credential.json"
    content = {"apiVersion": version, "kind": "ExecCredential", "status": {"token": token}}
    _write(credential, json.dumps(content))
    return {
        "exec": {
            "apiVersion": version,
            "command": "cat",
            "args": [str(credential)],
            "interactiveMode": "Never",
        }
    }


def _write(target: Path, content: str) -> None:
    target.touch(mode=0o600)
    target.write_text(content, "utf-8")
