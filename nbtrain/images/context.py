"""What is sent to the engine to build an image from: base_image/ and the files that it asks for.

All of this is pure but for reading files; the engine is asked elsewhere.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import OptionError
from . import fit

#: Where the image has the files of the context.
INSIDE = "/opt/nbtrain"
#: Constraints: what the labels promise, and NumPy, whose arrays are pickled.
_PINNED = ("tensorflow", "keras", "tf_keras", "cloudpickle", "numpy")
#: The engine's word for what has wheels of tensorflow-cpu.
_AMD64 = "amd64"
#: Lines of a requirements file that name another file, and that point at this machine.
_OTHER_FILE = re.compile(r"(-r|--requirement|-c|--constraint)[ =]?\s*(?P<path>\S+)")
_LOCAL = re.compile(r"(-e\b|--editable\b|\.{0,2}/|~|file:)|.*@\s*file:")
_PASSWORD = re.compile(r"://[^/@\s$]+:[^/@\s$]+@")


@dataclass(frozen=True)
class Wanted:
    """What an image is to have.

    Parameters
    ----------
    versions
        The notebook's (`nbtrain.payload.versions`).
    variant
        "cpu" or "gpu".
    architecture
        The engine's, in its own words.
    packages, requirements
        What to install besides: pip's requirements, and files of them.
    python_image
        The image to build from; by default the official slim one of the notebook's Python.
    ca_bundle
        A file of certificates that pip is to trust during the build.
    trust_ca
        Whether all programs of the image are to trust them.
    index_url
        The package index, where it is not pip's own.
    """

    versions: Mapping[str, str]
    variant: str = fit.CPU
    architecture: str = _AMD64
    packages: Sequence[str] = ()
    requirements: Sequence[Path] = ()
    python_image: str = ""
    ca_bundle: Path | None = None
    trust_ca: bool = False
    index_url: str = ""


def files(wanted: Wanted) -> dict[str, bytes]:
    """Return the context's files by name.

    Raises
    ------
    OptionError
        If a file is missing, or a requirement can't be installed in an image.
    """
    texts = {
        "versions.json": json.dumps(fit.carried(wanted.versions)),
        "constraints.txt": _lines(constraints(wanted.versions)),
        "frameworks.txt": _lines(frameworks(wanted)),
        "no-deps.txt": _lines(["tf_keras"] if "tf_keras" in wanted.versions else []),
        "requirements.txt": _lines(requirements(wanted)),
    }
    return {
        "Dockerfile": (_base() / "Dockerfile").read_bytes() + _label_line(wanted).encode(),
        "check.py": (_base() / "check.py").read_bytes(),
        "ca.crt": _certificates(wanted),
        **{name: text.encode() for name, text in texts.items()},
    }


def _label_line(wanted: Wanted) -> str:
    found = fit.labels(wanted.versions, wanted.variant)
    return "LABEL " + " ".join(f'{name}="{value}"' for name, value in found.items()) + "\n"


def arguments(wanted: Wanted) -> dict[str, str]:
    """Return the build arguments."""
    minor = fit.carried(wanted.versions)["python"]
    given = {"PYTHON_IMAGE": wanted.python_image or f"python:{minor}-slim"}
    if wanted.ca_bundle is not None:
        given["PIP_CERT"] = f"{INSIDE}/ca.crt"
    elif wanted.trust_ca:
        raise OptionError("--trust-ca: goes together with --ca-bundle FILE")
    if wanted.trust_ca:
        given["TRUST_CA"] = "yes"
    if wanted.index_url:
        _check_password(wanted.index_url, "--index-url")
        given["PIP_INDEX_URL"] = wanted.index_url
    return given


def archive(content: Mapping[str, bytes]) -> io.BytesIO:
    """Return files as a tar, the same bytes for the same files: the engine's cache goes by them."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, data in sorted(content.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))
    target.seek(0)
    return target


def constraints(versions: Mapping[str, str]) -> list[str]:
    """Return pip's constraints; TensorFlow's under each of its names."""
    pinned = [f"{name}=={versions[name]}" for name in _PINNED if name in versions]
    if "tensorflow" in versions:
        pinned.append(f"tensorflow-cpu=={versions['tensorflow']}")
    return pinned


def frameworks(wanted: Wanted) -> list[str]:
    """Return what is installed before anything of the user's."""
    if wanted.variant == fit.GPU:
        tensorflow = "tensorflow[and-cuda]"
    else:
        # A third of the size, since CUDA's kernels are left out; elsewhere there are none.
        tensorflow = "tensorflow-cpu" if wanted.architecture == _AMD64 else "tensorflow"
    return [tensorflow, "keras", "cloudpickle", "numpy"]


def requirements(wanted: Wanted) -> list[str]:
    """Return the lines of all requirements, files of files included."""
    lines = list(wanted.packages)
    for path in wanted.requirements:
        lines += _read(path)
    for line in lines:
        if _LOCAL.match(line.strip()):
            raise OptionError(
                f"{line.strip()}: a path of this machine can't be installed in an image",
                "Your own modules travel with every run; only published packages belong here.",
            )
        _check_password(line, "a requirement")
    return lines


def _read(path: Path, within: tuple[Path, ...] = ()) -> Iterator[str]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", "") or "it is no text"
        raise OptionError(f"-r {path}: can't be read: {reason}") from None
    if path.resolve() in within:
        raise OptionError(f"-r {path}: includes itself")
    for line in text.splitlines():
        other = _OTHER_FILE.match(line.strip())
        if other is None:
            yield line
        elif other[1] in ("-r", "--requirement"):
            yield from _read(path.parent / other["path"], (*within, path.resolve()))
        else:
            raise OptionError(
                f"{line.strip()}: a constraints file is not taken over",
                "Write the versions into the requirements themselves.",
            )


def _check_password(text: str, what: str) -> None:
    if _PASSWORD.search(text):
        raise OptionError(
            f"{what} has a password in its address, and whoever has the image could read it",
            "Use an index that this machine reaches without one, such as a mirror.",
        )


def _certificates(wanted: Wanted) -> bytes:
    if wanted.ca_bundle is None:
        return b""
    try:
        content = wanted.ca_bundle.read_bytes()
    except OSError as error:
        raise OptionError(f"--ca-bundle {wanted.ca_bundle}: {error.strerror}") from None
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise OptionError(f"--ca-bundle {wanted.ca_bundle}: has no certificate (PEM) in it")
    return content


def _base() -> Path:
    """Return base_image/: of the installed package, or of the checkout."""
    package = Path(__file__).parent.parent
    installed = package / "base_image"
    return installed if installed.is_dir() else package.parent / "base_image"


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
