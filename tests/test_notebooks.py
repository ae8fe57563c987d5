"""The example notebooks run, and show what their text says they show."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from nbtrain import config

from . import places

EXAMPLES = Path(__file__).parent.parent / "example_notebooks"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


@pytest.fixture
def executed(tmp_path, nbtrain_home):
    """Give a function that runs a notebook, in a copy of its folder, and returns it."""

    def run(name: str) -> nbformat.NotebookNode:
        folder = tmp_path / "notebooks"
        shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("data", "__pycache__"))
        notebook = nbformat.read(folder / name, as_version=4)
        resources = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=240, kernel_name="python3", resources=resources).execute()
        return notebook

    return run


def cell(notebook: nbformat.NotebookNode, tag: str) -> nbformat.NotebookNode:
    (found,) = [c for c in notebook.cells if tag in c.metadata.get("tags", ())]
    return found


def said(notebook: nbformat.NotebookNode, tag: str) -> str:
    """Return the text that the cell with this tag has put out."""
    parts = []
    for output in cell(notebook, tag).outputs:
        if output.get("name") == "stderr":
            continue
        if output.output_type == "error":
            parts += [re.sub(r"\x1b\[[\d;]*m", "", line) for line in output.traceback]
        else:
            parts.append(output.get("text") or output.data["text/plain"])
    return "\n".join(parts)


def pictures(notebook: nbformat.NotebookNode) -> int:
    outputs = [o for c in notebook.cells for o in c.get("outputs", ())]
    return sum("image/png" in o.get("data", {}) for o in outputs)


def stderr(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the lines that came to stderr, but for TensorFlow's own."""
    outputs = [o for c in notebook.cells for o in c.get("outputs", ())]
    lines = "".join(o.text for o in outputs if o.get("name") == "stderr").splitlines()
    chatter = re.compile(r"WARNING: All log messages before absl|[IWE]\d{4} .*\.cc:\d+\]")
    return [line for line in lines if not chatter.match(line)]


def assert_report(output: nbformat.NotebookNode, *words: str) -> None:
    for kind in ("text/plain", "text/html"):
        for word in words:
            assert word in output.data[kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_are_not_committed(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for c in notebook.cells:
        if c.cell_type == "code":
            assert not c.outputs
            assert c.execution_count is None


@pytest.fixture
def chosen(request, nbtrain_home):
    """A backend chosen as users choose it: by the settings, with no change to the notebook."""
    with places.open_place(request.param, request.getfixturevalue) as place:
        fields = dict(place.fields)
        config.update({"backend": place.backend.name, **fields.pop("container", {}), **fields})
        with places.left_as_found(place):
            yield request.param


@pytest.mark.parametrize("chosen", places.ALL, indirect=True)
def test_digits_reaches_its_accuracy_and_equals_one_process(executed, chosen):
    notebook = executed("01_digits.ipynb")
    assert_report(notebook.cells[-1].outputs[-1], chosen)
    accuracy = re.search(r"accuracy on 450 held-out digits: (\S+)", said(notebook, "accuracy"))
    assert float(accuracy[1]) > 0.97
    difference = re.search(r"largest difference of a weight: (\S+)", said(notebook, "difference"))
    assert float(difference[1]) <= 1e-6
    # The display that the training cell left has been kept up to date until the run's end.
    assert_report(cell(notebook, "train").outputs[-1], "digits", "trained", "5 epochs")
    assert_report(notebook.cells[-1].outputs[-1], "digits", "trained", "accuracy")
    counts = [int(n) for n in re.findall(r"\b\d+\b", said(notebook, "confusion"))]
    assert sum(counts) == 450 + 2 * sum(range(10))  # the digits themselves are the headings
    assert pictures(notebook) == 3
    assert stderr(notebook) == []


def test_own_modules_layers_and_files_reach_the_workers(executed):
    notebook = executed("02_your_own_modules.ipynb")
    layers = said(notebook, "layers")
    assert "Periodic" in layers
    assert "Residual" in layers
    numbers = re.search(r"forecast: (\S+), of 'the same as now': (\S+)", said(notebook, "error"))
    assert float(numbers[1]) < 0.6 * float(numbers[2])
    assert "def dataset" in said(notebook, "card")
    assert pictures(notebook) == 2
    # What can't travel is refused in words, by the names that the notebook has for it.
    refusal = said(notebook, "refused")
    assert "CannotTravel" in refusal
    assert "uses `log`" in refusal
    assert "log.readline()" in refusal
    assert "--files" in refusal
    assert "Traceback" not in refusal


def test_a_killed_worker_changes_nothing_of_the_result(executed):
    notebook = executed("03_a_worker_is_killed.ipynb")
    assert "killed worker 1" in said(notebook, "kill")
    events = said(notebook, "events")
    assert "generation 1: failed" in events
    assert "generation 2: started" in events
    assert "ended" in events
    assert "weights equal, bit by bit: True" in said(notebook, "equal")
    assert "histories equal: True" in said(notebook, "equal")
    assert_report(notebook.cells[-1].outputs[-1], "shaken", "trained", "6 epochs", "killed")
    assert stderr(notebook) == []
