"""`make test`: all checks, then all tests; the last lines say what could not be run.

`--checks` runs the checks alone, `--browser` the tests with a browser alone. Other arguments are
pytest's, and choose among the tests without a browser.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.cluster import ClusterError, machine  # noqa: E402
from tools import frontend  # noqa: E402

BIN = Path(sys.executable).parent
#: Where pytest writes which tests it skipped, and why (see tests/conftest.py).
SKIPPED = ROOT / ".pytest_cache" / "skipped"

#: Several processes run tests: the matrix, those of containers, and the others; of the last two
#: much of the time is waiting, for processes and pods that start or die.
SEVERAL = ["--numprocesses", str(min(4, max(3, os.cpu_count() or 3)))]
#: What the tests of a marker need and this machine does not have, in a line each.
Lacking = dict[str, list[str]]

#: What the Docker engine has, by kind.
LISTS = {
    "container": ["ps", "--all", "--quiet"],
    "network": ["network", "ls", "--format", "{{.Name}}"],
    "volume": ["volume", "ls", "--quiet"],
}

CHECKS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "the layers": ["lint-imports", "--no-cache"],
}


def main(arguments: list[str]) -> int:
    """Run the checks and the tests; return an exit status."""
    SKIPPED.parent.mkdir(exist_ok=True)
    SKIPPED.unlink(missing_ok=True)
    if "--checks" in arguments:
        return verdict(checks(), [])
    if "--browser" in arguments:
        return browser([one for one in arguments if one != "--browser"])
    with cluster() as lacking:
        before = things(lacking)
        failed = checks()
        # A test run tells its own story, so its summary comes late.
        slowest = ["--durations", "40"] if in_ci() else []
        if not ran("pytest", ["pytest", *SEVERAL, *slowest, *selection(lacking), *arguments]):
            failed.append("pytest")
        if not arguments and "browser" not in lacking:
            failed += browser_tests(lacking)
        if in_ci():
            failed += [f"the tests marked `{name}`, which have to run in CI" for name in lacking]
            failed += [f"{thing} is left behind" for thing in sorted(left(before, lacking))]
        return verdict(failed, left_out(lacking))


def left(before: set[str], lacking: Lacking) -> set[str]:
    """Return what is there and was not before; what was told to end has a moment for it."""
    deadline = time.monotonic() + 10
    while (found := things(lacking) - before) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def things(lacking: Lacking) -> set[str]:
    """Return CI's processes, containers, networks, volumes and mounts.

    Elsewhere others may make some.
    """
    if not in_ci():
        return set()
    found = {f"the process {line}" for line in processes()}
    if "docker" in lacking:
        return found
    for kind, words in LISTS.items():
        said = subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout
        found |= {f"the {kind} {name}" for name in said.split()}
    mounts = Path("/proc/self/mounts").read_text("utf-8").splitlines()
    # The engine's own come and go with its containers, and some stay as long as it does.
    own = ("/run/docker/", "/var/lib/docker/")
    points = {line.split()[1] for line in mounts}
    return found | {f"the mount {point}" for point in points if not point.startswith(own)}


def processes() -> set[str]:
    """Return the number and the command of each process of this checkout, its runs and clusters."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            command = path.read_text("utf-8", "replace").replace("\0", " ").strip()
            if "nbtrain" in command or str(ROOT) in command:
                found.add(f"{path.parent.name} ({command[:200]})")
    return found


def checks() -> list[str]:
    """Run the checks and return the names of those that failed; build the front end for them."""
    failed = [name for name, command in CHECKS.items() if not ran(name, command)]
    if lacks := frontend.lacking():
        print(f"\n=== the front end is left out: {lacks[0]}")
        return [*failed, "the front end"] if in_ci() else failed
    return failed + [
        f"the front end ({action})"
        for action in ("build", "check")
        if not ran(f"the front end: {action}", ["python", "tools/frontend.py", action])
    ]


