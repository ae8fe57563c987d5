"""The ways to a run: menus, palette, keyboard, settings, notifications. Nothing is trained."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import expect

from nbtrain.runtime.rundir import RunDir

from ..harness import until
from ..recordings import generated
from ..recordings.directories import GoingOn, recorded
from .test_lab import replay

pytestmark = pytest.mark.browser

ATTACH = "import nbtrain\nnbtrain.attach({!r})"
RUNS = "nbtrain:runs"

#: Notes what jumps inside of views of runs: by how much of the page (0 to 1), and what it is.
WATCH_SHIFTS = """() => {
    window.shifts = [];
    const inside = source => source.node?.parentElement?.closest('.nbt');
    const said = ({ node, previousRect: from, currentRect: to }) =>
        `${node.className || node.nodeName}: ${from.x},${from.y} to ${to.x},${to.y}`;
    new PerformanceObserver(list => {
        for (const entry of list.getEntries()) {
            const found = entry.sources.filter(inside);
            if (found.length) { window.shifts.push([entry.value, found.map(said)]); }
        }
    }).observe({ type: 'layout-shift', buffered: true });
}"""
FRAMES = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))"


@pytest.fixture
def home(person):
    yield person.server.home
    person.set(RUNS)


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
    tab.get_by_label("Search the log").fill("line 1234")
    expect(tab.get_by_role("log")).not_to_contain_text("line 39999 ü")
    with page.expect_download() as download:
        tab.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "digits-1-worker-1.log"
    whole = "".join(f"line {i} ü\n" for i in range(40_000))
    assert download.value.path().read_text("utf-8") == whole
    tab.get_by_role("tab", name="Overview").click()
    tab.get_by_role("button", name="Copy attach").click()
    expect(tab.get_by_role("alert")).to_have_text("Copied: nbtrain.attach('digits-1')")
    assert pasted(page) == "nbtrain.attach('digits-1')"


def test_context_menu_opens_a_run_downloads_its_model_and_deletes_it(person, home):
    page = person.page
    (recorded(home, "digits-1", "digits") / RunDir.MODEL).write_bytes(b"a model")
    person.enter()
    row = person.sidebar().locator('[data-run="digits-1"]')
    row.click(button="right")
    person.menu("Open run")
    tab = page.locator(".nbt-tab")
    expect(tab.get_by_role("tab", name="Overview")).to_have_attribute("aria-selected", "true")
    row.click(button="right")
    with page.expect_download() as download:
        person.menu("Download model")
    assert download.value.suggested_filename == "digits.keras"
    assert download.value.path().read_bytes() == b"a model"
    for answer, left in (("Cancel", 1), ("Delete", 0)):
        row.click(button="right")
        person.menu("Delete…")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("Delete digits?")
        dialog.get_by_role("button", name=answer).click()
        expect(row).to_have_count(left)
    expect(tab).to_have_count(0)


def test_palette_and_keys_are_about_the_newest_run(person, home):
    page = person.page
    recorded(home, "digits-1", "digits")
    recorded(home, "letters-1", "letters", 2.0)
    person.enter()
    # the sidebar itself: nothing of a run has been touched yet
    page.keyboard.press("Control+Alt+r")
    expect(page.locator(".nbt-sidebar .nbt-run")).to_have_count(2)
    page.keyboard.press("Control+Alt+l")
    tab = page.locator(".nbt-tab")
    expect(tab.get_by_role("tab", name="Logs")).to_have_attribute("aria-selected", "true")
    chosen(page, "Open run: letters")
    expect(tab.locator(".nbt-title")).to_contain_text("letters")
    chosen(page, "Copy name: letters")
    until(lambda: pasted(page) == "letters")
    chosen(page, "New example notebook")
    expect(page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")).to_contain_text("spirals")
    person.idle()


def chosen(page, command):
    """Choose a command from the palette."""
    page.keyboard.press("Control+Shift+c")
    page.keyboard.type(command)
    expect(page.locator(".lm-CommandPalette-item", has_text=command)).to_be_visible()
    page.keyboard.press("Enter")


def test_settings_switch_off_status_bar_and_notifications(person, home):
    page = person.page
    item = page.get_by_role("button", name="1 run training")
    with GoingOn(home, "told-1", "told", time.time()) as run:
        person.enter()
        sidebar = person.sidebar()
        expect(item).to_be_visible()
        run.finish()
        expect(page.locator(".Toastify__toast", has_text="told: trained")).to_be_visible()
        expect(item).to_be_hidden()
    person.set(RUNS, notify=False, statusBar=False)
    with GoingOn(home, "silent-1", "silent", time.time()) as run:
        person.enter()
        sidebar = person.sidebar()
        row = sidebar.locator('[data-run="silent-1"]')
        expect(row).to_contain_text("training")
        expect(page.locator("#jp-main-statusbar")).to_be_visible()
        page.evaluate(FRAMES)
        expect(item).to_be_hidden()
        run.finish()
        expect(row).to_contain_text("trained")
    assert told_until_now(person, row) == []


def test_nothing_is_told_of_a_run_that_is_in_view(person, home):
    person.write("seen.ipynb", ATTACH.format("seen-1"))
    with GoingOn(home, "seen-1", "seen", time.time()) as run:
        person.open("seen.ipynb")
        person.run(0)
        row = person.sidebar().locator('[data-run="seen-1"]')
        expect(person.view(0).locator(".nbt-title")).to_contain_text("training")
        run.finish()
        expect(row).to_contain_text("trained")
        expect(person.view(0).locator(".nbt-title")).to_contain_text("trained")
    assert told_until_now(person, row) == []


def told_until_now(person, row):
    """Return the notifications before one that is provoked now: they come in their order."""
    row.click(button="right")
    person.menu("Download model")  # it has none
    person.page.locator(".jp-Notification-Status").click()
    told = person.page.locator(".jp-Notification-List-Item")
    expect(told.filter(has_text="has no model.keras")).to_be_visible()
    return [text for text in told.all_inner_texts() if "has no model.keras" not in text]


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


def test_nothing_in_a_view_jumps_while_a_run_goes_on(person):
    page = person.page
    person.write("calm.ipynb", replay(generated.REAL, 8))
    person.open("calm.ipynb")
    page.evaluate(WATCH_SHIFTS)
    person.run(0)
    view = person.view(0)
    expect(view.locator(".nbt-plot")).to_have_count(2)
    expect(view.locator(".nbt-title")).to_contain_text("trained")
    shifts = page.evaluate("window.shifts")
    assert sum(value for value, _ in shifts) < 0.01, shifts
    # and what jumps would have been seen
    view.locator(".nbt-head").evaluate("head => { head.style.marginTop = '80px'; }")
    page.wait_for_function("window.shifts.some(([value]) => value > 0.01)")
