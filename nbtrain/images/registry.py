"""Pushing an image to the registry of its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .client import explained, translated, using
from .progress import Watch, follow, unwatched

if TYPE_CHECKING:
    from docker import DockerClient


def push(image: str, *, watch: Watch = unwatched, client: DockerClient | None = None) -> str:
    """Push an image to the registry of its name, and return its digest.

    Credentials are those of the user's Docker config (`docker login`).

    Raises
    ------
    ImageError
        If there is no such image or the registry does not take it.
    """
    with using(client) as client, translated("push", image):
        client.images.get(image)
        repository, tag = _split(image)
        messages = client.api.push(repository, tag=tag, stream=True, decode=True)
        ended = follow(f"pushing {image}", messages, watch)
    if ended.error:
        raise explained("push", image, ended.error)
    return ended.digest


def _split(image: str) -> tuple[str, str]:
    """Return repository and tag; a port is no tag.

    >>> _split("127.0.0.1:5000/nbtrain")
    ('127.0.0.1:5000/nbtrain', 'latest')
    """
    repository, colon, tag = image.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (image, "latest")
