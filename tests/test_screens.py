"""The comparison of screenshots: it lets other letters pass, and nothing that is missing."""

from __future__ import annotations

import pytest
from PIL import Image, ImageDraw

from .browser.screens import COLOUR, SCREENS, SQUARE, compare, unlike


@pytest.fixture
def screen() -> Image.Image:
    return Image.open(SCREENS / "two-workers-light.png").convert("RGB")


def without(screen: Image.Image, *box: int) -> Image.Image:
    changed = screen.copy()
    ImageDraw.Draw(changed).rectangle(box, fill="white")
    return changed


def test_a_missing_curve_or_sign_is_seen(screen):
    for box in ((300, 150, 540, 245), (0, 50, 160, 76)):
        difference, (x, y) = unlike(without(screen, *box), screen)
        assert difference > COLOUR
        assert box[0] - SQUARE < x < box[2]
        assert box[1] - SQUARE < y < box[3]


def test_letters_that_are_drawn_a_little_softer_are_no_difference(screen):
    half = screen.resize((screen.width // 2, screen.height // 2)).resize(screen.size)
    assert unlike(half, screen)[0] <= COLOUR


def test_another_size_is_seen(screen, tmp_path, monkeypatch):
    monkeypatch.delenv("NBTRAIN_SCREENS", raising=False)
    path = tmp_path / "wide.png"
    screen.resize((screen.width + 40, screen.height)).save(path)
    with pytest.raises(AssertionError, match="and not"):
        compare(path.read_bytes(), "two-workers-light")
