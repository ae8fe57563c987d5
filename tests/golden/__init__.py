"""Requests and, in the files beside this one, the Kubernetes objects that are made of them.

`python -m tests.golden` writes the files anew; look at the difference before committing it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import yaml

from nbtrain.backends.kubernetes.manifests import Given, Manifests
from nbtrain.backends.kubernetes.settings import PodSettings
from nbtrain.request import make_request

FOLDER = Path(__file__).parent
GIVEN = Given(b"the runtime", "the token", b"{}", b"the payload")
SHA256 = "8d2bffdbf0b3f4b1b5a6ba3e4a3d7a57b7c5b0f4a4f3c8f5d6b1d3f1b0e9a7c1"

#: The options of each request, and what the backend has chosen.
CASES = {
    "plain": ({}, {"image": "registry.example/train:1"}),
    "everything": (
        {
            "workers": 3,
            "cpu": "1500m",
            "memory": "4Gi",
            "gpus": 1,
            "image": "registry.example/train:1",
            "env": {"WANDB_MODE": "offline"},
            "node_selector": "disk=ssd",
            "tolerations": "spot=true:NoSchedule",
            "service_account": "trainer",
            "image_pull_secret": "registry",
            "storage": "50Gi",
            "storage_class": "fast",
            "priority_class": "low",
            "secret": ["s3-keys", "certs:/etc/certs"],
            "volume": ["data:/data:ro", "cache:/cache"],
            "max_time": "1h",
            "labels": "team=vision",
            "annotations": {"example.com/cost": "centre 7"},
        },
        {},
    ),
    "no_image": ({}, {"image": "python:3.11-slim", "wheels": ("tensorflow-cpu==2.21.0",)}),
    "no_volume": ({"storage": "none"}, {"image": "registry.example/train:1"}),
    "template": (
        {
            "pod_template": {
                "metadata": {"annotations": {"example.com/a": "b"}},
                "spec": {
                    "securityContext": {"runAsUser": None, "fsGroup": 2000},
                    "containers": [
                        {"name": "worker", "env": [{"name": "HOME", "value": "/data"}]},
                        {"name": "head", "resources": {"limits": {"memory": "1Gi"}}},
                    ],
                    "tolerations": [{"key": "arch", "operator": "Exists"}],
                    "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["s3"]}],
                },
            }
        },
        {"image": "registry.example/train:1"},
    ),
}


def manifests(case: str) -> Manifests:
    """Return the manifests of a case, the same at every time."""
    options, chosen = CASES[case]
    request = make_request("digits", {"seed": 1, **options})
    fixed = {"id": "digits-20260102-030405-abcd", "created": 1767323045.0}
    request = dataclasses.replace(request, payload_sha256=SHA256, payload_bytes=2**21, **fixed)
    return Manifests(request, PodSettings.of(request, **chosen), "anna")


def text(case: str) -> str:
    """Return the manifests of a case as YAML."""
    made = manifests(case).all(GIVEN)
    return yaml.safe_dump_all(made, sort_keys=False, width=100)


def write() -> None:
    """Write the files anew."""
    for case in CASES:
        (FOLDER / f"{case}.yaml").write_text(text(case), "utf-8")
