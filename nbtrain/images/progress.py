"""How far a build, a push, a save or a load is: a pure fold of what the engine says."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

#: Lines of a build step that are kept, to be shown should it fail.
TAIL = 25

_STEP = re.compile(r"Step (\d+)/(\d+) : (.*)", re.DOTALL)
_COLOURS = re.compile(r"\x1b\[[\d;]*m")
_LOADED = re.compile(r"Loaded image(?: ID)?: (\S+)")
#: What the engine says of a layer that it needn't send, or is done with.
_THERE = ("Layer already exists", "Already exists", "Mounted from")
_DONE = ("Pushed", "Pull complete", "Download complete")


@dataclass(frozen=True)
class Layer:
    """A layer on its way; `total` is 0 as long as its size is not known."""

    done: int = 0
    total: int = 0
    finished: bool = False
    #: The other side had it already.
    there: bool = False


@dataclass(frozen=True)
class Progress:
    """What has been said so far.

    Attributes
    ----------
    title
        Such as "building nbtrain:py3.11".
    step, steps, doing
        Of a build: the step that runs, how many there are, its instruction.
    said
        The last lines that this step has written.
    layers
        By the engine's own id.
    done, total
        Bytes of what has no layers: a saved or loaded image.
    error
        The engine's message, once it has failed.
    names
        The images that were loaded.
    digest
        Of what was pushed.
    ended
        Whether nothing more will come.
    """

    title: str
    step: int = 0
    steps: int = 0
    doing: str = ""
    said: tuple[str, ...] = ()
    layers: Mapping[str, Layer] = field(default_factory=dict)
    done: int = 0
    total: int = 0
    error: str = ""
    names: tuple[str, ...] = ()
    digest: str = ""
    ended: bool = False

    @property
    def bytes(self) -> tuple[int, int]:
        """Bytes that are through, and all that are known of."""
        layers = self.layers.values()
        return (
            self.done + sum(layer.done for layer in layers),
            self.total + sum(layer.total for layer in layers),
        )

    @property
    def layers_finished(self) -> int:
        """How many layers are where they should be."""
        return sum(layer.finished for layer in self.layers.values())

    @property
    def fraction(self) -> float | None:
        """How far it is, from 0 to 1; None where that can't be said."""
        if self.ended and not self.error:
            return 1.0
        if self.steps:
            return (self.step - 1) / self.steps
        done, total = self.bytes
        return min(done / total, 1.0) if total else None


#: Is told of every change.
Watch = Callable[[Progress], None]


def unwatched(_: Progress) -> None:
    """Watch nothing."""


def fold(progress: Progress, message: Mapping[str, Any]) -> Progress:
    """Return the progress after a message of the engine's stream; unknown ones change nothing."""
    if "error" in message:
        return replace(progress, error=_error(message).strip(), ended=True)
    if "stream" in message:
        return _after_line(progress, str(message["stream"]))
    if "status" in message:
        return _after_status(progress, message)
    digest = (message.get("aux") or {}).get("Digest")
    return replace(progress, digest=str(digest)) if digest else progress


def _error(message: Mapping[str, Any]) -> str:
    return str((message.get("errorDetail") or {}).get("message") or message["error"])


def _after_line(progress: Progress, text: str) -> Progress:
    text = _COLOURS.sub("", text)
    if step := _STEP.match(text):
        doing = " ".join(step[3].split())
        return replace(
            progress, step=int(step[1]), steps=int(step[2]), doing=doing, said=(), layers={}
        )
    if loaded := _LOADED.match(text):
        progress = replace(progress, names=(*progress.names, loaded[1]))
    # What the builder says about itself is no part of the story: " ---> 1f2e3d4c".
    new = [line for line in text.splitlines() if line.strip() and not line.startswith(" ---> ")]
    return replace(progress, said=(*progress.said, *new)[-TAIL:])


def _after_status(progress: Progress, message: Mapping[str, Any]) -> Progress:
    name, status = message.get("id"), str(message["status"])
    # Apart from layers, ids are tags: "3.11-slim: Pulling from library/python".
    if not name or status.startswith("Pulling from"):
        return progress
    before = progress.layers.get(name, Layer())
    detail = message.get("progressDetail") or {}
    if status.startswith(_THERE):
        after = replace(before, finished=True, there=True)
    elif status.startswith(_DONE):
        after = replace(before, finished=True, done=before.total)
    elif status in ("Pushing", "Downloading") and detail.get("current"):
        # The engine counts the tar's padding too, and its total may be missing.
        total = max(before.total, detail.get("total") or 0, detail["current"])
        after = replace(before, done=detail["current"], total=total)
    else:
        after = before
    return replace(progress, layers={**progress.layers, name: after})


def follow(
    title: str, messages: Any, watch: Watch = unwatched, begin: Progress | None = None
) -> Progress:
    """Return the progress after all messages, having told `watch` of each.

    It does not raise for an error of the engine: `Progress.error` has it.
    """
    progress = begin or Progress(title)
    watch(progress)
    for message in messages:
        progress = fold(progress, message)
        watch(progress)
    progress = replace(progress, ended=True)
    watch(progress)
    return progress
