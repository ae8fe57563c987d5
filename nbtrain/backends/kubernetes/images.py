"""Which image the pods run in."""

from __future__ import annotations

import contextlib

from ...errors import BackendError, ImageDoesNotFit, ImageError
from ...runtime.request import TrainRequest
from ...runtime.versions import parts

#: Packages whose versions have to be the notebook's, where they are installed when a pod starts.
_PACKAGES = ("keras", "tf_keras", "numpy")


def chosen_image(request: TrainRequest) -> tuple[str, tuple[str, ...]]:
    """Return the image, and the requirements that are installed in it when a pod starts.

    Without one configured it is the official Python image of the notebook's minor version, so
    that a first run needs no image to be built; `python_image` is for clusters that get it from
    elsewhere.
    """
    if image := request.container.get("image"):
        return str(image), ()
    minor = parts(request.versions.get("python", "3.11"), 2)
    image = request.container.get("python_image") or f"python:{minor}-slim"
    return str(image), wheels(request)


def check_known(image: str) -> None:
    """Refuse an image that does not fit, if the engine of this machine has it and can tell.

    That is so where it was built here. What other images have their head says.

    Raises
    ------
    ImageDoesNotFit
        If its versions are not the notebook's.
    """
    from ...images import check, connect

    try:
        client = connect()
    except BackendError:
        return
    with contextlib.closing(client):
        try:
            check(client, image)
        except ImageDoesNotFit:
            raise
        except ImageError:
            return


def wheels(request: TrainRequest) -> tuple[str, ...]:
    """Return the requirements that give a worker the notebook's versions."""
    versions = request.versions
    # The variant without CUDA is a third of the size.
    tensorflow = "tensorflow[and-cuda]" if request.container.get("gpus") else "tensorflow-cpu"
    pins = {name: versions[name] for name in _PACKAGES if name in versions}
    if "tensorflow" in versions:
        pins = {tensorflow: versions["tensorflow"], **pins}
    return tuple(f"{name}=={version}" for name, version in pins.items())
