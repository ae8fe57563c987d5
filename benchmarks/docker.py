"""Containers: nbtrain beside `docker run` of a script in the same image."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from . import SMALL
from .report import Measure
from .section import Samples, Section, command, in_fresh_process, last_line, small_environment

HERE = Path(__file__).parent
#: What a worker may use, here and there.
CORES, MEMORY = 1, 2 << 30
PORT = 2222


class Docker(Section):
    """nbtrain's containers, and two that one starts by hand."""

    name = "docker"
    title = "Containers"
    about = f"""Against `docker run` of the same script in two containers of the same image, on a
network of their own ([benchmarks/docker.py](../benchmarks/docker.py)); a worker has {CORES} core
and 2 GiB of memory here and there. The raw copy is a container that sends 1 GiB over TCP to two
others at once, which write it to a file ([benchmarks/copying.py](../benchmarks/copying.py))."""
    notes = """\
- *Cell to the end of the first step* is the first cell of a notebook that trains in containers:
  with packing, the import of the Docker SDK, and everything that is made and removed by a run.
  By hand it begins with `docker network create`. Nothing is warm, and nothing is rehearsed
  (`--no-rehearse`), since the script is not either. What a rehearsal adds is the line below it: it
  is made in the process that `%load_ext nbtrain` has started.
- *Steps per second* by hand have pauses of seconds between epochs in them
  ([why](how-it-works.md#what-makes-steps-fast)).
- *1 GiB captured* is counted from the first byte that leaves the head to the last one that a worker
  has written, with a SHA-256 on the way and while TensorFlow is imported beside it."""

    def lacking(self) -> str:
        """Return why there are no containers."""
        from nbtrain.errors import BackendError
        from nbtrain.images.client import connect

        try:
            connect().close()
        except BackendError as error:
            return error.message
        return ""

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Have the image that the tests use."""
        from tests.docker_image import base_image

        self._image = base_image()
        yield

    def measure(self) -> dict[str, float]:
        """Measure everything once."""
        size = 2**26 if SMALL in os.environ else 2**30
        options = {"backend": "docker", "image": self._image, "cpu": CORES, "memory": MEMORY}
        options, rehearsed = options | {"rehearse": False}, options | {"warm": True}
        sent = json.dumps({**options, "bytes": size, "model_bytes": 4000})
        parts = {
            "hand": by_hand(self._image),
            "trained": in_fresh_process("placed", "trained", json.dumps(options)),
            "rehearsed": in_fresh_process("placed", "trained", json.dumps(rehearsed)),
            "raw": raw_copy(self._image, size),
            "copied": in_fresh_process("placed", "copied", sent),
        }
        return {f"{part}.{name}": x for part, found in parts.items() for name, x in found.items()}

    def table(self, samples: Samples) -> list[Measure]:
        """Return the lines of the table with the goals of the project."""
        return [
            Measure(
                "Cell to the end of the first step",
                "s",
                0.5,
                samples["trained.first"],
                samples["hand.first"],
                difference=True,
            ),
            Measure(
                "The same with a rehearsal (beside: without one)",
                "s",
                2.0,
                samples["rehearsed.first"],
                samples["trained.first"],
                difference=True,
            ),
            Measure(
                "Steps per second",
                "/s",
                0.99,
                samples["trained.rate"],
                samples["hand.rate"],
                at_least=True,
            ),
            Measure(
                "1 GiB captured, to both workers",
                "MB/s",
                0.8,
                samples["copied.there"],
                samples["raw.rate"],
                at_least=True,
            ),
        ]


def by_hand(image: str) -> dict[str, float]:
    """Run the script in two containers; return seconds to the first step, and steps per second."""
    with _named("hand") as name:
        began = time.time()
        command("docker", "network", "create", name)
        hosts = [f"{name}-{index}" for index in range(2)]
        for index, host in enumerate(hosts):
            cluster = {"worker": [f"{other}:{PORT}" for other in hosts]}
            task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
            environment = {
                "TF_CONFIG": json.dumps(task),
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "TF_NUM_INTRAOP_THREADS": str(CORES),
                **small_environment(),
            }
            _start(image, name, host, environment, "python", "-m", "benchmarks.script")
        for host in hosts:
            _finish(host)
        times = last_line(command("docker", "logs", hosts[0]))
    return {"first": times["first"] - began, "rate": times["rate"]}


def raw_copy(image: str, size: int) -> dict[str, float]:
    """Send so many bytes to two containers at once; return MB/s of the slower one."""
    with _named("raw") as name:
        command("docker", "network", "create", name)
        hosts = [f"{name}-{index}" for index in range(2)]
        program = ("python", "-m", "benchmarks.copying")
        _start(image, name, f"{name}-server", {}, *program, "serve", str(size), "2")
        for host in hosts:
            _start(image, name, host, {}, *program, "receive", f"{name}-server")
        for host in hosts:
            _finish(host)
        times = [last_line(command("docker", "logs", host)) for host in hosts]
    began, ended = min(t["began"] for t in times), max(t["ended"] for t in times)
    return {"rate": size / (ended - began) / 1e6}


@contextlib.contextmanager
def _named(part: str) -> Iterator[str]:
    """Give a name for a network, and for its containers to begin with; remove all of them."""
    name = f"nbtrain-bench-{part}-{secrets.token_hex(3)}"
    try:
        yield name
    finally:
        made = command("docker", "ps", "--all", "--quiet", "--filter", f"name={name}").split()
        if made:
            command("docker", "rm", "--force", "--volumes", *made)
        if command("docker", "network", "ls", "--quiet", "--filter", f"name={name}"):
            command("docker", "network", "rm", name)


def _start(image: str, network: str, name: str, environment: dict[str, str], *program: str) -> None:
    """Start a container that sees this package."""
    given = [word for key, value in environment.items() for word in ("--env", f"{key}={value}")]
    limits = ("--cpus", str(CORES), "--memory", str(MEMORY))
    place = ("--volume", f"{HERE}:/code/{HERE.name}:ro", "--workdir", "/code")
    where = ("--name", name, "--hostname", name, "--network", network)
    command("docker", "run", "--detach", *where, *limits, *place, *given, image, *program)


def _finish(name: str) -> None:
    """Wait until a container has ended well."""
    status = command("docker", "wait", name).strip()
    if status != "0":
        raise RuntimeError(f"{name} ended with {status}\n{command('docker', 'logs', name)}")
