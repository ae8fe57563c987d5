"""The token of a run is in its Secret, and in no place where others look."""

from __future__ import annotations

import base64
import json

import pytest

from nbtrain.backends.kubernetes import names
from nbtrain.backends.kubernetes.exec import Command

from . import places, programs
from .harness import launch

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

#: All that tells of a run and is no Secret.
KINDS = ("Job", "Pod", "Event", "ConfigMap", "Service", "NetworkPolicy", "PersistentVolumeClaim")


@pytest.fixture
def place(request, nbtrain_home):
    with (
        places.open_place("kubernetes", request.getfixturevalue) as found,
        places.left_as_found(found),
    ):
        yield found


def logs(client, labels):
    """Return what the containers of pods have written, by pod."""
    found = {}
    for pod in client.find("Pod", labels=labels)["items"]:
        name = pod["metadata"]["name"]
        with client.open("GET", client.path("Pod", name, "log")) as response:
            found[name] = response.read().decode()
    return found


def test_the_token_of_a_run_is_nowhere_but_in_its_secret(place):
    client = place.client
    run = launch({"model": programs.model, "dataset": programs.prints}, epochs=1, **place.fields)
    run.wait().check()
    base = names.base(run.id, names.user())
    encoded = client.get("Secret", base)["data"].pop("token")
    token = base64.b64decode(encoded).decode()

    said = {kind: json.dumps(client.find(kind)["items"]) for kind in KINDS}
    assert all(base in said[kind] for kind in KINDS if kind != "ConfigMap")
    for secret in client.find("Secret")["items"]:
        for key, text in secret["data"].items():
            if (secret["metadata"]["name"], key) != (base, "token"):
                said[f"{key} of a Secret"] = base64.b64decode(text).decode("latin-1")
        said[f"Secret {secret['metadata']['name']}"] = json.dumps(secret["metadata"])

    written = logs(client, names.selector({names.RUN: run.id}))
    assert len(written) == 3
    assert any("started" in text for text in written.values())  # the head's, with the events
    said |= written
    for entry in run.files.rglob("*"):
        if entry.is_file():
            said[str(entry)] = entry.read_bytes().decode("latin-1")
    assert any("the dataset is made" in text for text in said.values())
    head = next(name for name in written if "-head-" in name)
    every = "cat /proc/*/environ /proc/*/cmdline 2>/dev/null; true"
    with Command(client, head, "head", ["sh", "-c", every]) as seen:
        said["processes"] = b"".join(seen.output()).decode("latin-1")
    assert "--leave-on-sigterm" in said["processes"]

    assert not [where for where, text in said.items() if token in text or encoded in text]
