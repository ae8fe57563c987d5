"""JupyterLab as a person uses it: a real browser, a real server, real runs."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import nbformat
import pytest
from playwright.sync_api import expect

from nbtrain.runtime.events import encode

from ..event_streams import with_user_error
from ..harness import until
from ..jupyter import ROOT
from ..recordings import generated
from ..recordings.directories import GoingOn, recorded
from .person import seated
from .screens import compare, compare_size

pytestmark = pytest.mark.browser

SETUP = """\
import numpy as np
%load_ext nbtrain
rng = np.random.default_rng(0)
x = rng.normal(size=(20_000, 8)).astype("float32")
y = (x.sum(1) > 0).astype("float32")"""

TRAIN = """\
%%k8s_train --workers 2 --epochs {epochs} --batch 64 --seed 42 --name sums
def model():
    import keras
    m = keras.Sequential([keras.layers.Dense(32, "relu"), keras.layers.Dense(1, "sigmoid")])
    m.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return m

def dataset():
    return x[:16_000], y[:16_000]

def validation():
    return x[16_000:], y[16_000:]"""

TENSORBOARD = """

def callbacks():
    import keras
    return [keras.callbacks.TensorBoard("tb")]"""

THEMES = ["Light", "Dark", "Dark High Contrast"]

#: Ages that are told in hours and days stay the same while the tests run.
HOUR = 3600

REPLAY = "import nbtrain\nnbtrain.replay({file!r}, speed={speed})"


def replay(file, speed=1e6):
    return REPLAY.format(file=str(file), speed=speed)


def test_run_is_followed_attached_again_and_stopped_while_the_kernel_is_blocked(person):
    page = person.page
    person.write("train.ipynb", SETUP, TRAIN.format(epochs=300), "", "sums.model")
    person.open("train.ipynb")
    person.run(0)
    person.run(1)
    view = person.view(1)
    expect(view).to_be_visible()
    progress_moves(view)

    # so do the workers' examples/s and memory, in the strip and in its tooltips
    worker = view.locator(".nbt-worker").nth(1)
    expect(worker).to_contain_text(re.compile(r"\d examples/s · [\d.]+ [MG]B"))
    expect(worker).to_have_attribute("title", re.compile(r"training.* examples/s · [\d.]+ [MG]B"))

    # the sidebar and the status bar know it
    sidebar = person.sidebar()
    expect(sidebar.locator(".nbt-run")).to_have_count(1)
    expect(page.get_by_role("button", name="1 run training")).to_be_visible()

    # the run goes on while the kernel is restarted, and is taken into the notebook again
    person.menu("Kernel", "Restart Kernel…")
    page.get_by_role("button", name="Confirm Kernel Restart").click()
    person.idle()
    person.cell(2).locator(".cm-content").click()
    sidebar.locator(".nbt-run").click(button="right")
    person.menu("Attach in notebook")
    person.run(3)
    view = person.view(3)
    progress_moves(view)

    # a log is followed while the kernel waits in `.model`
    person.run(4, wait=False)
    view.get_by_role("button", name="Logs").click()
    log = view.get_by_role("log")
    expect(log).to_contain_text("Epoch 1/300")
    expect(log).to_contain_text("Epoch 2/300")

    # stopped while the kernel is blocked
    assert (
        page.locator(".jp-Notebook-ExecutionIndicator").first.get_attribute("data-status") == "busy"
    )
    view.get_by_role("button", name="Stop").click()
    expect(view.locator(".nbt-title")).to_contain_text("stopped")
    expect(person.cell(4).locator(".jp-OutputArea-output")).to_contain_text("Sequential")
    expect(sidebar.locator(".nbt-doing")).to_have_text("stopped")

    # the report that is kept takes the place of the live one, and the log stays open
    kept = person.cell(3).locator('[data-mime-type="application/vnd.nbtrain.run+json"]')
    expect(kept.get_by_role("log")).to_contain_text("Epoch 2/300")


def progress_moves(view):
    steps = view.get_by_role("progressbar", name="steps")
    expect(steps).not_to_have_attribute("aria-valuetext", "–")
    first = steps.get_attribute("aria-valuetext")
    expect(steps).not_to_have_attribute("aria-valuetext", first)


def test_all_of_a_run_is_in_its_tab_and_delete_asks_first(person):
    page = person.page
    person.write("tab.ipynb", SETUP, TRAIN.format(epochs=2) + TENSORBOARD, "sums.wait()")
    person.open("tab.ipynb")
    for index in range(3):
        person.run(index)
    sidebar = person.sidebar()
    sidebar.locator(".nbt-row").first.click()
    tab = page.locator(".nbt-tab")
    expect(tab.locator(".nbt-title")).to_contain_text("trained")
    for name, there in (
        ("Workers", "done"),
        ("Logs", "Epoch 2/2"),
        ("Code and data", "def model():"),
        ("Files", "model.keras"),
    ):
        tab.get_by_role("tab", name=name, exact=True).click()
        expect(tab.get_by_role("tabpanel")).to_contain_text(there)
        assert person.barriers(".nbt-tab") == []
    with page.expect_download() as download:
        tab.get_by_role("link", name="history.json").click()
    assert b"accuracy" in download.value.path().read_bytes()
    tab.get_by_role("tab", name="Logs", exact=True).click()
    page.keyboard.press("ArrowLeft")
    expect(tab.get_by_role("tab", name="Workers")).to_be_focused()
    tab.get_by_role("tab", name="Overview").click()
    tab.get_by_role("button", name="TensorBoard").click()
    folder = person.folder / "sums-tensorboard"
    expect(tab.get_by_role("alert")).to_have_text(f"tensorboard --logdir {folder} shows the logs")
    assert list(folder.glob("tb/validation/events.out.tfevents.*"))
    before = sidebar.locator(".nbt-run").count()
    tab.get_by_role("button", name="Delete").click()
    tab.get_by_role("button", name="Delete for good?").click()
    expect(sidebar.locator(".nbt-run")).to_have_count(before - 1)
    expect(tab).to_have_count(0)


@pytest.mark.parametrize("theme", THEMES)
def test_cells_look_as_in_the_docs_and_nobody_is_shut_out(person, theme):
    page = person.page
    person.write("look.ipynb", *map(replay, (generated.REAL, generated.FILE, failed(person))),
                 'import nbtrain\nnbtrain.attach("live-1")')  # fmt: skip
    person.theme(theme)
    with GoingOn(person.server.home, "live-1", "live", time.time()):
        person.open("look.ipynb")
        for index in range(3):
            person.run(index)
            expect(person.view(index).locator(".nbt-title")).to_contain_text(
                re.compile("trained|failed")
            )
        person.run(3)
        person.view(3).get_by_role("button", name="Logs").click()
        expect(person.view(3).get_by_role("log")).to_contain_text("Epoch 1/5")
        page.mouse.move(0, 0)
        assert person.barriers(".jp-OutputArea-output .nbt") == []
        for index, name in enumerate(("two-workers", "sixty-four-workers", "error")):
            person.view(index).scroll_into_view_if_needed()
            page.mouse.move(0, 0)
            taken = person.view(index).screenshot(animations="disabled")
            compare(taken, f"{name}-{slug(theme)}")


@pytest.mark.parametrize("theme", THEMES)
def test_sidebar_and_tab_look_as_in_the_docs_and_nobody_is_shut_out(person, theme):
    page, home, now = person.page, person.server.home, time.time()
    recorded(home, "digits-1", "digits", now - 30 * HOUR)
    recorded(home, "pictures-1", "pictures", now - 84 * HOUR, generated.FILE)
    recorded(home, "letters-1", "letters", now - 204 * HOUR, failed(person))
    person.theme(theme)
    with GoingOn(home, "spirals-1", "spirals", now - 3.5 * HOUR):
        person.enter()
        sidebar = person.sidebar()
        rows = sidebar.locator(".nbt-run")
        expect(rows).to_have_count(4)
        expect(rows.last).to_contain_text("failed")
        page.mouse.move(0, 0)
        assert person.barriers(".nbt-sidebar") == []
        compare(person.picture(sidebar, rows.last), f"sidebar-{slug(theme)}")
        sidebar.locator('[data-run="digits-1"] .nbt-row').click()
        tab = page.locator(".nbt-tab")
        for name, there in (("Overview", "trained"), ("Workers", "done")):
            tab.get_by_role("tab", name=name, exact=True).click()
            panel = tab.get_by_role("tabpanel")
            expect(panel).to_contain_text(there)
            page.mouse.move(0, 0)
            assert person.barriers(".nbt-tab") == []
            taken = person.picture(tab, panel.locator("> *"))
            compare(taken, f"tab-{name.lower()}-{slug(theme)}")


def failed(person):
    """Return the recording of a run that ends in an error of the user's."""
    path = person.folder / "failed.jsonl"
    path.write_text("".join(f"{encode(event)}\n" for event in with_user_error()))
    return path


