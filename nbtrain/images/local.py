"""The images that the engine has: which there are, and which one is for this notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ImageDoesNotFit, ImageError
from ..payload import versions as notebook_versions
from . import fit
from .client import translated, using

if TYPE_CHECKING:
    from docker import DockerClient


@dataclass(frozen=True)
class Image:
    """An image that nbtrain has built.

    Attributes
    ----------
    name
        With its tag; its short id where it has none.
    variant
        "cpu" or "gpu".
    versions
        What its labels say.
    bytes, created
        Its size, and its time in the engine's own writing.
    misfits
        Why it does not fit this notebook; empty if it does.
    """

    name: str
    variant: str
    versions: Mapping[str, str]
    bytes: int
    created: str
    misfits: tuple[str, ...] = ()


def default_image(*, gpu: bool = False) -> str:
    """Return the name that `build` gives the image of this notebook.

    It is a name of the engine's own: whoever finds it missing should say how to build it (see
    `choose`) and not pull it.
    """
    return fit.default_tag(notebook_versions(), fit.GPU if gpu else fit.CPU)


def images(client: DockerClient | None = None) -> list[Image]:
    """Return the images that nbtrain has built, newest first; one of two names is there twice."""
    with using(client) as client, translated("list", "images"):
        found = client.api.images(filters={"label": f"{fit.PREFIX}python"})
    return [
        _image(name, one)
        for one in sorted(found, key=lambda one: -one["Created"])
        for name in _names(one)
    ]


def _names(found: Mapping[str, Any]) -> list[str]:
    names = [name for name in found.get("RepoTags") or () if not name.startswith("<none>")]
    return names or [found["Id"].partition(":")[2][:12]]


def _image(name: str, found: Mapping[str, Any]) -> Image:
    labels = found.get("Labels") or {}
    versions = fit.versions_in(labels, {})
    return Image(
        name=name,
        variant=labels.get(fit.VARIANT, ""),
        versions=versions,
        bytes=int(found.get("Size") or 0),
        created=_when(found["Created"]),
        misfits=tuple(fit.misfits(notebook_versions(), versions)),
    )


def _when(seconds: int) -> str:
    import datetime

    return f"{datetime.datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"


def find_fitting(client: DockerClient | None = None, *, gpu: bool = False) -> str | None:
    """Return an image of the engine that fits this notebook: the default one, else the newest.

    Without `gpu` one with CUDA's libraries will do where there is no other.
    """
    fitting = [i for i in images(client) if not i.misfits and (not gpu or i.variant == fit.GPU)]
    wanted = fit.GPU if gpu else fit.CPU
    fitting.sort(key=lambda i: (i.name != default_image(gpu=gpu), i.variant != wanted))
    return fitting[0].name if fitting else None


def versions_of(client: DockerClient, image: str) -> dict[str, str]:
    """Return what a local image says about its versions; {} if it says nothing.

    Raises
    ------
    ImageError
        If the engine has no such image.
    """
    with translated("use", image):
        config = client.images.get(image).attrs.get("Config") or {}
    environment = dict(line.partition("=")[::2] for line in config.get("Env") or ())
    return fit.versions_in(config.get("Labels") or {}, environment)


def check_fits(
    image: str,
    versions: Mapping[str, str],
    *,
    notebook: Mapping[str, str] | None = None,
    fitting: str | None = None,
) -> None:
    """Refuse an image that can't train for this notebook.

    Parameters
    ----------
    image
        Its name, for the error.
    versions
        What it says about itself (`versions_of`, or `fit.versions_in` of its labels). An image
        that says nothing passes: its head tells its versions before a worker is asked for
        anything.
    notebook
        The versions to compare with; by default this process's.
    fitting
        An image that fits (`find_fitting`), for the error to name.

    Raises
    ------
    ImageDoesNotFit
        If it does not fit; with every reason, and the image to take or the command to build it.
    """
    notebook = notebook or notebook_versions()
    if reasons := fit.misfits(notebook, versions):
        raise ImageDoesNotFit(
            f"The image {image} does not fit this notebook: it has {_joined(reasons)}.",
            _instead(fitting, notebook),
        )


def check(client: DockerClient, image: str, *, gpu: bool = False) -> None:
    """Refuse an image of the engine that can't train for this notebook; see `check_fits`.

    The engine is asked for one that fits only where that is to be told.

    Raises
    ------
    ImageDoesNotFit
        If it does not fit.
    ImageError
        If the engine has no such image.
    """
    versions = versions_of(client, image)
    if fit.misfits(notebook_versions(), versions):
        check_fits(image, versions, fitting=find_fitting(client, gpu=gpu))


def choose(image: str = "", *, gpu: bool = False, client: DockerClient | None = None) -> str:
    """Return the image of the engine to run in: the one that is named, or one that fits.

    Raises
    ------
    ImageDoesNotFit
        If the named one does not fit.
    ImageError
        If there is no such image here, or none that fits; the error says how to get one.
    """
    with using(client) as client:
        if image:
            check(client, image, gpu=gpu)
            return image
        fitting = find_fitting(client, gpu=gpu)
    if fitting is None:
        raise ImageError(
            "There is no image yet that fits this notebook.", _instead(None, notebook_versions())
        )
    return fitting


def _instead(fitting: str | None, notebook: Mapping[str, str]) -> str:
    if fitting is not None:
        return f"This one fits: {fitting}"
    tag = fit.default_tag(notebook)
    return f"Build one that fits: {fit.how_to_build(tag, notebook)}"


def _joined(reasons: Sequence[str]) -> str:
    return "; ".join(reasons)
