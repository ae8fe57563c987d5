"""Images with a real engine: the base image, a registry with a password, archives."""

from __future__ import annotations

import io
import json
import tarfile
import uuid
from pathlib import Path

import docker
import pytest

from nbtrain import images, payload
from nbtrain.errors import ImageDoesNotFit, ImageError
from nbtrain.images import fit
from nbtrain.sources import runtime_zip

from .docker_image import BASE_IMAGE, base_image, python_image
from .docker_registry import registry

pytestmark = pytest.mark.docker

#: What a run's containers and pods are allowed: as little as this.
RESTRICTED = {
    "user": "1000:1000",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "network_mode": "none",
    "tmpfs": {"/scratch": "rw,mode=0700,uid=1000,gid=1000"},
    "environment": {"HOME": "/scratch", "TMPDIR": "/scratch", "TF_CPP_MIN_LOG_LEVEL": "3"},
    "mem_limit": "2g",
}

#: Runs in the container: what it may do, what is installed, and whether it trains.
INSIDE = """
import json, os, sys
import cloudpickle, keras, tensorflow, tf_keras
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
def writable(path):
    try:
        open(path, "w").close()
    except OSError:
        return False
    return True
m = keras.Sequential([keras.layers.Dense(1)])
m.compile("sgd", "mse")
m.fit(tensorflow.ones((8, 2)), tensorflow.ones((8, 1)), verbose=0)
sys.path.insert(0, "/runtime.zip")
from nbtrain_runtime import keras_checks, tf_keras_checks
from nbtrain_runtime.versions import versions
keras_checks.check_versions()
tf_keras_checks.check_versions()
print(json.dumps({
    "uid": os.getuid(),
    "capabilities": int(status["CapEff"], 16),
    "no_new_privileges": status["NoNewPrivs"].strip(),
    "root_writable": writable("/x"),
    "home_writable": writable(os.path.expanduser("~/x")),
    "installed": versions(),
    "imported": {m.__name__: m.__version__ for m in (tensorflow, keras, tf_keras, cloudpickle)},
}))
"""


@pytest.fixture(scope="module")
def client():
    made = docker.from_env()
    yield made
    made.close()


@pytest.fixture
def small(client):
    """Return the name of an image of a few bytes, removed afterwards with all its names."""
    name = f"nbtrain-test/small:{uuid.uuid4().hex[:8]}"
    client.api.import_image_from_data(_tar({"hello": uuid.uuid4().bytes * 1000}), *_named(name))
    image = client.images.get(name)
    yield name
    client.images.remove(image.id, force=True)


def _named(name):
    repository, _, tag = name.rpartition(":")
    return repository, tag


def _tar(files):
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return target.getvalue()


# -- the base image -------------------------------------------------------------------------------


@pytest.mark.timeout(1200)
def test_the_base_image_trains_restricted_and_has_what_its_labels_say(client, tmp_path):
    image = base_image()
    runtime = tmp_path / "runtime.zip"
    runtime.write_bytes(runtime_zip().read_bytes())
    runtime.chmod(0o644)
    said = json.loads(
        client.containers.run(
            image,
            ["python", "-c", INSIDE],
            remove=True,
            volumes={str(runtime): {"bind": "/runtime.zip", "mode": "ro"}},
            **RESTRICTED,
        ).splitlines()[-1]
    )
    assert (said["uid"], said["capabilities"], said["no_new_privileges"]) == (1000, 0, "1")
    assert (said["root_writable"], said["home_writable"]) == (False, True)
    labels = images.versions_of(client, image)
    assert set(labels) == {"python", "tensorflow", "keras", "tf_keras", "cloudpickle"}
    assert {n: v for n, v in labels.items() if n != "python"} == said["imported"]
    assert said["installed"]["python"].startswith(labels["python"] + ".")
    # tensorflow-cpu counts as tensorflow.
    assert {
        **labels,
        "python": said["installed"]["python"],
        "numpy": said["installed"]["numpy"],
    } == (said["installed"])
    assert fit.carried(payload.versions()) == labels


@pytest.mark.timeout(1200)
def test_the_image_by_itself_is_nobodys_and_keeps_the_pins(client):
    config = client.images.get(base_image()).attrs["Config"]
    assert config["User"] == "1000:1000"
    environment = dict(line.partition("=")[::2] for line in config["Env"])
    assert environment["HOME"] == "/home/nbtrain"
    assert environment["PIP_CONSTRAINT"] == "/opt/nbtrain/constraints.txt"
    history = json.dumps(client.images.get(base_image()).history())
    assert "://" not in history


@pytest.mark.timeout(1200)
def test_a_second_build_takes_everything_from_the_cache(client):
    before = client.images.get(base_image()).id
    told = []
    images.build(tag=BASE_IMAGE, python_image=python_image(), watch=told.append)
    assert client.images.get(BASE_IMAGE).id == before
    assert told[-1].fraction == 1.0
    assert {p.step for p in told} >= {1, told[-1].steps}


@pytest.mark.timeout(1200)
def test_the_base_image_is_listed_found_and_chosen(client):
    base = base_image()
    (listed,) = [image for image in images.images() if image.name == base]
    assert listed.misfits == ()
    assert listed.bytes > 500_000_000
    found = images.find_fitting()
    assert found is not None
    assert fit.misfits(payload.versions(), images.versions_of(client, found)) == []
    assert images.choose(base) == base


@pytest.mark.timeout(1200)
def test_a_requirement_that_asks_for_another_keras_fails_with_the_steps_last_lines(client):
    base_image()
    with pytest.raises(ImageError) as failed:
        images.build(["keras==3.0.0"], tag="nbtrain-test/never:1", python_image=python_image())
    said = str(failed.value)
    assert "failed: RUN if [ -s /opt/nbtrain/requirements.txt ]" in said
    assert "keras==3.0.0" in said
    assert "ERROR" in said
    assert not client.images.list("nbtrain-test/never:1")