def slug(theme):
    return theme.lower().replace(" ", "-")


def test_the_docs_show_a_run_of_the_digits_notebook(person):
    page, home, now = person.page, person.server.home, time.time()
    recorded(home, "letters-1", "letters", now - 30 * HOUR)
    recorded(home, "pictures-1", "pictures", now - 84 * HOUR, generated.FILE)
    example = nbformat.read(ROOT / "example_notebooks" / "01_digits.ipynb", as_version=4)
    tagged = {tag: c.source for c in example.cells for tag in c.metadata.get("tags", ())}
    long = tagged["train"].replace("--epochs 5", "--epochs 40")  # five are over in a moment
    assert long != tagged["train"]
    person.write("digits.ipynb", tagged["data"], "%load_ext nbtrain", long)
    person.theme("Light")
    page.set_viewport_size({"width": 1280, "height": 1100})
    person.open("digits.ipynb")
    rows = person.sidebar().locator(".nbt-run")
    for index in range(3):
        person.run(index)
    view = person.view(2)
    expect(view.locator(".nbt-title")).to_contain_text(re.compile(r"epoch [123]\d/40"))
    expect(view.locator(".nbt-plot")).to_have_count(2)
    expect(view.locator(".nbt-worker").first).to_contain_text(re.compile(r"[1-9]\d* examples/s"))
    expect(rows).to_have_count(3)
    view.scroll_into_view_if_needed()
    page.mouse.move(0, 0)
    compare_size(person.cell(2).screenshot(animations="disabled"), "cell")
    compare_size(page.screenshot(animations="disabled"), "jupyterlab")


