"""N workers give what one process gives, or say by name why not."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from nbtrain.runtime import tensors
from nbtrain.runtime.agent import free_port
from nbtrain.runtime.events import COUPLED

from .cases import CASES

ROOT = Path(__file__).resolve().parents[2]
#: How long one case may take, in seconds; a hang is a failure.
LIMIT_S = 120
#: What the table in docs/keras-support.md is made from.
RESULTS = ROOT / ".matrix.json"


class Process:
    """A process that trains cases, one line of JSON for each."""

    def __init__(self, module: str, *arguments: str) -> None:
        # A file: nobody reads while a case runs, and a full pipe would stop the process.
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"tests.matrix.{module}", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr, cwd=ROOT,
            env=environment, bufsize=0,
        )  # fmt: skip
        self.read = b""

    def send(self, *message):
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self):
        """Return the next answer; what libraries print in between is passed over."""
        while True:
            line, found, rest = self.read.partition(b"\n")
            if found:
                self.read = rest
                if line.startswith(b"{"):
                    return json.loads(line)
                continue
            if not select.select([self.process.stdout], [], [], LIMIT_S)[0]:
                raise AssertionError(f"no answer within {LIMIT_S} s")
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            if not data:
                self.stderr.seek(0)
                errors = self.stderr.read()[-3000:].decode()
                raise AssertionError(f"the process ended: {errors}")
            self.read += data

    def close(self):
        self.process.kill()
        self.process.communicate()
        self.stderr.close()


class Cluster:
    """Workers that train cases under one strategy; started anew after a failure."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.processes: list[Process] = []

    def train(self, case, out):
        if not self.processes:
            addresses = [f"127.0.0.1:{free_port()}" for _ in range(self.workers)]
            self.processes = [Process("worker", str(i), *addresses) for i in range(self.workers)]
            for process in self.processes:
                process.answer()
        try:
            for process in self.processes:
                process.send(case.name, str(out))
            answers = [process.answer() for process in self.processes]
        except AssertionError:
            self.close()
            raise
        if any("error" in answer for answer in answers):
            self.close()
        return answers

    def close(self):
        for process in self.processes:
            process.close()
        self.processes = []


class Plain:
    """One process that trains cases alone; started anew after a failure."""

    def __init__(self) -> None:
        self.process: Process | None = None

    def begin(self, case, out):
        if self.process is None:
            self.process = Process("plain")
            self.process.answer()
        self.process.send(case.name, str(out))

    def answer(self):
        try:
            return self.process.answer()
        except AssertionError:
            self.close()  # it may answer yet, and that would be taken for the next case's
            raise

    def close(self):
        if self.process is not None:
            self.process.close()
            self.process = None


@pytest.fixture(scope="module")
def plain():
    one = Plain()
    yield one
    one.close()


@pytest.fixture(scope="module")
def clusters():
    found = {n: Cluster(n) for n in (2, 3, 4)}
    yield found
    for cluster in found.values():
        cluster.close()


@pytest.fixture(scope="module")
def results():
    found = {}
    yield found
    RESULTS.write_text(json.dumps(found, indent=1))


def everyday_and_full(names):
    return [
        pytest.param(name, marks=[pytest.mark.full] if CASES[name].full else []) for name in names
    ]


@pytest.mark.parametrize("name", everyday_and_full(CASES))
def test_two_workers_give_what_one_process_gives(name, clusters, plain, results, tmp_path):
    compare(CASES[name], clusters[2], plain, results, tmp_path)


MORE = ["rest_1", "rest_9", "sample_weight", "batch_normalization_uneven", "gan", "conv",
        "empty_shard_of_a_convolution", "masked_sequence_loss", "sgd_global_clipnorm",
        "tfk_batches", "tfk_convolutional", "tfk_masked", "tfk_metrics"]  # fmt: skip


#: Four workers find little that three don't, and take twice the time of two.
FEW = ["rest_1", "rest_9", "conv", "empty_shard_of_a_convolution", "gan", "tfk_batches"]


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "workers"), [*((name, 3) for name in MORE), *((name, 4) for name in FEW)]
)
def test_so_do_three_and_four(name, workers, clusters, plain, tmp_path):
    compare(CASES[name], clusters[workers], plain, {}, tmp_path)


