"""The comparison of screenshots: it lets other letters pass, and nothing that is missing."""

from __future__ import annotations

import pytest
from PIL import Image, ImageDraw

from .browser.screens import COLOUR, SCREENS, SQUARE, compare, compare_size, unlike


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
    for compared in (compare, compare_size):
        with pytest.raises(AssertionError, match="and not"):
            compared(path.read_bytes(), "two-workers-light")


def test_what_is_never_the_same_twice_is_compared_by_its_size_alone(screen, tmp_path, monkeypatch):
    monkeypatch.delenv("NBTRAIN_SCREENS", raising=False)
    path = tmp_path / "later.png"
    without(screen, 300, 150, 540, 245).save(path)
    compare_size(path.read_bytes(), "two-workers-light")
    with pytest.raises(AssertionError, match="other than"):
        compare(path.read_bytes(), "two-workers-light")
