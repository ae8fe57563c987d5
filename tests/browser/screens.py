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
    if os.environ.get("NBTRAIN_SCREENS"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(taken)
        return
    new, old = (Image.open(source).convert("RGB") for source in (io.BytesIO(taken), path))
    assert abs(new.width - old.width) <= 4, f"{name}: {new.size}, and not {old.size}"
    assert abs(new.height - old.height) <= 12, f"{name}: {new.size}, and not {old.size}"
    difference, place = unlike(new, old)
    assert difference <= COLOUR, f"{name}: at {place} it is other than {path} (by {difference})"


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