def test_what_nobody_sees_is_not_drawn(person):
    page = person.page
    person.write("hidden.ipynb", replay(generated.FILE, 20).replace("nbtrain.r", "r = nbtrain.r")
                 + "\nr", "r.wait()")  # fmt: skip
    person.open("hidden.ipynb")
    person.run(0)
    person.run(1, wait=False)
    view = person.view(0)
    view.evaluate(
        """view => {
            window.drawn = 0;
            const seen = new MutationObserver(() => { window.drawn += 1; });
            seen.observe(view, { subtree: true, childList: true, characterData: true });
        }"""
    )
    page.wait_for_function("window.drawn > 5")
    person.menu("File", "New Launcher")
    expect(view).to_be_hidden()
    two_frames = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    page.evaluate(f"{two_frames}.then(() => {{ window.drawn = 0; }})")
    until(lambda: person.server.json("api/kernels")[0]["execution_state"] == "idle")
    assert page.evaluate("window.drawn") == 0
    page.get_by_role("tab", name="hidden.ipynb").click()
    expect(person.view(0).locator(".nbt-title")).to_contain_text("trained")


def test_narrow_outputs_and_large_type_need_no_sideways_scrolling(person):
    person.write("narrow.ipynb", replay(generated.FILE, 2), replay(generated.FILE))
    person.open("narrow.ipynb")
    person.run(0)
    expect(person.view(0).locator("thead th")).to_have_count(3)  # live: "so far" as well
    person.run(1)
    expect(person.view(1)).to_contain_text("trained")
    for width in (900, 640):  # the sidebar takes 300 of it; 640 is 1280 at 200 %
        person.page.set_viewport_size({"width": width, "height": 900})
        for view in (person.view(0), person.view(1)):
            view.scroll_into_view_if_needed()
            until(lambda view=view: view.evaluate("e => e.scrollWidth <= e.clientWidth + 1"))
            assert view.locator(".nbt-plot").first.bounding_box()["height"] > 60


def test_saved_notebook_shows_the_report_without_a_kernel_and_in_nbconvert(person):
    page = person.page
    path = person.write("saved.ipynb", replay(generated.REAL))
    person.open("saved.ipynb")
    person.run(0)
    expect(person.view(0)).to_contain_text("trained")
    page.keyboard.press("Control+s")
    until(lambda: "vnd.nbtrain.run+json" in path.read_text("utf-8"))
    assert "widget-view" not in path.read_text("utf-8")
    for kernel in person.server.json("api/kernels"):
        person.server.status(f"api/kernels/{kernel['id']}", "DELETE")
    page.goto(page.url.split("?")[0])
    expect(person.view(0)).to_contain_text("6 epochs in 32 s")
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--stdout", str(path)]
    page_html = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "6 epochs in 32 s" in page_html
    assert "Loading widget" not in page_html


