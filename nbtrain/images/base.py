"""Building the base image."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ImageError, OptionError
from ..payload import versions as notebook_versions
from . import context, fit
from .client import architecture, explained, translated, using
from .progress import Progress, Watch, follow, unwatched

if TYPE_CHECKING:
    from docker import DockerClient

#: Where pip itself looks for certificates.
_CA_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
#: The step of the Dockerfile that fetches the image to build from.
_FROM = 2


def build(
    packages: Sequence[str] = (),
    *,
    tag: str = "",
    gpu: bool = False,
    requirements: Sequence[str | Path] = (),
    python_image: str = "",
    ca_bundle: str | Path | None = None,
    trust_ca: bool = False,
    index_url: str = "",
    versions: Mapping[str, str] | None = None,
    watch: Watch = unwatched,
    client: DockerClient | None = None,
) -> str:
    """Build the image that workers of this notebook train in, and return its name.

    Parameters
    ----------
    packages, requirements
        What to install besides: requirements as pip has them, and files of them.
    tag
        Its name; by default one that tells the versions.
    gpu
        With CUDA's libraries.
    python_image
        A Debian-like image with Python and pip to build from; by default the official slim one
        of this notebook's Python.
    ca_bundle
        Certificates that pip is to trust; by default those of PIP_CERT or REQUESTS_CA_BUNDLE.
    trust_ca
        Have all programs of the image trust them.
    index_url
        A package index other than pip's own; by default PIP_INDEX_URL.
    versions
        Those to pin; by default the ones that are installed here.
    watch
        Is told how it gets on.

    Raises
    ------
    ImageError
        If a step fails; the error has the last lines of that step.
    """
    with using(client) as client:
        wanted = context.Wanted(
            versions=dict(versions or notebook_versions()),
            variant=fit.GPU if gpu else fit.CPU,
            architecture=architecture(client),
            packages=packages,
            requirements=[Path(path).expanduser() for path in requirements],
            python_image=python_image,
            ca_bundle=_ca_bundle(ca_bundle),
            trust_ca=trust_ca,
            index_url=index_url or os.environ.get("PIP_INDEX_URL", ""),
        )
        _check(wanted)
        tag = tag or fit.default_tag(wanted.versions, wanted.variant)
        _build(client, tag, wanted, watch)
    return tag


def _build(client: DockerClient, tag: str, wanted: context.Wanted, watch: Watch) -> None:
    archive, arguments = context.archive(context.files(wanted)), context.arguments(wanted)
    with translated("build", tag):
        messages = client.api.build(
            fileobj=archive,
            custom_context=True,
            tag=tag,
            buildargs=arguments,
            rm=True,
            forcerm=True,
            decode=True,
            use_config_proxy=True,
        )
        ended = follow(f"building {tag}", messages, watch)
    if ended.error:
        raise _failed(tag, ended, arguments["PYTHON_IMAGE"])


def _check(wanted: context.Wanted) -> None:
    if missing := {"tensorflow", "keras", "cloudpickle"} - set(wanted.versions):
        raise ImageError(
            f"{' and '.join(sorted(missing))}: not installed here, so there is no version to pin.",
            "Build in the environment of the notebook.",
        )
    if wanted.variant == fit.GPU and wanted.architecture != "amd64":
        raise OptionError(
            f"--gpu: TensorFlow has no CUDA wheels for {wanted.architecture}",
            "Build it with an engine on x86_64.",
        )


def _ca_bundle(given: str | Path | None) -> Path | None:
    if given is not None:
        return Path(given).expanduser()
    found = next((os.environ[name] for name in _CA_VARIABLES if os.environ.get(name)), "")
    return Path(found) if found and Path(found).is_file() else None


#: What a failed step has written, and what to do about it.
_FIXES = (
    (r"no space left on device", "Make room for the engine: docker system df shows what takes it."),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError|SSLCertVerification",
        "--ca-bundle FILE names certificates that pip is to trust.",
    ),
    (
        r"NewConnectionError|name resolution|ConnectTimeout|Connection refused|No route to host",
        "pip reaches no package index from the engine: --index-url URL names another one, and"
        " proxies are taken from the Docker config.",
    ),
    (
        r"ResolutionImpossible|No matching distribution|conflicting dependencies",
        "TensorFlow and Keras are pinned to this environment's versions: ask for packages that go"
        " with them.",
    ),
)


def _failed(tag: str, ended: Progress, python_image: str) -> ImageError:
    """Return the error for a build that failed in a step, or before its first one. Pure."""
    if ended.step <= _FROM and not ended.said:
        # The image to build from could not be had.
        reason = explained("pull", python_image, ended.error)
        other = "--python-image NAME builds from another image."
        return ImageError(f"build {tag}: {reason.message}", f"{reason.fix} {other}".strip())
    where = f"step {ended.step} of {ended.steps} failed: {_cut(ended.doing)}"
    lines = "\n".join(f"  {line}" for line in ended.said)
    text = f"{lines}\n{ended.error}"
    fix = next((fix for found, fix in _FIXES if re.search(found, text, re.IGNORECASE)), "")
    return ImageError(f"build {tag}: {where}\n{text}", fix)


def _cut(text: str, width: int = 100) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
