"""Which image fits a notebook: the one rule, the labels it reads, and the tag made of versions.

All of this is pure; the engine is asked elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..runtime.versions import RULES, parts
from ..runtime.versions import misfits as misfits

#: What the labels of an image that nbtrain has built begin with.
PREFIX = "io.nbtrain."
CPU, GPU = "cpu", "gpu"
VARIANT = PREFIX + "variant"
#: A bare name is one of the engine's own: nobody can publish another image under it.
REPOSITORY = "nbtrain"


def labels(versions: Mapping[str, str], variant: str) -> dict[str, str]:
    """Return the labels of an image with these versions.

    >>> labels({"python": "3.11.7", "tf_keras": "2.21.0"}, "cpu")
    {'io.nbtrain.variant': 'cpu', 'io.nbtrain.python': '3.11', 'io.nbtrain.tf-keras': '2.21.0'}
    """
    return {VARIANT: variant} | {_label(n): v for n, v in carried(versions).items()}


def carried(versions: Mapping[str, str]) -> dict[str, str]:
    """Return the versions that an image promises: of Python the minor, of packages all."""
    found = {rule.package: versions[rule.package] for rule in RULES if rule.package in versions}
    return found | {"python": parts(versions["python"], 2)}


def versions_in(labels: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return what an image says about itself.

    Parameters
    ----------
    labels
        Those of an image that nbtrain has built.
    environment
        The official Python images, and what was built from them, have PYTHON_VERSION.
    """
    found = {r.package: labels[_label(r.package)] for r in RULES if _label(r.package) in labels}
    if "PYTHON_VERSION" in environment:
        found.setdefault("python", environment["PYTHON_VERSION"])
    return found


def _label(package: str) -> str:
    return PREFIX + package.replace("_", "-")


def default_tag(versions: Mapping[str, str], variant: str = CPU) -> str:
    """Return the name of the base image for these versions.

    >>> default_tag({"python": "3.11.7", "tensorflow": "2.21.0", "keras": "3.15.1"}, "gpu")
    'nbtrain:py3.11-tf2.21.0-keras3.15.1-gpu'
    """
    tag = [f"py{parts(versions['python'], 2)}"]
    for package, short in (("tensorflow", "tf"), ("keras", "keras")):
        if package in versions:
            tag.append(short + versions[package].replace("+", "-"))
    if variant != CPU:
        tag.append(variant)
    return f"{REPOSITORY}:{'-'.join(tag)}"


def how_to_build(tag: str, versions: Mapping[str, str]) -> str:
    """Return the command that builds an image that fits, for the shell and for a notebook."""
    option = "" if tag == default_tag(versions) else f" --tag {tag}"
    return f"nbtrain image build{option} (in a notebook: %k8s_image build{option})"
