"""Notebooks as others see them, with no kernel and no extension: what papermill saves of a run.

GitHub, VS Code and nbconvert take from an output what they know and trust: HTML or text.
"""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys

import bleach
import nbformat
import pytest

from nbtrain.display import MIME

from .jupyter import ROOT
from .recordings import generated

#: The run is shown by one cell and ends in another one, as most do.
CELLS = (
    f"import nbtrain\nagain = nbtrain.replay({str(generated.REAL)!r}, speed=1e6)\nagain",
    "again.wait()\nprint('waited')",
)
REPORT = ("trained", "6 epochs in 32 s", "0.9971", "0.9125")


def program(module, *arguments):
    """Run a program of the environment and return what it prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    ).stdout


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a notebook's path after papermill has run it."""
    folder = tmp_path_factory.mktemp("saved")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, folder / "written.ipynb")
    program("papermill", folder / "written.ipynb", folder / "run.ipynb", "--no-progress-bar")
    return folder / "run.ipynb"


def shown(page):
    """Return the text of a page."""
    return html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<style.*?</style>", "", page)))


def test_papermill_saves_the_final_report_as_html_and_text_and_no_widget(saved):
    cells = nbformat.read(saved, as_version=4).cells
    (output,) = cells[0].outputs
    assert set(output.data) <= {"text/html", "text/plain", MIME}
    for text in (output.data["text/plain"], shown(output.data["text/html"])):
        assert all(part in text for part in REPORT)


def test_report_needs_nothing_from_elsewhere_and_runs_nothing(saved):
    report = nbformat.read(saved, as_version=4).cells[0].outputs[0].data["text/html"]
    assert not re.search(r"<script|<iframe|<link|\son\w+=|(src|href)=|url\(", report)


@pytest.mark.parametrize("sanitized", [False, True])  # as GitHub does, or much like it
def test_nbconvert_shows_the_report_also_where_html_is_not_trusted(saved, sanitized):
    page = program(
        "nbconvert", "--to", "html", f"--HTMLExporter.sanitize_html={sanitized}", "--stdout", saved
    )
    assert all(part in shown(page) for part in REPORT)
    assert "Loading widget" not in page


#: The elements that GitHub leaves in other people's HTML (its html-pipeline), and no attributes.
LEFT_BY_GITHUB = set(
    re.findall(
        r"\w+",
        "h1 h2 h3 h4 h5 h6 br b i strong em a pre code img tt div ins del sup sub p picture ol ul"
        " table thead tbody tfoot blockquote dl dt dd kbd q samp var hr ruby rt rp li tr td th s"
        " strike summary details caption figure figcaption abbr bdo cite dfn mark small source span"
        " time wbr",
    )
)


def test_report_can_be_read_where_styles_and_drawings_are_taken_away(saved):
    report = nbformat.read(saved, as_version=4).cells[0].outputs[0].data["text/html"]
    assert "<svg" in report
    left = bleach.clean(report, tags=LEFT_BY_GITHUB, attributes={}, strip=True)
    assert not set(re.findall(r"<(\w+)", left)) - LEFT_BY_GITHUB
    assert "&lt;" not in left
    words = shown(left)
    assert all(part in words for part in REPORT)
    rows = re.findall(r"<tr><th>(\w+)</th><td>([\d.]+)</td><td>([\d.]+)</td></tr>", left)
    assert rows == [("loss", "0.0309", "0.3067"), ("accuracy", "0.9971", "0.9125")]
    # What a curve leaves behind is its axes, apart from each other.
    assert " ".join(words.split()).count("0.0244 1.796 0 6 epochs ● training ■ validation") == 1


def test_markdown_has_the_report(saved):
    page = program("nbconvert", "--to", "markdown", "--stdout", saved)
    assert all(part in shown(page) for part in REPORT)
