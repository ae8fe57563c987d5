"""The container engine: how it is reached, and what its errors mean for the user."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .. import libraries
from ..errors import BackendError, ImageError, NbtrainError

if TYPE_CHECKING:
    from docker import DockerClient

#: How long the engine may take to say that it is there, in seconds.
_HELLO_S = 10


def connect() -> DockerClient:
    """Return a client of the engine that the docker command would use.

    That is DOCKER_HOST, else the current context of the user's Docker config, else the socket.
    Credentials of registries come from there as well.

    Raises
    ------
    BackendError
        If there is no engine, or the user may not use it.
    """
    libraries.load("docker")
    import docker
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        # It asks the engine for its version, so an engine that is not there is found here.
        client = docker.from_env(timeout=_HELLO_S)
    except (DockerException, RequestException, OSError) as error:
        raise _unreachable(error) from None
    # A step of a build may be silent for many minutes, and so may a push that waits.
    client.api.timeout = None
    return client


@contextlib.contextmanager
def using(client: DockerClient | None) -> Iterator[DockerClient]:
    """Yield the client that is given, or one of its own, which is closed at the end."""
    if client is not None:
        yield client
        return
    own = connect()
    try:
        yield own
    finally:
        own.close()


def _unreachable(error: BaseException) -> BackendError:
    said = str(error)
    if re.search(r"Permission ?denied", said, re.IGNORECASE):
        return BackendError(
            "You may not use the Docker engine of this machine.",
            "Join its group (sudo usermod -aG docker $USER, then log in anew), or use a rootless"
            " engine.",
        )
    if re.search(r"FileNotFound|No such file|ConnectionRefused|Connection refused", said):
        return BackendError(
            "No Docker engine answers on this machine.",
            "Start it (Docker Desktop, or sudo systemctl start docker), or set DOCKER_HOST to one"
            " that runs elsewhere.",
        )
    return BackendError(
        f"The Docker engine can't be used: {_first_line(said)}", "`docker info` should work first."
    )


@contextlib.contextmanager
def translated(doing: str, image: str = "") -> Iterator[None]:
    """Turn the Docker SDK's errors into nbtrain's.

    Parameters
    ----------
    doing
        What is done, such as "push": the errors begin with it.
    image
        The image that it is done with.
    """
    libraries.load("docker")
    from docker.errors import APIError, DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except NbtrainError:
        raise
    except APIError as error:
        raise explained(doing, image, str(error.explanation or error)) from None
    except (DockerException, RequestException) as error:
        raise explained(doing, image, str(error)) from None


#: What the engine says, what it means, and what to do. `{host}` is the registry, `{login}` the
#: command that logs in there, `{image}` the image, `{found}` what the expression's group has.
_MEANINGS: tuple[tuple[str, str, str], ...] = (
    (
        r'exec: "?python"?: (?:executable file not found|stat)',
        "the image has no python",
        "Take one with Python and TensorFlow; `nbtrain image build` makes one that fits.",
    ),
    (
        r"no space left on device",
        "the engine's disk is full",
        "Make room (docker system df shows what takes it), then try again.",
    ),
    (
        r"no such host|server misbehaving|name resolution|lookup \S+:",
        "{host} is not known here",
        "Check the name, and that this machine's network reaches it.",
    ),
    (
        r"connection refused",
        "nothing answers at {host}",
        "Check the registry's address and port, and that it runs.",
    ),
    (
        r"i/o timeout|deadline exceeded|Client\.Timeout|TLS handshake timeout",
        "{host} does not answer in time",
        "Check the network of the machine that the engine runs on.",
    ),
    (
        r"server gave HTTP response to HTTPS client",
        "{host} has no TLS, and the engine insists on it",
        'Serve it with TLS, or add it to "insecure-registries" of the engine\'s daemon.json.',
    ),
    (
        r"x509|certificate signed by unknown authority|certificate verify failed",
        "the engine does not trust the certificate of {host}",
        "Put its CA into /etc/docker/certs.d/{host}/ca.crt on the engine's machine.",
    ),
    (
        r"no basic auth credentials|unauthorized|authentication required|\bdenied\b|"
        r"may require .docker login",
        "{host} does not let you",
        "Log in with {login}, and check that you may use this name.",
    ),
    (
        r"(?:no such image|does not exist locally with the tag|no such id)",
        "the engine has no image {image}",
        "`nbtrain image list` shows those for nbtrain.",
    ),
    (
        r"manifest unknown|manifest for \S+ not found|repository name not known",
        "{host} has no image {image}",
        "Check its name and tag.",
    ),
    (
        r"invalid reference format|invalid tag|must be lowercase",
        "{image} can't be the name of an image",
        "Names are of lower-case letters, as in registry.example.com/team/nbtrain:1.",
    ),
    (
        r"unexpected EOF|archive/tar|(manifest\.json|/repositories): no such file|"
        r"not a valid .*archive",
        "it is not a whole image as `nbtrain image save` writes them",
        "Save it anew.",
    ),
)


def explained(doing: str, image: str, said: str) -> ImageError:
    """Return the error for what the engine has said. Pure."""
    name = host(image)
    hub = name == _HUB
    words = {"host": name, "image": image, "login": "docker login" + ("" if hub else f" {name}")}
    for pattern, meaning, fix in _MEANINGS:
        if re.search(pattern, said, re.IGNORECASE):
            return ImageError(
                f"{doing} {image}: {meaning.format(**words)}.".replace(" :", ":"),
                fix.format(**words),
            )
    return ImageError(f"{doing} {image}: {_first_line(said)}")


_HUB = "Docker Hub"


def host(image: str) -> str:
    """Return the registry that a name belongs to.

    >>> host("registry.example.com:5000/team/nbtrain:1"), host("team/nbtrain")
    ('registry.example.com:5000', 'Docker Hub')
    """
    first, slash, _ = image.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    return first if is_host else _HUB


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no reason was given"


def architecture(client: DockerClient) -> str:
    """Return the engine's architecture, such as "amd64": it need not be this machine's."""
    found: Any = client.version().get("Arch", "amd64")
    return str(found)