def test_run_that_ends_out_of_sight_is_told_and_can_be_opened(person):
    page = person.page
    person.write("away.ipynb", SETUP, TRAIN.format(epochs=3).replace("sums", "away"))
    person.open("away.ipynb")
    person.run(0)
    person.run(1)
    expect(person.view(1)).to_be_visible()
    person.menu("File", "New Launcher")
    until(lambda: not person.server.json("nbtrain/api/runs")["runs"][0]["live"], 240)
    toast = page.locator(".Toastify__toast", has_text="away: trained")
    expect(toast).to_be_visible()
    toast.get_by_role("button", name="Open").click()
    expect(page.locator(".nbt-tab .nbt-title")).to_contain_text("away")


def test_launcher_opens_an_example_that_trains(person):
    page = person.page
    person.write("first.ipynb", "1")
    person.open("first.ipynb")
    person.menu("File", "New Launcher")
    page.locator(".jp-LauncherCard", has_text="Distributed training").first.click()
    shown = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
    expect(shown).to_contain_text("spirals")
    person.idle()
    person.menu("Run", "Run All Cells")
    title = shown.locator(".jp-OutputArea-output .nbt .nbt-title")
    expect(title).to_contain_text(re.compile(r"epoch \d+/10"))
    expect(title).to_contain_text("trained")


def test_options_of_the_first_line_complete_and_the_others_stay_python(person):
    page = person.page
    train = "%%k8s_train --workers 2\ndef model():\n    return None"
    person.write("complete.ipynb", "%load_ext nbtrain", "%%k8s_train --work", train)
    person.open("complete.ipynb")
    person.run(0)
    person.cell(1).locator(".cm-content").click()
    page.keyboard.press("End")
    page.keyboard.press("Tab")
    expect(page.locator(".jp-Completer")).to_contain_text("--workers")
    page.keyboard.press("Enter")
    expect(person.cell(1).locator(".cm-content")).to_contain_text("--workers")

    # as the editor colours keywords of Python
    line = person.cell(2).locator(".cm-line").nth(1)
    of_keywords = page.evaluate(
        """() => {
            const shown = document.body.appendChild(document.createElement('span'));
            shown.style.color = 'var(--jp-mirror-editor-keyword-color)';
            return getComputedStyle(shown).color;
        }"""
    )
    expect(line.get_by_text("def", exact=True)).to_have_css("color", of_keywords)
    expect(line).not_to_have_css("color", of_keywords)


def test_notebook_7_trains_and_shows_the_same(browser, tmp_path, serve):
    folder, home = tmp_path / "notebooks", tmp_path / "home"
    with (
        serve(folder, home, program="notebook") as server,
        seated(browser, server) as person,
    ):
        person.write("seven.ipynb", SETUP, TRAIN.format(epochs=2))
        person.open("seven.ipynb", "notebooks/")
        person.run(0)
        person.run(1)
        view = person.view(1)
        expect(view.get_by_role("progressbar", name="epochs")).to_be_visible()
        expect(view.get_by_role("button", name="Stop")).to_be_enabled()
        expect(view.locator(".nbt-title")).to_contain_text("trained")
        view.get_by_role("button", name="Logs").click()
        expect(view.get_by_role("log")).to_contain_text("Epoch 2/2")


def test_jupyterhub_prefix_changes_nothing(browser, tmp_path, serve):
    folder, home = tmp_path / "notebooks", tmp_path / "home"
    with (
        serve(folder, home, base_url="/hub/user/ann/") as server,
        seated(browser, server) as person,
    ):
        person.write("hub.ipynb", SETUP, TRAIN.format(epochs=300))
        person.open("hub.ipynb")
        sidebar = person.sidebar()
        expect(sidebar).to_contain_text("No runs yet")
        person.run(0)
        person.run(1)
        view = person.view(1)
        view.get_by_role("button", name="Logs").click()
        expect(view.get_by_role("log")).to_contain_text("Epoch 1/300")
        row = sidebar.locator(".nbt-row")
        row.click(button="right")
        person.menu("Stop")
        expect(view.locator(".nbt-title")).to_contain_text("stopped")
        row.click()
        tab = person.page.locator(".nbt-tab")
        expect(tab.locator(".nbt-title")).to_contain_text("stopped")
        tab.get_by_role("tab", name="Files", exact=True).click()
        with person.page.expect_download() as download:
            tab.get_by_role("link", name="events.jsonl").click()
        assert b'"stopped"' in download.value.path().read_bytes()
