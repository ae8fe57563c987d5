"""`make demo`: run the digits notebook on two workers and check what comes out.

The exit status is not zero unless the held-out accuracy is over 0.97, two trainer processes took
part, and the weights are those of a plain Keras process that never imported nbtrain.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import nbformat

    import nbtrain
    from nbtrain.runtime.events import Event

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "example_notebooks" / "01_digits.ipynb"
#: Where the demo leaves its run and the notebook as it was run.
PLACE = ROOT / ".demo"
NAME = "digits"
WORKERS = 2
ACCURACY = 0.97
#: How far a weight may be from the plain process'. Two workers add a gradient in another order
#: than one process does; float32 rounds each sum (6e-8), and 500 steps carry that on. What is
#: wrong in the arithmetic shows as 1e-3 and more.
TOLERANCE = 1e-6
#: Lines of a cell's output that are shown.
SHOWN = 14
#: What TensorFlow writes to stderr when it is imported, whatever its log level is set to.
CHATTER = re.compile(r"WARNING: All log messages before absl|[IWE]\d{4} [\d:.]+ +\d+ \S+\.cc:\d+\]")
COLOURS = re.compile(r"\x1b\[[\d;]*m")


def main() -> int:
    """Run the demo; return an exit status."""
    from nbclient.exceptions import CellExecutionError

    began = time.monotonic()
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir()
    # For the notebook's kernel as well: the demo's run is not to be among the user's.
    os.environ.update(NBTRAIN_HOME=str(PLACE), TF_CPP_MIN_LOG_LEVEL="3", KERAS_BACKEND="tensorflow")
    say(f"Running {NOTEBOOK.relative_to(ROOT)} with {WORKERS} workers on this machine")
    try:
        run = run_notebook()
    except CellExecutionError as error:
        sys.exit(f"\nThe notebook failed.\n{error}\nIts kernel's log: {PLACE.name}/kernel.log")
    say("Training the same functions in a plain Keras process, without nbtrain")
    plain = train_plain()
    say("Is it right?")
    with stderr_to(PLACE / "check.log"):
        accuracy, alone, difference = compare(run, plain)
    pids = trainers(run.events)
    print(f"  trainer processes that took part              {len(pids)}")
    print(f"  accuracy on held-out digits, {WORKERS} workers        {accuracy:.4f}")
    print(f"  accuracy on held-out digits, plain Keras      {alone:.4f}")
    print(f"  largest difference of a weight between them   {difference:.1e}")
    wrong = complaints(accuracy, pids, difference)
    for line in wrong:
        print(f"  WRONG: {line}")
    took = time.monotonic() - began
    print(f"\n{'The demo failed' if wrong else 'The demo succeeded'} after {took:.0f} s.")
    print(f"The notebook as it was run: {(PLACE / NOTEBOOK.name).relative_to(ROOT)}")
    return 1 if wrong else 0


def run_notebook() -> nbtrain.Run:
    """Run the notebook cell by cell, telling what happens; return the run that it made."""
    import nbformat
    from nbclient import NotebookClient

    import nbtrain

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources=where,
        # The kernel's advice about its own transport is not the demo's matter.
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    run = None
    log = (PLACE / "kernel.log").open("wb")
    try:
        with log, client.setup_kernel(stderr=log):
            for index, cell in enumerate(notebook.cells):
                announce(cell)
                client.execute_cell(cell, index)
                show_outputs(cell)
                if "train" in cell.metadata.get("tags", ()):
                    # The cell has returned and the run goes on: nbtrain's own display of it,
                    # here in another process than the notebook's kernel.
                    run = nbtrain.attach(NAME).wait()
    finally:
        nbformat.write(notebook, PLACE / NOTEBOOK.name)
    assert run is not None, "the notebook has no cell with the tag 'train'"
    return run


def announce(cell: nbformat.NotebookNode) -> None:
    """Print a cell before it runs: headings, the training cell in full, else its first line."""
    if cell.cell_type == "markdown":
        for line in cell.source.splitlines():
            if line.startswith("#"):
                print(f"\n{line.lstrip('# ')}", flush=True)
        return
    lines = cell.source.splitlines()
    if "train" not in cell.metadata.get("tags", ()) and len(lines) > 1:
        lines = [lines[0], f"… {len(lines) - 1} more lines"]
    print("\n".join(f"  │ {line}" for line in lines), flush=True)


def show_outputs(cell: nbformat.NotebookNode) -> None:
    """Print what a cell has put out, as text."""
    for output in cell.get("outputs", ()):
        data: dict[str, Any] = output.get("data", {})
        content = output.get("text") or data.get("text/plain", "")
        if "image/png" in data:
            content = "(a plot: see the notebook)"
        if not sys.stdout.isatty():
            content = COLOURS.sub("", content)
        lines = [line for line in content.rstrip().splitlines() if not CHATTER.match(line)]
        more = [f"… {len(lines) - SHOWN} more lines"] if len(lines) > SHOWN else []
        for line in lines[:SHOWN] + more:
            print(f"    {line}", flush=True)


def train_plain() -> dict[str, Any]:
    """Return what `plain.py` saves: the weights, the held-out data, what it predicts."""
    import numpy as np

    target, log = PLACE / "plain.npz", PLACE / "plain.log"
    command = [sys.executable, Path(__file__).with_name("plain.py"), NOTEBOOK, target]
    with log.open("wb") as file:
        status = subprocess.run(command, stderr=file, cwd=NOTEBOOK.parent).returncode
    if status != 0:
        sys.exit(f"{log.read_text('utf-8')}\nthe plain Keras process failed")
    with np.load(target) as saved:
        return dict(saved)


def compare(run: nbtrain.Run, plain: dict[str, Any]) -> tuple[float, float, float]:
    """Return the accuracies of the run and of the plain process, and the largest difference."""
    import numpy as np

    theirs = [plain[key] for key in sorted(plain) if key.startswith("weight_")]
    model = run.model
    difference = largest_difference(model.get_weights(), theirs)
    predicted = model.predict(plain["x"], verbose=0)
    accuracy = float(np.mean(predicted.argmax(-1) == plain["y"]))
    alone = float(np.mean(plain["predicted"].argmax(-1) == plain["y"]))
    return accuracy, alone, difference


@contextlib.contextmanager
def stderr_to(path: Path) -> Iterator[None]:
    """Write this process' stderr to a file, also what C++ writes."""
    kept = os.dup(2)
    try:
        with path.open("wb") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def largest_difference(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """Return the largest difference of two lists of weights; infinite where shapes differ."""
    import numpy as np

    if [w.shape for w in ours] != [w.shape for w in theirs]:
        return float("inf")
    differences = [
        float(np.max(np.abs(a - b), initial=0)) for a, b in zip(ours, theirs, strict=True)
    ]
    # NaN is not larger than anything: it must not pass for equal.
    return max(d if d == d else float("inf") for d in differences)


def trainers(events: Iterable[Event]) -> set[int]:
    """Return the pids of the worker processes that trained."""
    from nbtrain.runtime.events import Phase

    pids: dict[int, int] = {}
    trained = set()
    for event in events:
        if isinstance(event, Phase):
            if event.pid is not None:
                pids[event.worker] = event.pid
            if event.phase == "training" and event.worker in pids:
                trained.add(pids[event.worker])
    return trained - {os.getpid()}


def complaints(accuracy: float, pids: set[int], difference: float) -> list[str]:
    """Return what is not as it has to be."""
    wrong = []
    if not accuracy > ACCURACY:
        wrong.append(f"the accuracy is {accuracy:.4f} and has to be over {ACCURACY}")
    if len(pids) != WORKERS:
        wrong.append(f"{len(pids)} trainer processes took part and not {WORKERS}")
    if not difference <= TOLERANCE:
        wrong.append(f"the weights differ by {difference:.1e}, more than {TOLERANCE:.0e}")
    return wrong


def say(line: str) -> None:
    """Print a heading."""
    print(f"\n=== {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
