"""nbtrain: distributed TensorFlow training as one notebook cell.

`%load_ext nbtrain`, then `%%k8s_train?`; or `nbtrain.train(model, dataset, workers=2)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .runtime import __version__ as __version__

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .recordings import replay as replay
    from .run import Run as Run
    from .run import attach as attach
    from .run import runs as runs
    from .training import train as train

__all__ = ["Run", "attach", "replay", "runs", "train"]

_HOMES = {
    "train": "training",
    "attach": "run",
    "replay": "recordings",
    "runs": "run",
    "Run": "run",
}


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used: the import of nbtrain stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'nbtrain' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    """Tell `jupyter labextension develop` where JupyterLab's extension is."""
    return [{"src": "labextension", "dest": "nbtrain"}]


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics (`%load_ext nbtrain`), and have slow imports done in the background.

    That of TensorFlow is done by a spare process.
    """
    from . import display, magics, training

    magics.load(shell)
    display.warm_up_in_background()
    training.warm_up_in_background()
    training.preload_in_background()


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Remove the magics (`%unload_ext nbtrain`)."""
    from . import magics

    magics.unload(shell)
