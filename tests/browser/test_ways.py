"""The ways to a run: menus, palette, keyboard. Nothing is trained."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import expect

from ..harness import until
from ..recordings.directories import GoingOn, recorded

pytestmark = pytest.mark.browser

ATTACH = "import nbtrain\nnbtrain.attach({!r})"


@pytest.fixture
def home(person):
    return person.server.home


def pasted(page):
    return page.evaluate("navigator.clipboard.readText()")


def test_context_menu_copies_the_name_and_opens_the_logs(person, home):
    page = person.page
    recorded(home, "digits-1", "digits")
    recorded(home, "letters-1", "letters", 2.0)
    person.enter()
    row = person.sidebar().locator('[data-run="digits-1"]')
    row.click(button="right")
    person.menu("Copy name")
    until(lambda: pasted(page) == "digits")
    row.click(button="right")
    person.menu("Open logs")
    tab = page.locator(".nbt-tab")
    expect(tab.get_by_role("tab", name="Logs")).to_have_attribute("aria-selected", "true")
    tab.get_by_label("worker", exact=True).select_option("1")
    expect(tab.get_by_role("log")).to_contain_text("line 39999 ü")
    tab.get_by_role("tab", name="Overview").click()
    tab.get_by_role("button", name="Copy attach").click()
    expect(tab.get_by_role("alert")).to_have_text("Copied: nbtrain.attach('digits-1')")
    assert pasted(page) == "nbtrain.attach('digits-1')"


def test_palette_opens_the_newest_run(person, home):
    page = person.page
    recorded(home, "digits-1", "digits")
    recorded(home, "letters-1", "letters", 2.0)
    person.enter()
    expect(person.sidebar().locator(".nbt-run")).to_have_count(2)
    page.keyboard.press("Control+Shift+c")
    page.keyboard.type("Open run: letters")
    entry = page.locator(".lm-CommandPalette-item", has_text="Open run: letters")
    expect(entry).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator(".nbt-tab .nbt-title")).to_contain_text("letters")


def test_buttons_are_reached_and_pressed_with_the_keyboard(person, home):
    page = person.page
    person.write("keys.ipynb", ATTACH.format("keys-1"))
    with GoingOn(home, "keys-1", "keys", time.time()):
        person.open("keys.ipynb")
        person.run(0)
        view = person.view(0)
        stop, logs = (view.get_by_role("button", name=name) for name in ("Stop", "Logs"))
        logs.click()
        page.keyboard.press("Shift+Tab")
        expect(stop).to_be_focused()
        page.keyboard.press("Tab")
        expect(logs).to_be_focused()
        page.keyboard.press("Enter")
        expect(logs).to_have_attribute("aria-expanded", "false")
        page.keyboard.press("Enter")
        expect(view.get_by_role("log")).to_contain_text("Epoch 1/5")

        person.sidebar().locator(".nbt-row").focus()
        page.keyboard.press("Enter")
        tab = page.locator(".nbt-tab")
        expect(tab.locator(".nbt-title")).to_contain_text("training")
        tab.get_by_role("tab", name="Overview").focus()
        page.keyboard.press("Tab")
        expect(tab.get_by_role("tabpanel")).to_be_focused()
        page.keyboard.press("Tab")
        expect(tab.get_by_role("button", name="Stop")).to_be_focused()
