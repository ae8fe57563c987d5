"""A run as YAML, for `kubectl apply -f` with no notebook."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import yaml

from ...errors import BackendError
from ...runtime.request import TrainRequest
from . import names
from .images import chosen_image
from .manifests import Given, Manifests
from .settings import PodSettings

#: Written on top.
HEADING = "# kubectl apply{} -f FILE   trains this; its results stay in the volume.\n"
#: Client-side apply keeps a copy of each object, as JSON, in an annotation of it; those may hold
#: 256 KiB (`TotalAnnotationSizeLimitB` in Kubernetes' validation), less what its name takes.
LARGEST_COPY = 2**18 - 2**10
#: Without a notebook nobody fetches the results right away: they lie in the volume.
LINGER_S = 0


def exported(request: TrainRequest, payload: Path, *, shown: bool = False) -> str:
    """Return the objects of a run as YAML documents, in the order in which they are created.

    Parameters
    ----------
    request, payload
        As for `Backend.start`.
    shown
        For reading: the Secret's contents, which hold the run's token, are left out.

    Raises
    ------
    BackendError
        If the payload does not fit into a Secret.
    """
    from ...payload import runtime_zip

    image, wheels = chosen_image(request)
    chosen = PodSettings.of(request, image=image, wheels=wheels)
    if chosen.volume:
        chosen = PodSettings.of(request, image=image, wheels=wheels, linger=LINGER_S)
    manifests = Manifests(request, chosen, names.user())
    given = Given.of(request, runtime_zip(bytecode=False), payload, secrets.token_urlsafe(32))
    if "payload.bin" not in given.files() and not shown:
        raise BackendError(
            f"the run can't be exported: its payload of {request.payload_bytes:,} bytes does not"
            " fit into a Secret (1 MiB).",
            "Have dataset() read the data from --volume or a bucket, rather than capture it.",
        )
    made = manifests.all(given)
    heading = HEADING.format("" if _fits_client_side(made) else " --server-side")
    if shown:
        made = [_without_contents(manifest) for manifest in made]
    text: str = yaml.safe_dump_all(made, sort_keys=False, allow_unicode=True, width=100)
    return heading + text


def _fits_client_side(manifests: list[dict[str, Any]]) -> bool:
    return all(len(json.dumps(one).encode()) < LARGEST_COPY for one in manifests)


def _without_contents(manifest: dict[str, Any]) -> dict[str, Any]:
    if manifest["kind"] != "Secret":
        return manifest
    return {**manifest, "data": dict.fromkeys(manifest["data"], "…")}
