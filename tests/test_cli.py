"""The command `nbtrain`: what reaches nbtrain.images, what is printed, exit statuses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nbtrain import cli, doctor, image_commands, images
from nbtrain.errors import ImageError, WaitInterrupted
from nbtrain.images import Image
from nbtrain.images.progress import Progress

from . import programs
from .harness import launch

VERSIONS = {"python": "3.11", "tensorflow": "2.21.0", "keras": "3.15.1"}


@pytest.fixture
def calls(monkeypatch):
    """Stand in for what needs an engine; return what was asked for."""
    made = []

    def noting(name, result):
        def call(*words, watch=None, **options):
            made.append((name, *words, options))
            if watch is not None:
                watch(Progress(f"{name} going on"))
            return result

        return call

    monkeypatch.setattr(images, "build", noting("build", "nbtrain:1"))
    monkeypatch.setattr(images, "push", noting("push", "sha256:0a"))
    monkeypatch.setattr(images, "save", noting("save", 1_700_000_000))
    monkeypatch.setattr(images, "load", noting("load", ("nbtrain:1",)))
    monkeypatch.setattr(images, "choose", lambda: "nbtrain:fits")
    return made


def test_build_takes_packages_and_options(calls, capsys):
    line = "image build -r more.txt scikit-learn toolz --gpu --tag mine:1 --python-image x/py"
    assert cli.main(line.split()) == 0
    assert calls == [
        (
            "build",
            ["scikit-learn", "toolz"],
            {"requirements": ["more.txt"], "gpu": True, "tag": "mine:1", "python_image": "x/py"},
        )
    ]
    shown = capsys.readouterr()
    assert shown.out == "nbtrain:1 is built.\n"
    assert "build going on" in shown.err


@pytest.mark.parametrize(
    ("line", "call", "said"),
    [
        ("push r/x:1", ("push", "r/x:1", {}), "r/x:1 is pushed (sha256:0a).\n"),
        (
            "save nbtrain:1 s3://bucket/image.tar",
            ("save", "nbtrain:1", "s3://bucket/image.tar", {}),
            "nbtrain:1 is saved to s3://bucket/image.tar (1.7 GB).\n",
        ),
        (
            "save image.tar",
            ("save", "nbtrain:fits", "image.tar", {}),
            "nbtrain:fits is saved to image.tar (1.7 GB).\n",
        ),
        ("load image.tar", ("load", "image.tar", {}), "nbtrain:1 is loaded.\n"),
    ],
)
def test_the_others_take_names_and_places(calls, capsys, line, call, said):
    assert cli.main(["image", *line.split()]) == 0
    assert calls == [call]
    assert capsys.readouterr().out == said


def test_list_is_a_table_that_says_what_fits(monkeypatch, capsys):
    found = [
        Image("nbtrain:1", "cpu", VERSIONS, 1_700_000_000, "2026-01-01 12:00"),
        Image("old:1", "gpu", VERSIONS, 5, "2025-01-01 12:00", ("Python 3.9, not 3.11 (why)",)),
    ]
    monkeypatch.setattr(images, "images", lambda: found)
    assert cli.main(["image", "list"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.startswith("image      variant  Python  TensorFlow  Keras   size    built")
    assert first == "nbtrain:1  cpu      3.11    2.21.0      3.15.1  1.7 GB  2026-01-01 12:00  yes"
    assert second.endswith("Python 3.9, not 3.11 (why)")
    assert "<td" in image_commands.ImageTable(found)._repr_html_()
    monkeypatch.setattr(images, "images", list)
    cli.main(["image", "list"])
    assert "`nbtrain image build` makes one" in capsys.readouterr().out


def test_an_error_is_its_lines_and_status_1(monkeypatch, capsys):
    def refuse(*words, **options):
        raise ImageError("push x: refused.", "Log in.")

    monkeypatch.setattr(images, "push", refuse)
    assert cli.main(["image", "push", "x"]) == 1
    assert capsys.readouterr().err == "nbtrain: push x: refused.\nLog in.\n"


@pytest.mark.parametrize(
    "line", ["image push", "image push a b", "image save", "image build --tag=", "image list x"]
)
def test_a_line_that_says_too_little_or_too_much_is_refused(calls, line, capsys):
    try:
        status = cli.main(line.split(" "))
    except SystemExit as left:  # argparse's own
        status = left.code
    assert status in (1, 2)
    assert calls == []
    assert capsys.readouterr().err


# -- runs -----------------------------------------------------------------------------------------


class FakeRun:
    """A run that goes on until it is stopped."""

    name, id, status = "digits", "digits-1", "training"

    def __init__(self):
        self.graces = []

    def stop(self, grace=120.0):
        self.graces.append(grace)
        self.status = "stopped"

    def wait(self):
        raise WaitInterrupted("stopped waiting")


@pytest.fixture
def digits(monkeypatch):
    run = FakeRun()
    monkeypatch.setattr("nbtrain.run.named", lambda name: run)
    monkeypatch.setattr("nbtrain.run.attach", lambda name: run)
    return run


def test_a_run_is_followed_to_its_end_read_and_deleted(nbtrain_home, capsys):
    run = launch({"model": programs.model, "dataset": programs.prints}, epochs=1)
    assert cli.main(["attach", "t"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("t · trained · 1 epoch")
    assert "t: trained, 1 epoch" in shown.err  # a line for whatever was new
    assert cli.main(["logs", run.id, "--worker", "1"]) == 0
    assert "the dataset is made\n" in (log := capsys.readouterr().out)
    assert cli.main(["logs", run.id, "--worker", "1", "--follow"]) == 0
    assert capsys.readouterr().out == log
    assert cli.main(["logs", "t", "--worker", "2"]) == 1
    assert "Workers: 0 to 1." in capsys.readouterr().err
    assert cli.main(["runs"]) == 0
    assert run.id in capsys.readouterr().out
    assert cli.main(["delete", "t"]) == 0
    assert capsys.readouterr().out == f"{run.id}: deleted\n"
    assert cli.main(["delete", run.id]) == 1
    assert "no run named" in capsys.readouterr().err


def test_following_a_run_that_fails_ends_with_status_1(nbtrain_home, capsys):
    launch({"model": programs.model, "dataset": programs.raises})
    assert cli.main(["attach", "t"]) == 1
    assert "RuntimeError: the file of the data is empty" in capsys.readouterr().out


@pytest.mark.parametrize(("line", "grace"), [("stop digits", 120.0), ("stop digits --now", 0)])
def test_a_run_is_stopped_in_order_or_at_once(digits, capsys, line, grace):
    assert cli.main(line.split()) == 0
    assert digits.graces == [grace]
    assert capsys.readouterr().out == "digits: stopped\n"


def test_interrupting_leaves_a_run_that_is_followed_running(digits, capsys):
    assert cli.main(["attach", "digits"]) == 130
    assert digits.graces == []
    assert capsys.readouterr().err == "digits goes on; nbtrain stop digits stops it\n"


def test_the_doctor_gets_the_options_of_a_cell_and_its_verdict_is_the_status(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(doctor, "run", lambda options: asked.append(options) or 1)
    line = "doctor --namespace ml --workers 3 --node-selector disk=ssd zone=a"
    assert cli.main(line.split()) == 1
    labels = {"disk": "ssd", "zone": "a"}
    assert asked == [{"namespace": "ml", "workers": 3, "node_selector": labels}]
    assert cli.main(["doctor", "--probe"]) == 1
    assert asked[1:] == [{"probe": True}]
    assert cli.main(["doctor", "--workers", "none"]) == 1
    assert capsys.readouterr().err.startswith("nbtrain: --workers none: ")
    assert len(asked) == 2


def test_a_reader_that_has_enough_is_no_error():
    program = "import nbtrain.run as run, sys; run.runs = lambda: 'line\\n' * 100_000;"
    program += "from nbtrain import cli; sys.exit(cli.main(['runs']))"
    reading = f'{sys.executable} -c "{program}" | head -1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", reading], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "line\n", "")


# -- the program ----------------------------------------------------------------------------------


def test_every_command_has_a_help(capsys):
    topics = (["runs"], ["attach"], ["logs"], ["stop"], ["delete"], ["doctor"])
    images = (["image", name] for name in image_commands.COMMANDS)
    for words in ([], *topics, ["image"], *images):
        with pytest.raises(SystemExit) as left:
            cli.main([*words, "--help"])
        assert left.value.code == 0
        assert "usage: nbtrain" in capsys.readouterr().out


def test_it_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "nbtrain.cli", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.strip()
