"""etcd, the API server, controllers, scheduler and DNS: ordinary processes of this machine."""

from __future__ import annotations

import base64
import json
import shutil
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from . import access
from .daemon import Daemon, until
from .network import HOST, PODS, SERVICES, free_port, listens
from .paths import STATE
from .shell import run

ETCD, APISERVER = Daemon("etcd"), Daemon("apiserver")
CONTROLLERS, SCHEDULER, DNS = Daemon("controller-manager"), Daemon("scheduler"), Daemon("dns")

DOMAIN = "cluster.local"
KEY = STATE / "pki" / "service-accounts.key"
#: What DNS falls back on.
RESOLV_CONF = STATE / "resolv.conf"
DAEMONS = [ETCD, APISERVER, CONTROLLERS, SCHEDULER, DNS]
_ADDRESSES = STATE / "etcd.json"


def start(binaries: Path) -> None:
    """Start etcd and the API server, and wait until it serves."""
    KEY.parent.mkdir(parents=True, exist_ok=True)
    run("openssl", "genrsa", "-out", KEY, "2048")
    _start_etcd(binaries)
    start_apiserver(binaries)


def start_controllers(binaries: Path) -> None:
    """Start what works through the API server; nothing waits for it."""
    CONTROLLERS.start(
        binaries / "kube-controller-manager",
        *_clients("controllers"),
        f"--service-account-private-key-file={KEY}",
        f"--root-ca-file={access.CERTIFICATE}",
        "--use-service-account-credentials",
        "--leader-elect=false",
        # A lost node is to be seen as lost soon: the default is 40 s.
        "--node-monitor-grace-period=10s",
        "--node-monitor-period=2s",
        f"--cluster-cidr={PODS}",
    )
    SCHEDULER.start(binaries / "kube-scheduler", *_clients("scheduler"), "--leader-elect=false")


def start_dns(binaries: Path) -> None:
    """Start DNS, whose role has to exist, and wait until it knows the cluster."""
    DNS.start(binaries / "coredns", "-conf", _corefile())
    until("DNS answers", lambda: listens(HOST, 53), DNS)


def start_apiserver(binaries: Path) -> None:
    """Start the API server and wait until it is ready; it keeps its certificate."""
    etcd = json.loads(_ADDRESSES.read_text("utf-8"))["client"]
    APISERVER.start(
        binaries / "kube-apiserver",
        f"--etcd-servers={etcd}",
        f"--bind-address={HOST}",
        f"--advertise-address={HOST}",
        "--secure-port=6443",
        f"--cert-dir={access.CERTIFICATE.parent}",
        "--authorization-mode=Node,RBAC",
        f"--token-auth-file={access.TOKENS}",
        f"--service-account-key-file={KEY}",
        f"--service-account-signing-key-file={KEY}",
        f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
        f"--service-cluster-ip-range={SERVICES}",
        "--allow-privileged=true",
        "--kubelet-preferred-address-types=InternalIP",
    )
    until("the API server is ready", ready, ETCD, APISERVER)


def write_resolv_conf() -> None:
    """Write what the machine's names are resolved with, as its nodes can use it."""
    # A resolver on loopback, as systemd's, is there for the machine but not for its nodes.
    systemd = Path("/run/systemd/resolve/resolv.conf")
    shutil.copyfile(systemd if systemd.exists() else "/etc/resolv.conf", RESOLV_CONF)


def ready() -> bool:
    """Tell whether the API server serves."""
    try:
        return _get("/readyz") == b"ok"
    except (OSError, ssl.SSLError):
        return False


def compact() -> None:
    """Let etcd forget all but its newest revision.

    A watch or a list from before then gets 410 Gone once the API server's own memory of changes
    is gone too, which a restart of it sees to.
    """
    access.only_ours("compacting etcd")
    etcd = json.loads(_ADDRESSES.read_text("utf-8"))["client"]
    any_key = base64.b64encode(b"\0").decode()
    revision = _post(f"{etcd}/v3/kv/range", {"key": any_key})["header"]["revision"]
    _post(f"{etcd}/v3/kv/compaction", {"revision": revision, "physical": True})


def _start_etcd(binaries: Path) -> None:
    client, peer = (f"http://127.0.0.1:{free_port(port)}" for port in (12379, 12380))
    _ADDRESSES.write_text(json.dumps({"client": client, "peer": peer}), "utf-8")
    ETCD.start(
        binaries / "etcd",
        f"--data-dir={STATE / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",  # what it holds need not survive the machine
    )


def _clients(user: str) -> list[str]:
    options = ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
    # No port of their own: nobody asks them for anything.
    return [*(f"--{option}={access.path(user)}" for option in options), "--secure-port=0"]


def _corefile() -> Path:
    path = STATE / "Corefile"
    # One second to live: a test that replaces a pod need not wait for a cache.
    path.write_text(
        f"""{DOMAIN}:53 {{
  bind {HOST}
  errors
  kubernetes {DOMAIN} {{
    kubeconfig {access.path("dns")} {access.CONTEXT}
    ttl 1
  }}
}}
.:53 {{
  bind {HOST}
  errors
  forward . {RESOLV_CONF}
}}
""",
        "utf-8",
    )
    return path


def _get(path: str) -> bytes:
    headers = {"Authorization": f"Bearer {access.token('admin')}"}
    context = ssl.create_default_context(cafile=access.CERTIFICATE)
    # This machine's own address: a proxy of the environment has no part in it.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    request = urllib.request.Request(access.SERVER + path, headers=headers)
    with opener.open(request, timeout=5) as answer:
        content: bytes = answer.read()
    return content


def _post(url: str, content: dict[str, Any]) -> dict[str, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, json.dumps(content).encode(), timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found
