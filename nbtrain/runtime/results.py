"""The results of a run at an address of the user's: s3://bucket/prefix, or any that fsspec knows.

A run has a folder of its own there. Its manifest, with the SHA-256 of each file, is written last:
where there is none the results are not whole, and whoever reads takes none of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from .rundir import RunDir

MANIFEST = "manifest.json"
#: What is read and written at once, in bytes.
CHUNK = 4 << 20
#: Files of a run directory that are of no use anywhere else.
_NOT_SENT = (RunDir.HEAD, RunDir.LOCK, RunDir.RUNTIME, RunDir.SCRATCH + "/")
#: The packages whose errors are those of a store.
_STORES = ("botocore", "aiobotocore", "aiohttp", "google", "gcsfs", "azure", "adlfs", "requests")
#: The package for some schemes; fsspec names those of others.
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}


class ResultsError(Exception):
    """The results can't be written to their address, or read from it; the message says why."""


class Results:
    """The results of one run.

    Parameters
    ----------
    url
        The address that the user gave.
    run
        The run's id; the name of its folder.
    """

    def __init__(self, url: str, run: str) -> None:
        self.url = f"{url.rstrip('/')}/{run}"

    # -- writing ------------------------------------------------------------------------------

    def check(self, rundir: RunDir) -> None:
        """Write the request there, to see whether anything can be."""
        with self._problems():
            self._put(rundir, RunDir.REQUEST)

    def put(self, rundir: RunDir) -> list[dict[str, Any]]:
        """Write the files of a run directory, and return what a manifest says of them."""
        with self._problems():
            return [self._put(rundir, name) for name in _sent(rundir)]

    def seal(self, rundir: RunDir, files: list[dict[str, Any]], again: tuple[str, ...]) -> None:
        """Write files that have changed since then, and the manifest."""
        with self._problems():
            known = {entry["path"]: entry for entry in files}
            known |= {name: self._put(rundir, name) for name in again}
            text = json.dumps({"format": 1, "files": list(known.values())}, indent=1)
            self._write(MANIFEST, [text.encode()])

    def _put(self, rundir: RunDir, name: str) -> dict[str, Any]:
        digest, count = hashlib.sha256(), 0

        def pieces() -> Iterator[bytes]:
            nonlocal count
            with (rundir / name).open("rb") as file:
                while data := file.read(CHUNK):
                    digest.update(data)
                    count += len(data)
                    yield data

        self._write(name, pieces())
        return {"path": name, "bytes": count, "sha256": digest.hexdigest()}

    def _write(self, name: str, pieces: Any) -> None:
        system, path = self._system(name)
        # Within a transaction a file is there when all went well, and not at all otherwise.
        with system.transaction, system.open(path, "wb") as file:
            for piece in pieces:
                file.write(piece)

    # -- reading ------------------------------------------------------------------------------

    def files(self) -> list[dict[str, Any]]:
        """Return what the manifest says of the files; raises where the results are not whole."""
        with self._problems():
            system, path = self._system(MANIFEST)
            system.invalidate_cache()
            try:
                found: list[dict[str, Any]] = json.loads(system.cat_file(path))["files"]
            except FileNotFoundError:
                raise ResultsError(
                    f"{self.url}: there are no results (yet): they are written when a run ends"
                ) from None
        return found

    def read(self, entry: dict[str, Any], offset: int = 0) -> Iterator[bytes]:
        """Yield a file of the manifest; raises at its end if it is not what was written."""
        digest = hashlib.sha256()
        with self._problems():
            system, path = self._system(entry["path"])
            with system.open(path, "rb") as file:
                file.seek(offset)
                while data := file.read(CHUNK):
                    digest.update(data)
                    yield data
        if offset == 0 and digest.hexdigest() != entry["sha256"]:
            raise ResultsError(f"{self.url}/{entry['path']}: its SHA-256 is not that of the run's")

    def remove(self) -> None:
        """Remove the run's folder."""
        with self._problems():
            system, path = self._system("")
            system.rm(path.rstrip("/"), recursive=True)

    # -- the address --------------------------------------------------------------------------

    def _system(self, name: str) -> tuple[Any, str]:
        import fsspec

        # Folders are made, buckets are not.
        options = {"auto_mkdir": True} if self.url.startswith("file:") else {}
        system, path = fsspec.core.url_to_fs(f"{self.url}/{name}", **options)
        return system, path

    @contextlib.contextmanager
    def _problems(self) -> Iterator[None]:
        """Turn the errors of file systems, near and far, into sentences."""
        try:
            yield
        except ResultsError:
            raise
        except ImportError as error:
            package = _PACKAGES.get(self.url.partition(":")[0])
            needed = ["fsspec", package] if package else ["fsspec"]
            missing = "fsspec" if error.name == "fsspec" else package or "its package"
            raise ResultsError(
                f"{self.url}: {missing} is not installed here ({error}); where the run trains in an"
                f" image, `nbtrain image build {' '.join(needed)}` makes one that has it"
            ) from None
        except FileNotFoundError:
            raise ResultsError(f"{self.url}: there is no such folder or bucket") from None
        except PermissionError as error:
            raise ResultsError(f"{self.url}: access is denied ({error})") from None
        except Exception as error:
            if not isinstance(error, (OSError, ValueError)) and not _is_of_a_store(error):
                raise
            kind = type(error).__name__
            hint = "; give credentials by --env or --secret" if "Credentials" in kind else ""
            raise ResultsError(f"{self.url}: {error}{hint}") from None


def _sent(rundir: RunDir) -> list[str]:
    """Return the files that are written: of the checkpoints only the last one."""
    names = [entry["path"] for entry in rundir.index()]
    kept = [name for name in names if not name.startswith(_NOT_SENT)]
    checkpoints = sorted(name for name in kept if name.startswith(RunDir.CHECKPOINTS + "/"))
    return [name for name in kept if name not in checkpoints[:-1]]


def _is_of_a_store(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in _STORES
