"""Tells an error of the user's code from one of the machine that a rehearsal runs on.

A volume, a module of the image, a Secret, a service or a GPU that is only where the run will train
can't be rehearsed: such an error is no reason not to start.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from . import traces

#: How TensorFlow tells of a file that is not there.
_NO_FILE = re.compile(
    r"(?:^|[\s'\"\[])/[^\s;:]*[;:] No such file or directory|No files matched pattern: /"
)
_OF_GPUS = re.compile(r"\bgpus?\b|cuda|cudnn|nccl|\bxla\b", re.IGNORECASE)
#: What a mistake in writing raises, whatever the data.
_MISTAKES = (NameError, AttributeError, TypeError, ImportError, SyntaxError)


def may_work(error: BaseException, container: Mapping[str, Any]) -> bool:
    """Tell whether what failed here may well work where the run trains.

    Parameters
    ----------
    container
        What was asked of the containers or pods: `TrainRequest.container`.
    """
    chain = list(traces.chain(error))
    if any(_is_of_the_machine(one) for one in chain):
        return True
    if any(isinstance(one, _MISTAKES) for one in chain):
        return False
    if container.get("gpus") and _OF_GPUS.search(f"{error} {_last_line(error)}"):
        return True
    # Without its data a function may fail in any way: an empty list of files, say.
    return any(not os.path.isdir(path) for path in _mounts(container))


def _is_of_the_machine(error: BaseException) -> bool:
    # The runtime's own MissingModule is raised from it.
    if isinstance(error, ModuleNotFoundError):
        return True
    if isinstance(error, FileNotFoundError):
        return not error.filename or _is_absolute(error.filename)
    if isinstance(error, OSError):  # rights, and networks: services may be the cluster's own
        return True
    if isinstance(error, KeyError):
        return _is_of_environment(error)
    return _NO_FILE.search(str(error)) is not None


def _is_absolute(name: Any) -> bool:
    return isinstance(name, (str, bytes, os.PathLike)) and PurePath(os.fsdecode(name)).is_absolute()


def _is_of_environment(error: KeyError) -> bool:
    """Tell whether `os.environ` lacked the key."""
    stack = traceback.extract_tb(error.__traceback__)
    return bool(stack) and stack[-1].filename in (os.__file__, "<frozen os>")


def _last_line(error: BaseException) -> str:
    """Return the line of source that raised the error."""
    stack = traceback.extract_tb(error.__traceback__)
    return (stack[-1].line or "") if stack else ""


def _mounts(container: Mapping[str, Any]) -> list[str]:
    """Return where volumes and Secrets will be mounted."""
    asked = [*container.get("volume", ()), *container.get("secret", ())]
    return [text.split(":")[1] for text in asked if ":" in text]
