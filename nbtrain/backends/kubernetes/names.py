"""Names and labels of a run's objects.

A namespace may be shared by a class, so that the user is part of every name, and of what a search
for runs asks for.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import os
import re

#: Keys of labels and annotations.
RUN, NAME, USER, ROLE = "nbtrain/run", "nbtrain/name", "nbtrain/user", "nbtrain/role"
MANAGED_BY = "app.kubernetes.io/managed-by"
CREATED, WORKERS = "nbtrain/created", "nbtrain/workers"
PAYLOAD_SHA256 = "nbtrain/payload-sha256"
#: On the head's Job and the volume's claim: the request, but for what is long or not for all eyes.
REQUEST = "nbtrain/request"
#: On all that `nbtrain doctor --probe` makes, which is no run.
PROBE = "nbtrain/probe"
#: On the volume's claim: what its results are served from, once the Jobs are gone.
IMAGE, PULL_SECRETS = "nbtrain/image", "nbtrain/image-pull-secrets"
#: Written by the Job controller on each worker's pod.
INDEX = "batch.kubernetes.io/job-completion-index"

#: How much of a run's and of a user's name is left in an object's: a worker pod's host name
#: (the name, "-worker-63") may have 63 characters.
_LONGEST_RUN, _LONGEST_USER = 24, 12


def user() -> str:
    """Return the user as labels and names have it; NBTRAIN_USER or the hub's name count first."""
    for variable in ("NBTRAIN_USER", "JUPYTERHUB_USER"):
        if os.environ.get(variable):
            return slug(os.environ[variable], 63) or "user"
    try:
        return slug(getpass.getuser(), 63) or "user"
    except (OSError, KeyError):  # a container whose user has no name
        return "user"


def slug(text: str, longest: int) -> str:
    """Return what is left of a text where only lower-case letters, digits and dashes may be."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return plain[:longest].strip("-")


def base(run_id: str, owner: str) -> str:
    """Return the name that the names of all objects of a run begin with."""
    digest = hashlib.sha256(f"{owner}/{run_id}".encode()).digest()
    unique = base64.b32encode(digest).decode().lower()[:8]
    name = slug(run_name(run_id), _LONGEST_RUN) or "run"
    # A Service's name must begin with a letter.
    parts = ("nb" if name[0].isdigit() else "", name, slug(owner, _LONGEST_USER), unique)
    return "-".join(part for part in parts if part)


def run_name(run_id: str) -> str:
    """Return the run's name, which its id begins with."""
    return run_id.rsplit("-", 3)[0]


def labels(run_id: str, owner: str, role: str = "") -> dict[str, str]:
    """Return the labels of an object; without a role those that all of a run's objects have."""
    # A label's value ends with a letter or digit, a Python name may not.
    name = run_name(run_id).rstrip("_")
    found = {MANAGED_BY: "nbtrain", RUN: run_id, NAME: name, USER: owner}
    return found | ({ROLE: role} if role else {})


def selector(wanted: dict[str, str]) -> str:
    """Return labels as the API takes them in a search."""
    return ",".join(f"{key}={value}" for key, value in sorted(wanted.items()))
