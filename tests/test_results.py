"""Results at an address of the user's: written by the head, read when the run is gone."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import nbtrain
from nbtrain import backends
from nbtrain.backends.docker import specs
from nbtrain.backends.kubernetes.manifests import Manifests
from nbtrain.backends.kubernetes.settings import PodSettings
from nbtrain.backends.local import home
from nbtrain.errors import BackendError, NoSuchRun, OptionError, RunFailed
from nbtrain.request import make_request
from nbtrain.runtime.results import MANIFEST, Results, ResultsError
from nbtrain.runtime.rundir import RunDir

from . import programs
from .harness import variables

pytestmark = pytest.mark.usefixtures("nbtrain_home")


def train(**options):
    given = {"workers": 1, "batch": 32, "seed": 7, "live": False, "warm": False, **options}
    functions = {"model": programs.model, "dataset": programs.dataset}
    return nbtrain.train(**{**functions, **given})


@pytest.fixture
def rundir(tmp_path):
    found = RunDir(tmp_path / "run")
    found.create()
    found.write_json(RunDir.REQUEST, {"name": "digits"})
    for number in (1, 2):
        (found / found.checkpoint(number, 0)).write_bytes(b"weights")
    (found / RunDir.HEAD).write_text("{}")
    return found


@pytest.fixture
def _no_cache():
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


# -- whole runs -----------------------------------------------------------------------------------


def assert_is_read_from_its_results(run, url):
    """Assert that a run whose directory is gone is there as it was, for this kernel and others."""
    expected, history = variables(run), run.history.history
    assert run.state.saved["results"].path == f"{url}/{run.id}"
    shutil.rmtree(home() / run.id)
    for other in (run, nbtrain.attach(run.name), nbtrain.attach(f"{url}/{run.id}")):
        for ours, theirs in zip(variables(other), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert other.history.history == history
        assert other.status == "succeeded"
        assert other.card["outcome"] == "succeeded"
        assert (other.files / "model.keras").exists()
        assert other.model.predict(programs.dataset()[0][:4], verbose=0).shape[0] == 4
    assert [r.id for r in nbtrain.runs()] == [run.id]


def test_a_run_whose_directory_is_gone_is_read_from_a_folder(tmp_path):
    run = train(name="digits", results=str(tmp_path / "kept")).wait()
    assert_is_read_from_its_results(run, (tmp_path / "kept").as_uri())
    with pytest.raises(BackendError, match="only the results"):
        backends.get("results").start(run._request, Path())
    again = nbtrain.attach("digits")
    again.delete()
    assert not (tmp_path / "kept" / run.id).exists()
    assert nbtrain.runs() == []


@pytest.mark.usefixtures("_no_cache")
def test_a_run_whose_directory_is_gone_is_read_from_s3(s3, bucket):
    run = train(name="digits", results=f"s3://{bucket}/runs").wait()
    found = [o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert f"runs/{run.id}/{MANIFEST}" in found
    assert f"runs/{run.id}/logs/worker-0.log" in found
    assert_is_read_from_its_results(run, f"s3://{bucket}/runs")


@pytest.mark.usefixtures("_no_cache")
def test_a_bucket_that_is_not_there_ends_the_run_before_it_trains(s3):
    run = train(results="s3://no-such-bucket-here/runs").wait()
    with pytest.raises(RunFailed, match=r"no-such-bucket-here/runs.*: there is no such folder"):
        run.check()
    assert "can't write its results to their address" in repr(run)
    assert run.state.started_at is None
    buckets = [b["Name"] for b in s3.list_buckets()["Buckets"]]
    assert "no-such-bucket-here" not in buckets


def test_results_that_can_not_be_written_at_the_end_are_a_warning(tmp_path):
    target = tmp_path / "kept"

    def dataset():
        shutil.rmtree(target)  # it was there when the run began
        target.write_text("a file")
        return programs.dataset()

    run = train(dataset=dataset, results=str(target)).wait()
    assert run.status == "succeeded"
    (said,) = [w.message for w in run.state.warnings if w.code == "results"]
    assert said.startswith("the results are in the run directory alone: ")
    assert run.model is not None


# -- errors in words ------------------------------------------------------------------------------


def test_what_is_no_address_is_refused():
    for value in ("s3://", "://bucket", 5):
        with pytest.raises(OptionError, match="results"):
            make_request("t", {"results": value})
    assert make_request("t", {"results": "kept"}).results == Path("kept").absolute().as_uri()


def test_a_package_that_is_missing_is_named(monkeypatch, rundir):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    import fsspec  # noqa: F401  its registry below

    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(ResultsError, match=r"s3fs is not installed here.*image build fsspec s3fs"):
        Results("s3://bucket/runs", "digits-1").check(rundir)


@pytest.mark.usefixtures("s3", "_no_cache")
def test_missing_credentials_are_told(bucket, rundir, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ResultsError, match="give credentials by --env or --secret"):
        Results(f"s3://{bucket}/runs", "digits-1").check(rundir)


def test_results_are_whole_or_not_there(tmp_path, rundir):
    results = Results((tmp_path / "kept").as_uri(), "digits-1")
    files = results.put(rundir)
    names = [entry["path"] for entry in files]
    assert sorted(names) == [rundir.checkpoint(2, 0), RunDir.REQUEST]
    with pytest.raises(ResultsError, match="no results"):
        results.files()
    with pytest.raises(NoSuchRun, match="no results"):
        nbtrain.attach(results.url)
    results.seal(rundir, files, (RunDir.REQUEST,))
    assert {entry["path"] for entry in results.files()} == set(names)


def test_a_file_that_has_changed_is_told(tmp_path, rundir):
    results = Results((tmp_path / "kept").as_uri(), "digits-1")
    results.seal(rundir, results.put(rundir), ())
    (tmp_path / "kept" / "digits-1" / RunDir.REQUEST).write_text('{"name": "other"}')
    entry = next(e for e in results.files() if e["path"] == RunDir.REQUEST)
    with pytest.raises(ResultsError, match="SHA-256"):
        list(results.read(entry))


# -- who writes them has the credentials ----------------------------------------------------------


@pytest.mark.parametrize("results", ["", "s3://bucket/runs"])
def test_the_head_has_the_credentials_of_the_workers_if_it_needs_them(results):
    request = make_request(
        "t", {"results": results or None, "env": "AWS_REGION=here", "secret": "keys"}
    )
    container = specs.head(request, "image")
    assert ("AWS_REGION" in container["environment"]) == bool(results)
    settings = PodSettings.of(request, image="image", wheels=())
    pod = Manifests(request, settings, "me").head()["spec"]["template"]["spec"]
    (head,) = pod["containers"]
    assert head.get("envFrom") == ([{"secretRef": {"name": "keys"}}] if results else None)


def test_the_record_of_a_run_has_the_address(tmp_path):
    run = train(name="digits", results=str(tmp_path / "kept"))
    record = json.loads((home().with_name("results") / f"{run.id}.json").read_text())
    assert record["url"] == (tmp_path / "kept").as_uri()
    run.stop(0)
    run.delete()
    assert nbtrain.runs() == []
    assert list(home().with_name("results").iterdir()) == []
