"""Results of pods at an address of the user's, when the cluster has nothing of the run any more."""

from __future__ import annotations

import uuid

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

import nbtrain
from nbtrain import images

from . import cluster, places, programs
from .cluster import network
from .docker_image import MINOR, python_image
from .harness import variables

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(900)]

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


@pytest.fixture
def place(request, nbtrain_home):
    with (
        places.open_place("kubernetes", request.getfixturevalue) as found,
        places.left_as_found(found),
    ):
        yield found


@pytest.fixture
def store(breakable, monkeypatch):
    """Give the address of an S3 server that pods of the tests' own cluster reach."""
    import s3fs

    server = ThreadedMotoServer(ip_address=network.HOST, port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    address = f"http://{network.HOST}:{port}"
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": address}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    yield address
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def image_with(*packages):
    tag = f"nbtrain-test/{'-'.join(packages)}:{MINOR}"
    return cluster.push(images.build(packages, tag=tag, python_image=python_image()))


def test_results_are_read_from_s3_when_the_run_is_gone_from_the_cluster(place, store):
    """The head has its credentials from a Secret, as the error without them advises."""
    bucket = f"test-{uuid.uuid4().hex[:8]}"
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=bucket)
    keys = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": KEYS}
    place.client.create(keys)
    try:
        run = nbtrain.train(
            programs.model, programs.dataset, backend="kubernetes", workers=2, epochs=1, batch=32,
            seed=7, live=False, cpu=0.5, memory="1200MiB", storage="1GiB", rehearse=False,
            image=image_with("fsspec", "s3fs"), secret="s3", env={"AWS_ENDPOINT_URL": store},
            results=f"s3://{bucket}/runs", name="kept",
        )  # fmt: skip
        run.wait().check()
        expected, history = variables(run), run.history.history
        place.backend.delete(run._ref)
    finally:
        place.client.delete("Secret", "s3")
    for other in (nbtrain.attach("kept"), nbtrain.attach(f"s3://{bucket}/runs/{run.id}")):
        for ours, theirs in zip(variables(other), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert other.history.history == history
        assert other.model.count_params()
