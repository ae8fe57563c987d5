"""An IPython shell in the tests' own process."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config


@contextlib.contextmanager
def shell(folder: Path) -> Iterator[InteractiveShell]:
    """Give the process's one shell, whose settings are in `folder`; afterwards there is none."""
    monkey = pytest.MonkeyPatch()
    monkey.setenv("IPYTHONDIR", str(folder))
    monkey.setitem(sys.modules, "__main__", sys.modules["__main__"])  # which becomes the shell's
    config = Config()
    config.HistoryManager.hist_file = ":memory:"
    config.InteractiveShell.colors = "nocolor"
    InteractiveShell.clear_instance()
    made = InteractiveShell.instance(config=config)
    yield made
    made.history_manager.end_session()
    made.history_manager.save_thread and made.history_manager.save_thread.stop()
    InteractiveShell.clear_instance()
    monkey.undo()
