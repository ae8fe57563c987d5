"""Images as tar files, at a path or at any URL that fsspec knows (s3://bucket/key)."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import ImageError, OptionError
from .client import explained, translated, using
from .progress import Progress, Watch, follow, unwatched

if TYPE_CHECKING:
    from docker import DockerClient

#: What is read and written at once, in bytes.
CHUNK = 4 << 20


def save(
    image: str, target: str, *, watch: Watch = unwatched, client: DockerClient | None = None
) -> int:
    """Write an image to a path or URL, and return the number of bytes.

    Nothing is there before all of it is: a file is written beside and renamed, an upload that
    breaks off leaves no object.

    Raises
    ------
    ImageError
        If there is no such image, or it can't be written there.
    """
    progress = Progress(f"saving {image} to {target}")
    with using(client) as client, translated("save", image):
        found = client.images.get(image)
        progress = replace(progress, total=int(found.attrs.get("Size") or 0))
        # By its name, so that `load` gives it the name again.
        chunks = client.api.get_image(image, chunk_size=CHUNK)
        with _problems_of("save", target), _writing(target) as file:
            watch(progress)
            for chunk in chunks:
                file.write(chunk)
                progress = replace(progress, done=progress.done + len(chunk))
                watch(progress)
    # The size of an image is not quite that of its tar.
    watch(replace(progress, total=progress.done, ended=True))
    return progress.done


def load(
    source: str, *, watch: Watch = unwatched, client: DockerClient | None = None
) -> tuple[str, ...]:
    """Take an image that was saved back into the engine, and return the names that it has.

    Raises
    ------
    ImageError
        If it can't be read, or is no image.
    """
    with (
        using(client) as client,
        translated("load", source),
        _problems_of("load", source),
        _reading(source) as (file, size),
    ):
        sent = _Sent(Progress(f"loading {source}", total=size), watch)
        messages = client.api.load_image(sent.chunks(file), quiet=True)
        ended = follow("", messages, watch, begin=sent.progress)
    if ended.error:
        raise explained("load", source, ended.error)
    if not ended.names:
        raise explained("load", source, "not a valid image archive")
    return ended.names


class _Sent:
    """Counts what is sent, from inside the request that sends it."""

    def __init__(self, progress: Progress, watch: Watch) -> None:
        self.progress, self._watch = progress, watch

    def chunks(self, file: IO[bytes]) -> Iterator[bytes]:
        while chunk := file.read(CHUNK):
            yield chunk
            self.progress = replace(self.progress, done=self.progress.done + len(chunk))
            self._watch(self.progress)


# -- paths and URLs -------------------------------------------------------------------------------


def _is_url(place: str) -> bool:
    return "://" in place


@contextlib.contextmanager
def _writing(target: str) -> Iterator[IO[bytes]]:
    if not _is_url(target):
        with _beside(Path(target).expanduser()) as file:
            yield file
        return
    system, path = _file_system(target)
    # Within a transaction a file is there when all went well, and not at all otherwise.
    with system.transaction, system.open(path, "wb") as file:
        yield file


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[IO[bytes]]:
    if path.is_dir():
        raise OptionError(f"{path} is a folder; give the name of a file in it")
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        # mkstemp's files are for their owner alone; this one is like any other.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise


@contextlib.contextmanager
def _reading(source: str) -> Iterator[tuple[IO[bytes], int]]:
    """Yield a file that is open for reading, and its size (0 where it is not known)."""
    if not _is_url(source):
        path = Path(source).expanduser()
        with path.open("rb") as file:
            yield file, path.stat().st_size
        return
    system, path_there = _file_system(source)
    size = int(system.info(path_there).get("size") or 0)
    with system.open(path_there, "rb") as file:
        yield file, size


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except ValueError as error:  # the protocol is not known
        raise OptionError(f"{url}: {error}") from None
    except ImportError as error:
        extra = 'pip install "nbtrain[s3]"' if url.startswith("s3:") else str(error)
        raise ImageError(
            f"{url}: the package for such addresses is not installed.", extra
        ) from None
    return system, path


@contextlib.contextmanager
def _problems_of(doing: str, place: str) -> Iterator[None]:
    """Turn the errors of file systems, near and far, into nbtrain's."""
    try:
        yield
    except FileNotFoundError:
        what = "there is no such folder or bucket" if doing == "save" else "there is no such file"
        raise ImageError(f"{doing}: {place}: {what}.") from None
    except PermissionError:
        raise ImageError(
            f"{doing}: {place}: you have no access.", "Check the credentials, or the file's mode."
        ) from None
    except OSError as error:
        if _is_of_requests(error):
            raise
        raise ImageError(f"{doing}: {place}: {error.strerror or error}") from None
    except Exception as error:
        # Each store's library has errors of its own; none of them is to be a traceback.
        if _is_of(error, ("botocore", "aiobotocore", "google", "azure", "aiohttp")):
            raise ImageError(f"{doing}: {place}: {error}", _CREDENTIALS) from None
        raise


_CREDENTIALS = "Check its address and the credentials that this machine has for it."


def _is_of_requests(error: BaseException) -> bool:
    # requests' errors are OSErrors, and speak about the engine.
    return _is_of(error, ("requests", "docker", "urllib3"))


def _is_of(error: BaseException, packages: Iterable[str]) -> bool:
    return type(error).__module__.partition(".")[0] in set(packages)
