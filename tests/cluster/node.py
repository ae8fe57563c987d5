"""A node: a machine within the machine, with a kubelet, a containerd and a kube-proxy of its own.

Its processes live in their own network, mount and process namespaces. So nodes do not meet each
other's pods, mounts and iptables, to kill the first process is to pull the plug, and nothing
that a node has set up is left after that.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from . import access, cgroups, registry
from .control_plane import DOMAIN, RESOLV_CONF
from .daemon import Daemon, gone, until
from .images import PAUSE
from .network import HOST, NODES, PODS, Cable
from .paths import CACHE, STATE
from .shell import pipe, run

#: The first process: it reaps what is left to it, and lives until it is killed.
_INIT = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True: signal.pause()"

#: What a machine has to itself; the rest of the file system is this machine's.
_PRIVATE = ["/run", "/var/lib", "/var/log"]


@dataclass(frozen=True)
class Node:
    """One node, by its number."""

    number: int

    @property
    def name(self) -> str:
        return f"node{self.number}"

    @property
    def cable(self) -> Cable:
        return Cable(self.number)

    @property
    def machine(self) -> Daemon:
        return Daemon(self.name)

    @property
    def daemons(self) -> list[Daemon]:
        parts = ("containerd", "kubelet", "proxy")
        return [self.machine, *(Daemon(f"{self.name}-{part}") for part in parts)]

    @property
    def folder(self) -> Path:
        return STATE / self.name

    @property
    def images(self) -> Path:
        """containerd's store: kept from one boot to the next, so that an image is pulled once."""
        return CACHE / "nodes" / self.name

    def boot(self, others: list[Node]) -> None:
        """Switch the node on: a machine with a network and a containerd."""
        self.folder.mkdir(parents=True, exist_ok=True)
        cgroups.create(self.name)
        self.machine.start(
            "unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--mount-proc",
            "--kill-child=KILL", sys.executable, "-I", "-c", _INIT, self.folder,
        )  # fmt: skip
        until(f"{self.name} runs", lambda: self._init() is not None, self.machine)
        for folder in _PRIVATE:
            self.enter("mount", "-t", "tmpfs", "tmpfs", folder)
        self._connect(others)
        self._start_containerd()

    def join(self, binaries: Path) -> None:
        """Start what makes the machine a node of the cluster; its API server has to be ready."""
        kubelet = self.folder / "kubelet.json"
        kubelet.write_text(json.dumps(self._kubelet()), "utf-8")
        self._start(
            "kubelet",
            binaries / "kubelet",
            f"--config={kubelet}",
            f"--kubeconfig={access.path(self.name)}",
            f"--root-dir={self.folder / 'kubelet'}",
            f"--cert-dir={self.folder / 'pki'}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.cable.address}",
        )
        self._start(
            "proxy",
            binaries / "kube-proxy",
            f"--kubeconfig={access.path('proxy')}",
            f"--hostname-override={self.name}",
            f"--cluster-cidr={PODS}",
            "--proxy-mode=iptables",
            # A container's root may set neither.
            "--conntrack-max-per-core=0",
            "--oom-score-adj=0",
        )

    def kill(self) -> None:
        """Pull the plug: first the network's, so that no connection is closed, then the power's."""
        self.cable.unplug()
        init = self._init()
        for daemon in self.daemons:
            daemon.kill()
        until(f"{self.name} is off", lambda: init is None or gone(init))

    def enter(self, *command: str | Path) -> str:
        """Run a command on the node and return what it printed."""
        return run(*self._within(), *command)

    def _within(self) -> list[str]:
        return [
            "nsenter",
            f"--target={self._init()}",
            "--mount",
            "--net",
            "--pid",
            "--ipc",
            "--uts",
        ]

    def _init(self) -> int | None:
        """Return the id that the node's first process has outside."""
        pid = self.machine.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return int(children[0]) if children else None

    def _start(self, part: str, *command: str | Path) -> None:
        Daemon(f"{self.name}-{part}").start(*self._within(), *command)

    def _connect(self, others: list[Node]) -> None:
        init = self._init()
        assert init is not None
        self.cable.plug(init)
        address = f"{self.cable.address}/{NODES.prefixlen}"
        self.enter("hostname", self.name)
        self.enter("ip", "address", "add", address, "dev", "eth0")
        for link in ("lo", "eth0"):
            self.enter("ip", "link", "set", link, "up")
        self.enter("ip", "route", "add", "default", "via", HOST)
        for other in others:
            self.enter("ip", "route", "add", other.cable.pods, "via", other.cable.address)
        self.enter("sysctl", "-qw", "net.ipv4.ip_forward=1")
        # Pods see each other's own addresses; the world sees the node's.
        self.enter(
            "iptables", "-w", "-t", "nat", "-A", "POSTROUTING",
            "-s", str(PODS), "!", "-d", str(PODS), "-j", "MASQUERADE",
        )  # fmt: skip

    def _start_containerd(self) -> None:
        plugins, mirrors = self.folder / "cni", self.folder / "registries"
        plugins.mkdir(exist_ok=True)
        (plugins / "10-bridge.conflist").write_text(json.dumps(self._cni()), "utf-8")
        registry.mirror(mirrors)
        config = self.folder / "containerd.toml"
        config.write_text(
            f"""version = 2
root = "{self.images}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_plugins()}"
    conf_dir = "{plugins}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{mirrors}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{self.folder / "opt"}"
""",
            "utf-8",
        )
        self._start("containerd", "containerd", "--config", config)
        containerd = Daemon(f"{self.name}-containerd")
        until(f"{containerd.name} answers", self._has_containerd, containerd)
        if PAUSE not in self._ctr("images", "ls", "-q").split():
            pipe(["docker", "save", PAUSE], [*self._within(), *_CTR, "images", "import", "-"])

    def _has_containerd(self) -> bool:
        root = Path(f"/proc/{self._init()}") / "root"
        return (root / "run" / "containerd" / "containerd.sock").is_socket()

    def _ctr(self, *command: str) -> str:
        return self.enter(*_CTR, *command)

    def _cni(self) -> dict[str, object]:
        ranges = [[{"subnet": self.cable.pods}]]
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni",  # as short-lived as the pods
                "ranges": ranges,
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
        return {"cniVersion": "0.4.0", "name": self.name, "plugins": [bridge, portmap]}

    def _kubelet(self) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "address": self.cable.address,
            "readOnlyPort": 0,
            "healthzPort": 0,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroups.path(self.name),
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,  # a container's root may not lower it
            "resolvConf": str(RESOLV_CONF),
            "clusterDomain": DOMAIN,
            "clusterDNS": [HOST],
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
            },
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "nodeStatusUpdateFrequency": "3s",
            "podLogsDir": str(self.folder / "logs"),
        }


_CTR = ["ctr", "--namespace", "k8s.io"]


def cni_plugins() -> Path:
    """Return where the machine has its CNI plugins: Debian's place, or the plugins' own."""
    places = [Path("/usr/lib/cni"), Path("/opt/cni/bin")]
    return next((place for place in places if (place / "bridge").exists()), places[0])
