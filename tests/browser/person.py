"""A person before JupyterLab: Chromium, and what one does with it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Locator,
    Page,
    expect,
    sync_playwright,
)

from ..cluster import machine
from ..jupyter import ROOT, TOKEN, Jupyter

AXE = ROOT / "labextension" / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")

#: Notebook 7.6 throws this while it loads settings, also without nbtrain.
NOTEBOOKS_OWN = re.compile(r"reading 'schema'\).*/static/notebook/notebook_core", re.DOTALL)

#: How long a person would wait, in milliseconds; on a machine that does other things as well.
PATIENCE = 120_000
expect.set_options(timeout=PATIENCE)


#: Chromium knows these fonts and no others, whatever else is installed: screenshots are compared.
FONTS = """\
<fontconfig>
  <dir>{folder}</dir><cachedir>{folder}/cache</cachedir>
  <alias><family>sans-serif</family><prefer><family>DejaVu Sans</family></prefer></alias>
  <alias><family>serif</family><prefer><family>DejaVu Serif</family></prefer></alias>
  <alias><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
</fontconfig>"""
FAMILIES = [f"DejaVu{name}.ttf" for name in ("Sans", "Sans-Bold", "SansMono", "SansMono-Bold")]


@contextlib.contextmanager
def chromium(fonts: Path) -> Iterator[Browser]:
    """Start Chromium; `fonts` is an empty folder."""
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    assert path is not None, "Chromium is not installed"
    for name in FAMILIES:
        (fonts / name).symlink_to(Path(machine.BROWSER["fonts-dejavu-core"]).with_name(name))
    (fonts / "fonts.conf").write_text(FONTS.format(folder=fonts))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--font-render-hinting=none", "--disable-lcd-text"],
            env=os.environ | {"FONTCONFIG_FILE": str(fonts / "fonts.conf")},
        )
        yield browser
        browser.close()


class Person:
    """Somebody before a browser."""

    def __init__(self, page: Page, server: Jupyter) -> None:
        self.page, self.server = page, server
        self.errors: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.errors.append(f"{error} {error.stack}"))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url')})")

    def write(self, name: str, *cells: str) -> Path:
        """Lay a notebook."""
        path = self.folder / name
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        made.metadata["kernelspec"] = {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
        nbformat.write(made, path)
        return path

    @property
    def folder(self) -> Path:
        return self.server.home.parent / "notebooks"

    def open(self, name: str, where: str = "lab/tree/") -> None:
        """Open a notebook and wait until its kernel is there."""
        self.page.goto(f"{self.server.url}{where}{name}?token={TOKEN}&reset")
        self.page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        self.idle()

    def enter(self) -> None:
        """Open JupyterLab with nothing but its launcher."""
        self.page.goto(f"{self.server.url}lab?token={TOKEN}&reset")
        self.page.locator(".jp-Launcher").first.wait_for()

    def sidebar(self):
        """Open the sidebar of the runs, and return it."""
        self.page.locator('[data-id="nbtrain-runs"]').click()
        return self.page.get_by_role("region", name="Training runs")

    def menu(self, *names: str) -> None:
        """Choose from JupyterLab's menus, whose entries may have their keys beside them."""
        for name in names:
            entry = re.compile(rf"^{re.escape(name)}\s*(((Ctrl|Shift|Alt)\+|\d,).*)?$")
            self.page.get_by_role("menuitem", name=entry).click()

    def idle(self) -> None:
        """Wait until the kernel has nothing to do, as JupyterLab's status bar has it."""
        panel = self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
        indicator = panel.locator(".jp-Notebook-ExecutionIndicator")
        expect(indicator.first).to_have_attribute("data-status", "idle", timeout=PATIENCE)
        if "/notebooks/" not in self.page.url:  # Notebook 7 has no status bar
            self.page.get_by_text("| Idle").first.wait_for()

    def run(self, index: int, *, wait: bool = True) -> None:
        """Run a cell with shift-enter, and wait for its number unless told otherwise."""
        cell = self.cell(index)
        prompt = cell.locator(".jp-InputPrompt").first
        for _ in range(10):
            cell.locator(".cm-content").click()
            self.page.keyboard.press("Shift+Enter")
            # JupyterLab may say that the kernel is idle and yet not take a cell: press again.
            with contextlib.suppress(AssertionError):
                expect(prompt).not_to_have_text("[ ]:", timeout=3000)
                break
        if wait:
            expect(prompt).to_have_text(re.compile(r"\[\d+\]"), timeout=PATIENCE)

    def cell(self, index: int):
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def view(self, index: int):
        """Return the view of a run in the output of a cell."""
        return self.cell(index).locator(".jp-OutputArea-output .nbt")

    def set(self, plugin: str, **values: object) -> None:
        """Choose settings of a plugin before JupyterLab is opened; all others are the default."""
        path, raw = f"lab/api/settings/{plugin}", json.dumps(values)
        assert self.server.status(path, "PUT", {"raw": raw}) == 204

    def theme(self, name: str) -> None:
        """Choose JupyterLab's theme ("Light", "Dark", ...) before it is opened."""
        self.set("@jupyterlab/apputils-extension:themes", theme=f"JupyterLab {name}")

    def picture(self, top: Locator, bottom: Locator) -> bytes:
        """Photograph what is between the top of an element and the bottom of another one."""
        first, last = top.bounding_box(), bottom.bounding_box()
        assert first is not None
        assert last is not None
        height = last["y"] + last["height"] + 8 - first["y"]
        return self.page.screenshot(clip={**first, "height": height}, animations="disabled")

    def barriers(self, *selectors: str) -> list[str]:
        """Return what axe-core finds serious in the parts that are nbtrain's."""
        self.page.evaluate(AXE.read_text("utf-8"))
        found = self.page.evaluate(
            "selectors => axe.run({include: selectors.map(s => [s])})", list(selectors)
        )
        return [
            f"{one['id']}: {node['html'][:120]} {node['failureSummary'][:300]}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]


@contextlib.contextmanager
def seated(browser: Browser, server: Jupyter) -> Iterator[Person]:
    """Seat a person before a server; what the browser's console complains of is an error."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    person = Person(context.new_page(), server)
    try:
        yield person
    finally:
        context.close()
        for kernel in server.json("api/sessions"):
            server.status(f"api/sessions/{kernel['id']}", "DELETE")
        for run in server.json("nbtrain/api/runs")["runs"]:
            server.status(f"nbtrain/api/runs/{run['id']}", "DELETE")
    errors = [error for error in person.errors if not NOTEBOOKS_OWN.search(error)]
    assert not errors, "\n".join(errors)
