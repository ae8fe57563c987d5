"""Screenshots: compared with those of the docs, which are made here as well."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image, ImageChops

SCREENS = Path(__file__).parents[2] / "docs" / "screens"

#: What is compared is the mean colour of squares of so many pixels, which may differ by so much
#: (of 255). Letters drawn in another way (hinting, smoothing) make less than that; a curve, a sign
#: or a word that is missing makes more.
SQUARE, COLOUR = 32, 12


def compare(taken: bytes, name: str) -> None:
    """Compare a screenshot with the committed one; NBTRAIN_SCREENS=1 makes that one anew."""
    path = SCREENS / f"{name}.png"
    if not _is_kept(taken, path):
        new, old = _of_one_size(taken, path)
        difference, place = unlike(new, old)
        assert difference <= COLOUR, f"{name}: at {place} it is other than {path} (by {difference})"


def compare_size(taken: bytes, name: str) -> None:
    """Do as `compare` for what is never the same twice, like a run in the making: by its size."""
    path = SCREENS / f"{name}.png"
    if not _is_kept(taken, path):
        _of_one_size(taken, path)


def _is_kept(taken: bytes, path: Path) -> bool:
    """Write a screenshot where new ones are asked for; tell whether they are."""
    if not os.environ.get("NBTRAIN_SCREENS"):
        return False
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(taken)
    return True


def _of_one_size(taken: bytes, path: Path) -> tuple[Image.Image, Image.Image]:
    """Return both pictures, of which one may be a line of text higher."""
    new, old = (Image.open(source).convert("RGB") for source in (io.BytesIO(taken), path))
    assert abs(new.width - old.width) <= 4, f"{path.stem}: {new.size}, and not {old.size}"
    assert abs(new.height - old.height) <= 12, f"{path.stem}: {new.size}, and not {old.size}"
    return new, old


def unlike(new: Image.Image, old: Image.Image) -> tuple[int, tuple[int, int]]:
    """Return by how much the squares differ where they do most, and where that is, in pixels."""
    size = min(new.width, old.width), min(new.height, old.height)
    squares = size[0] // SQUARE, size[1] // SQUARE
    box = (0, 0, squares[0] * SQUARE, squares[1] * SQUARE)
    means = [image.crop(box).resize(squares, Image.Resampling.BOX) for image in (new, old)]
    found = ImageChops.difference(*means)
    most = [max(found.getpixel((x, y))) for y in range(squares[1]) for x in range(squares[0])]
    at = most.index(max(most))
    return max(most), (at % squares[0] * SQUARE, at // squares[0] * SQUARE)
