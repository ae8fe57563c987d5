"""What keeps a run from a cluster, before there is one: `nbtrain doctor` and `%k8s_doctor`."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from . import config
from .errors import BackendError

if TYPE_CHECKING:
    from .backends.kubernetes.preflight import Check

_MARKS = {"ok": "✓", "failed": "✗", "warning": "!", "unknown": "?"}
_WIDTH = 99
#: The exit status of a program that was interrupted, by the shell's convention.
_INTERRUPTED = 130


def diagnose(
    options: dict[str, Any] | None = None, tell: Callable[[str], None] = lambda _: None
) -> Generator[Check]:
    """Yield the checks of the cluster that the settings point at, as they are made.

    Parameters
    ----------
    options
        Options as a cell has them (context, namespace, image, ...); they count before the
        settings. With `probe` pods are started as well; they are removed when the generator ends.
    tell
        Gets in words what the probe waits for.
    """
    from .backends.kubernetes import preflight, probe
    from .backends.kubernetes.client import Client
    from .payload import versions

    settings = {**config.defaults(), **(options or {})}
    probes = settings.pop("probe", False)
    try:
        client = Client(str(settings.get("context", "")), str(settings.get("namespace", "")))
    except BackendError as error:
        yield preflight.Check("cluster", preflight.FAILED, error.message, error.fix)
        return
    request = preflight.example(settings, versions())
    failed = False
    for check in preflight.checks(client, request):
        failed |= check.state == preflight.FAILED
        yield check
    if probes and failed:
        said = "no pods were started: what failed above comes first."
        yield preflight.Check("probe", preflight.UNKNOWN, said)
    elif probes:
        yield from probe.checks(client, request, tell)


def lines(checks: Iterable[Check]) -> Iterator[str]:
    """Yield the checks as text: a mark, the sentence, and below it what to do."""
    for check in checks:
        head = f"{_MARKS[check.state]} {check.name}: "
        yield textwrap.fill(head + check.sentence, _WIDTH, subsequent_indent="    ")
        if check.fix and check.state != "ok":
            yield textwrap.indent(check.fix.rstrip(), "    ")
        elif check.fix:
            yield textwrap.fill(check.fix, _WIDTH, initial_indent="    ", subsequent_indent="    ")


def run(options: dict[str, Any] | None = None) -> int:
    """Print all checks as they are made; return an exit status, 1 if one of them failed."""
    failed = False
    told = ""

    def tell(progress: str) -> None:
        nonlocal told
        if progress != told:
            print(f"… {progress}", flush=True)
        told = progress

    try:
        # Closed, so that an interruption at any moment leaves nothing of the probe behind.
        with contextlib.closing(diagnose(options, tell)) as checks:
            for check in checks:
                failed |= check.state == "failed"
                for line in lines([check]):
                    print(line, flush=True)
    except KeyboardInterrupt:
        print("(interrupted)")
        return _INTERRUPTED
    return int(failed)