def browser(arguments: list[str]) -> int:
    """Run the tests with a browser alone; return an exit status."""
    lacking = what_is_lacking()
    if "browser" in lacking:
        return verdict([f"the tests marked `browser`: {lacking['browser'][0]}"], [])
    if not ran("the front end: build", ["python", "tools/frontend.py", "build"]):
        return verdict(["the front end (build)"], [])
    return verdict(browser_tests(lacking, arguments), left_out(lacking))


def browser_tests(lacking: Lacking, arguments: Sequence[str] = ()) -> list[str]:
    """Run the tests with a browser, one at a time since people look at one; name what failed.

    The front end is built by then.
    """
    command = ["pytest", "tests/browser", *_without(*lacking), *arguments]
    return [] if ran("pytest, with a browser", command) else ["the tests marked `browser`"]


def verdict(failed: list[str], missing: list[str]) -> int:
    """Say in the last lines what was not run and what failed; return an exit status."""
    for line in missing:
        print(f"NOT RUN: {line}")
    print(f"FAILED: {', '.join(failed)}" if failed else "All that was run has passed.")
    return 1 if failed else 0


@contextlib.contextmanager
def cluster() -> Iterator[Lacking]:
    """See to what the tests with containers and a cluster need; give what the machine lacks.

    CI's machine is given what it lacks. The cluster's binaries take minutes to build the first
    time: that goes on beside the other tests, and the tests with a cluster wait for it.
    """
    engine_started = in_ci() and installed()
    lacking = what_is_lacking()
    build = None if "cluster" in lacking else start_build()
    try:
        yield lacking
    finally:
        if build and build.poll() is None:
            # Go's compilers are in its group.
            os.killpg(build.pid, signal.SIGTERM)
            build.wait()
        if engine_started:
            machine.stop_engine()


def what_is_lacking() -> Lacking:
    """Return what the tests of each marker need and this machine does not have."""
    lacking = {
        "cluster": machine.lacking(),
        "docker": [] if machine.engine_answers() else ["no Docker engine answers"],
        "browser": frontend.lacking() + machine.browser_lacking(),
    }
    return {name: lines for name, lines in lacking.items() if lines}


def installed() -> bool:
    """Install what the cluster needs; tell whether a Docker engine was started for it."""
    print("\n=== what the test cluster needs", flush=True)
    try:
        return machine.install()
    except ClusterError as error:
        print(error)
        return False


def start_build() -> subprocess.Popen[bytes]:
    """Start building the cluster's binaries; the tests that need them tell what goes wrong."""
    command = ["nice", "-n", "19", sys.executable, "-m", "tests.cluster", "build"]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        command, cwd=ROOT, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
    )


def ran(name: str, command: list[str]) -> bool:
    """Run a command from the environment's own tools and tell whether it succeeded."""
    print(f"\n=== {name}", flush=True)
    began = time.monotonic()
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "PATH": f"{BIN}:{os.environ['PATH']}"}
    environment["NBTRAIN_SKIPPED"] = str(SKIPPED)
    status = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, env=environment).returncode
    print(f"=== {name}: {'ok' if status == 0 else 'FAILED'} in {time.monotonic() - began:.0f} s")
    return status == 0


def selection(lacking: Lacking) -> list[str]:
    """Return pytest's arguments that leave out the tests for CI, and those that can't run here."""
    return _without("browser", *([] if in_ci() else ["full"]), *lacking)


def _without(*markers: str) -> list[str]:
    return ["-m", " and ".join(f"not {marker}" for marker in markers)] if markers else []


def left_out(lacking: Lacking) -> list[str]:
    """Return in words what this machine or this way of calling left out."""
    found = [f"tests marked `{name}`: {line}" for name in lacking for line in lacking[name]]
    found += SKIPPED.read_text("utf-8").splitlines() if SKIPPED.exists() else []
    if not in_ci():
        found.append("tests marked `full`; `make test-full` runs them")
    if sys.platform != "linux":
        found.append("forked trainers and what only Linux has (process groups, /proc)")
    return found


def in_ci() -> bool:
    """Tell whether nothing may be left out."""
    return bool(os.environ.get("CI"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