@pytest.mark.timeout(1200)
def test_extra_requirements_are_added_on_top_of_the_frameworks(client, tmp_path):
    base = client.images.get(base_image())
    (tmp_path / "requirements.txt").write_text("toolz\n")
    tag = f"nbtrain-test/extra:{uuid.uuid4().hex[:8]}"
    images.build(
        ["cachetools"],
        tag=tag,
        requirements=[tmp_path / "requirements.txt"],
        python_image=python_image(),
    )
    try:
        code = "import cachetools, toolz"
        client.containers.run(tag, ["python", "-c", code], remove=True, **RESTRICTED)
        ours = client.images.get(tag).attrs["RootFS"]["Layers"]
        theirs = base.attrs["RootFS"]["Layers"]
        shared = [a for a, b in zip(ours, theirs, strict=False) if a == b]
        assert len(ours) - len(shared) <= 3
    finally:
        client.images.remove(tag, force=True)


def test_a_python_of_another_minor_is_refused_before_anything_is_installed():
    other = {**payload.versions(), "python": "3.9.1"}
    with pytest.raises(ImageError, match=r"--python-image python:3\.9-slim") as failed:
        images.build(tag="nbtrain-test/never:1", python_image=python_image(), versions=other)
    assert "Collecting" not in str(failed.value)


def test_a_python_image_that_can_not_be_had_is_named():
    name = "127.0.0.1:9/no/python:1"
    with pytest.raises(ImageError, match="--python-image") as failed:
        images.build(tag="nbtrain-test/never:1", python_image=name)
    assert "127.0.0.1:9" in str(failed.value)


# -- which one fits -------------------------------------------------------------------------------


def test_an_image_whose_labels_do_not_fit_is_refused_by_name(client, small):
    old = f"{small}-old"
    changes = 'LABEL io.nbtrain.python="3.9" io.nbtrain.variant="cpu"'
    client.api.import_image_from_data(_tar({"x": b"1"}), *_named(old), changes=[changes])
    try:
        with pytest.raises(ImageDoesNotFit, match=r"Python 3\.9, not 3"):
            images.choose(old)
        (listed,) = [image for image in images.images() if image.name == old]
        assert listed.misfits
    finally:
        client.images.remove(old, force=True)


def test_an_image_that_is_not_there_is_said_to_be_missing():
    with pytest.raises(ImageError, match="the engine has no image nbtrain-test/none:1"):
        images.choose("nbtrain-test/none:1")


# -- a registry with a password -------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_registry(tmp_path_factory):
    with registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def docker_config(tmp_path, monkeypatch):
    folder = tmp_path / "docker"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder


@pytest.fixture
def remote(client, small, own_registry):
    """Return the small image's name in the registry."""
    repository, tag = _named(small)
    name = f"{own_registry.host}/{repository}"
    client.images.get(small).tag(name, tag)
    return f"{name}:{tag}"


def test_an_image_is_pushed_with_the_login_of_the_docker_config(
    own_registry, docker_config, remote, small
):
    own_registry.login(docker_config)
    told = []
    digest = images.push(remote, watch=told.append)
    assert digest == own_registry.digest(*_named(small))
    assert told[-1].layers_finished == len(told[-1].layers) == 1
    assert any(layer.done > 0 for progress in told for layer in progress.layers.values())


def test_without_a_login_the_command_that_logs_in_is_said(own_registry, docker_config, remote):
    with pytest.raises(ImageError) as refused:
        images.push(remote)
    assert f"docker login {own_registry.host}" in refused.value.fix


def test_a_registry_that_is_not_there_is_said_to_be_so(client, small, docker_config):
    repository, tag = _named(small)
    client.images.get(small).tag(f"127.0.0.1:9/{repository}", tag)
    with pytest.raises(ImageError, match=r"nothing answers at 127\.0\.0\.1:9"):
        images.push(f"127.0.0.1:9/{small}")


def test_a_host_that_nobody_knows_is_said_to_be_so(client, small, docker_config):
    repository, tag = _named(small)
    client.images.get(small).tag(f"no-such-host.invalid/{repository}", tag)
    with pytest.raises(ImageError, match=r"no-such-host\.invalid is not known here"):
        images.push(f"no-such-host.invalid/{small}")


def test_what_is_not_there_is_not_pushed():
    with pytest.raises(ImageError, match="the engine has no image nbtrain-test/none:1"):
        images.push("nbtrain-test/none:1")


# -- archives -------------------------------------------------------------------------------------


@pytest.mark.parametrize("to_s3", [False, True])
def test_an_image_comes_back_from_its_archive_with_its_name(
    client, small, tmp_path, s3, bucket, to_s3
):
    target = f"s3://{bucket}/small.tar" if to_s3 else str(tmp_path / "small.tar")
    before = client.images.get(small).id
    images.save(small, target)
    if to_s3:
        stored = s3.get_object(Bucket=bucket, Key="small.tar")["Body"].read()
    else:
        stored = Path(target).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(stored)) as tar:
        assert "manifest.json" in tar.getnames()
    client.images.remove(small)
    assert images.load(target) == (small,)
    assert client.images.get(small).id == before


def test_a_file_that_is_no_image_is_not_loaded(tmp_path):
    path = Path(tmp_path / "notes.tar")
    path.write_bytes(_tar({"notes.txt": b"no image"}))
    with pytest.raises(ImageError, match="not a whole image"):
        images.load(str(path))
    path.write_bytes(b"no tar at all" * 1000)
    with pytest.raises(ImageError):
        images.load(str(path))
