"""`image build | push | save | load | list`: one table for the shell, the notebook and its help."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import values
from .errors import OptionError
from .formats import size
from .request import Option


@dataclass(frozen=True)
class Command:
    """What can be done with images.

    Parameters
    ----------
    name, help
        For the shell and the notebook alike.
    run
        Does it, with the words and options of the line; what it returns is shown.
    words, least, most
        What the words that are no options stand for, and how many there may be.
    """

    name: str
    help: str
    run: Callable[[Sequence[str], Mapping[str, Any]], Any]
    words: str = ""
    least: int = 0
    most: int = 0
    options: tuple[Option, ...] = ()

    def __call__(self, given: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """Run it.

        Raises
        ------
        OptionError
            If there are too few or too many words.
        """
        if not self.least <= len(given) <= self.most:
            usage = f"{self.name} {self.words}".rstrip()
            raise OptionError(f"image {self.name}: is written as in: image {usage}")
        return self.run([str(word) for word in given], options)


class ImageTable:
    """The images that nbtrain has built, as a table."""

    _HEADS = ("image", "variant", "Python", "TensorFlow", "Keras", "size", "built", "fits")

    def __init__(self, found: Sequence[Any]) -> None:
        self._rows = [self._HEADS, *map(self._row, found)]

    @staticmethod
    def _row(image: Any) -> tuple[str, ...]:
        versions = (image.versions.get(name, "–") for name in ("python", "tensorflow", "keras"))
        fits = "; ".join(image.misfits) or "yes"
        return (image.name, image.variant, *versions, size(image.bytes), image.created, fits)

    def __len__(self) -> int:
        return len(self._rows) - 1

    def __str__(self) -> str:
        from .image_display import columns

        none = "There is no image of nbtrain yet; `nbtrain image build` makes one."
        return columns(self._rows) if len(self) else none

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from .image_display import table_html

        return table_html(self._rows) if len(self) else f"<p>{self}</p>"


def _build(packages: Sequence[str], options: Mapping[str, Any]) -> str:
    from . import images
    from .image_display import shown

    given = dict(options)
    requirements = [given.pop("requirements")] if "requirements" in given else []
    with shown() as watch:
        tag = images.build(packages, requirements=requirements, watch=watch, **given)
    return f"{tag} is built."


def _push(words: Sequence[str], options: Mapping[str, Any]) -> str:
    from . import images
    from .image_display import shown

    with shown() as watch:
        digest = images.push(words[0], watch=watch)
    return f"{words[0]} is pushed ({digest})." if digest else f"{words[0]} is pushed."


def _save(words: Sequence[str], options: Mapping[str, Any]) -> str:
    from . import images
    from .image_display import shown

    image, target = words if len(words) == 2 else (images.choose(), words[0])
    with shown() as watch:
        count = images.save(image, target, watch=watch)
    return f"{image} is saved to {target} ({size(count)})."


def _load(words: Sequence[str], options: Mapping[str, Any]) -> str:
    from . import images
    from .image_display import shown

    with shown() as watch:
        names = images.load(words[0], watch=watch)
    return f"{', '.join(names)} is loaded."


def _list(words: Sequence[str], options: Mapping[str, Any]) -> ImageTable:
    from . import images

    return ImageTable(images.images())


def _option(name: str, metavar: str, about: str, **more: Any) -> Option:
    return Option(name=name, parse=values.word, help=about, group="", metavar=metavar, **more)


def _flag(name: str, about: str) -> Option:
    return Option(name=name, parse=values.flag, help=about, group="", default=False, flag=True)


_BUILD = (
    _option("tag", "NAME", "the image's name; by default one that tells the versions"),
    _option(
        "requirements",
        "FILE",
        "a file of pip's requirements to install besides",
        written="requirement",
        aliases=("requirement", "r"),
    ),
    _flag("gpu", "with CUDA's libraries"),
    _option("python_image", "NAME", "the Debian-like Python image to build from"),
    _option("ca_bundle", "FILE", "certificates that pip is to trust; by default PIP_CERT"),
    _flag("trust_ca", "have all programs of the image trust them"),
    _option("index_url", "URL", "the package index; by default PIP_INDEX_URL, else pip's own"),
)

#: By name, in the order of the help.
COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command(
            name="build",
            help="build the image that workers train in, with this environment's versions",
            run=_build,
            words="[PACKAGE…]",
            most=1000,
            options=_BUILD,
        ),
        Command(
            name="push",
            help="push an image to the registry of its name, with the login of `docker login`",
            run=_push,
            words="IMAGE",
            least=1,
            most=1,
        ),
        Command(
            name="save",
            help="write an image as a tar to a path or a URL such as s3://bucket/key",
            run=_save,
            words="[IMAGE] TARGET",
            least=1,
            most=2,
        ),
        Command(
            name="load",
            help="take a saved image back into the engine",
            run=_load,
            words="SOURCE",
            least=1,
            most=1,
        ),
        Command(name="list", help="show the images and whether they fit here", run=_list),
    )
}


def find(name: str) -> Command:
    """Return a command.

    Raises
    ------
    OptionError
        If there is none of this name.
    """
    if name in COMMANDS:
        return COMMANDS[name]
    near = values.nearest(name, COMMANDS)
    hint = f"did you mean {near}?" if near else f"there are: {', '.join(COMMANDS)}"
    raise OptionError(f"image {name}: no such command; {hint}" if name else f"image: {hint}")


def help_text() -> str:
    """Return the help of `%k8s_image`."""
    parts = ["Build, push, save and load the image that workers train in.\n"]
    for command in COMMANDS.values():
        usage = f"%k8s_image {command.name} {command.words}".rstrip()
        parts.append(f"{usage:<33} {command.help}")
        parts += [
            textwrap.fill(f"    {f'{o.dashed} {o.metavar}'.rstrip():<29} {o.help}", 99)
            for o in command.options
        ]
    return "\n".join([*parts, "\nIn a shell: nbtrain image build, ...\n"])
