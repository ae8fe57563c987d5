"""The images of the tests, made here: no test depends on a registry that it has to reach.

The Docker tags start with `nbtrain-test/`; an image that exists is not made again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from .shell import pipe, run, succeeds

PREFIX = "nbtrain-test"
#: What holds a pod's namespaces. The host in its name is what keeps containerd from asking one.
PAUSE = f"localhost/{PREFIX}/pause:1"

#: Debian's release for each Python minor that one of them has.
RELEASES = {"3.11": "bookworm", "3.13": "trixie"}
PACKAGES = ["python3", "python3-pip", "python3-venv", "ca-certificates"]
#: The one bundle that Debian's programs read, Debian's pip included.
BUNDLE = Path("etc/ssl/certs/ca-certificates.crt")


def python_image(version: str = "3.11") -> str:
    """Return the tag of an image that stands for the official slim image of a Python minor."""
    tag = f"{PREFIX}/python:{version}"
    if exists(tag):
        return tag
    # Not below /tmp, which may be small, in memory or mounted without devices.
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="nbtrain-test-") as folder:
        root = Path(folder) / "root"
        run(
            "debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}",
            RELEASES[version], root,
        )  # fmt: skip
        _like_the_official_image(root)
        _trust_what_the_host_trusts(root)
        changes = ["--change", 'CMD ["python3"]', "--change", "ENV LANG=C.UTF-8"]
        pipe(["tar", "-C", root, "-c", "."], ["docker", "import", *changes, "-", tag])
    return tag


def pause_image(binaries: Path) -> str:
    """Return the tag of `PAUSE`: an image of one static program."""
    if not exists(PAUSE):
        packed = ["tar", "-C", str(binaries), "-c", "pause"]
        pipe(packed, ["docker", "import", "--change", 'ENTRYPOINT ["/pause"]', "-", PAUSE])
    return PAUSE


def exists(tag: str) -> bool:
    """Tell whether the Docker engine has an image of this tag."""
    return succeeds("docker", "image", "inspect", tag)


def _like_the_official_image(root: Path) -> None:
    """Make `python` a command and pip usable without a virtual environment; drop caches."""
    (root / "usr/bin/python").symlink_to("python3")
    for guard in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        guard.unlink()
    for folder in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
        shutil.rmtree(root / folder)
        (root / folder).mkdir()


def _trust_what_the_host_trusts(root: Path) -> None:
    """Add the certificates that the host has beyond Debian's, such as those of a proxy."""
    host = Path(os.environ.get("SSL_CERT_FILE", f"/{BUNDLE}"))
    if not host.exists():
        return
    own = _certificates((root / BUNDLE).read_text("utf-8"))
    extra = _certificates(host.read_text("utf-8")) - own
    folder = root / "usr/local/share/ca-certificates"
    for number, certificate in enumerate(sorted(extra)):
        (folder / f"host-{number}.crt").write_text(certificate, "utf-8")
    if extra:
        run("chroot", root, "update-ca-certificates")


def _certificates(bundle: str) -> set[str]:
    end = "-----END CERTIFICATE-----"
    parts = [part[part.find("-----BEGIN") :] for part in bundle.split(end)[:-1]]
    return {f"{part}{end}\n" for part in parts}