@pytest.mark.parametrize(
    ("name", "count"),
    [("dataset_drop_remainder", 1), ("rest_1", 1), ("loss_per_example", 1), ("loss_scalar", 1),
     ("batch_normalization", 3)],
)  # fmt: skip
def test_a_step_has_no_collective_that_it_does_not_need(name, count, clusters, tmp_path):
    """One for all gradients, in even batches and uneven ones; those of a BatchNormalization."""
    answers = clusters[2].train(CASES[name], tmp_path / "trained")
    for answer in answers:
        assert answer["collectives"]
        assert set(answer["collectives"]) == {count}


def test_the_table_in_the_docs_says_of_every_form_what_its_test_does():
    """It is made from a run of the whole matrix: `python -m tests.matrix.table`."""
    from .table import heading, verdict

    told, family = {}, ""
    for line in (ROOT / "docs" / "keras-support.md").read_text("utf-8").splitlines():
        if line.startswith("## "):
            family = line.removeprefix("## ")
        elif line.startswith("| ") and line not in ("| form | result |", "| --- | --- |"):
            title, _, said = line[2:-2].partition(" | ")
            told[family, title] = said
    cases = {(heading(case.family), case.title): case for case in CASES.values()}
    assert told.keys() == cases.keys()
    for place, case in cases.items():
        if case.refused:
            assert told[place].startswith("refused: ")
            assert re.search(case.refused, told[place].removeprefix("refused: ")), case.name
        else:
            assert told[place] == verdict(case), case.name


def compare(case, cluster, plain, results, tmp_path):
    answers, expected = both(case, cluster, plain, tmp_path)
    errors = [a["error"] for a in answers if "error" in a]
    assert not errors, errors
    if case.refused:
        for answer in answers:
            assert re.search(case.refused, answer.get("refused", ""))
        results[case.name] = {"refused": answers[0]["refused"]}
        return
    assert not [a["refused"] for a in answers if "refused" in a]
    trained = [tensors.load(tmp_path / f"trained.{i}")[0] for i in range(cluster.workers)]
    for other in trained[1:]:
        for name, array in trained[0].items():
            assert array.tobytes() == other[name].tobytes(), f"the workers differ in {name}"
    if case.warns:
        assert case.warns in answers[0]["warned"]
    assert (COUPLED in answers[0]["warned"]) == (case.warns == COUPLED)  # no false alarm
    if case.holds is not None:
        assert case.holds(trained[0], answers[0]["history"])
    if case.random:
        results[case.name] = {"random": True}
        return
    gaps = differences(answers[0], trained[0], expected, tmp_path)
    assert not {name: found for name, found in gaps.items() if found > case.tolerance}
    results[case.name] = {"difference": max(gaps.values())}


def both(case, cluster, plain, tmp_path):
    """Train on both sides at once; return the answers of the workers and of the plain process."""
    compared = not (case.refused or case.random)
    if compared:
        plain.begin(case, tmp_path / "plain.npz")
    try:
        answers = cluster.train(case, tmp_path / "trained")
    finally:
        expected = plain.answer() if compared else None
    return answers, expected


def differences(answer, trained, expected, tmp_path):
    """Return the largest difference of each variable and history value from the plain process."""
    assert "error" not in expected, expected
    with np.load(tmp_path / "plain.npz") as saved:
        arrays = {n: saved[n] for n in saved.files}
    gaps = {name: gap(trained[name], theirs) for name, theirs in arrays.items()}
    assert set(answer["history"]) == set(expected["history"])
    for name, values in expected["history"].items():
        assert len(answer["history"][name]) == len(values)
        gaps[name] = gap(answer["history"][name], values)
    return gaps


def gap(ours, theirs):
    """Return the largest difference; of what is larger than 1, relative to its size.

    What is no number, or infinite, has to be so on both sides.
    """
    ours, theirs = np.asarray(ours, "float64"), np.asarray(theirs, "float64")
    finite = np.isfinite(theirs)
    assert (np.isfinite(ours) == finite).all()
    assert np.array_equal(ours[~finite], theirs[~finite], equal_nan=True)
    ours, theirs = ours[finite], theirs[finite]
    differences = np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs))
    return float(differences.max(initial=0.0))
