"""The one TensorFlow image of the tests, made once by nbtrain's own build.

The docker and the cluster suites take it from here, so that gigabytes are built once and shared.
"""

from __future__ import annotations

import functools
import sys

import docker
from docker.errors import ImageNotFound

from nbtrain import images

from .cluster.images import RELEASES
from .cluster.images import python_image as made_python_image

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
#: Stands for the official slim image of this Python, where no registry is reachable.
PYTHON_IMAGE = f"nbtrain-test/python:{MINOR}"
BASE_IMAGE = f"nbtrain-test/base:{MINOR}"


@functools.cache
def base_image() -> str:
    """Return the base image, built if it is not there as this checkout builds it.

    The build is done every time: where nothing has changed the engine's cache makes it a matter of
    a second.
    """
    return images.build(tag=BASE_IMAGE, python_image=python_image())


@functools.cache
def python_image() -> str:
    """Return the Python image to build from: the tests' own, or "" for the official one."""
    if _exists(PYTHON_IMAGE):
        return PYTHON_IMAGE
    return made_python_image(MINOR) if MINOR in RELEASES else ""


def _exists(tag: str) -> bool:
    client = docker.from_env()
    try:
        client.images.get(tag)
    except ImageNotFound:
        return False
    finally:
        client.close()
    return True
