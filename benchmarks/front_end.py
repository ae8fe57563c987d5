"""What the live view costs in the kernel and in the browser, with a replayed run of 64 workers."""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from . import SMALL
from .report import Measure
from .section import Samples, Section

#: The recording, made 3.5 times as fast: five steps are told a second, which is the most that a
#: head tells.
SPEED = 3.5
#: How long each state is measured, in seconds.
WINDOW_S = 10.0
#: Begins to look out for the view of a run; `shown` becomes the seconds from shift-enter to it.
LOOK_OUT = """() => {
    let pressed = 0;
    const tell = () => { window.shown = (performance.now() - pressed) / 1000; };
    addEventListener("keydown", (event) => {
        if (event.key === "Enter" && event.shiftKey) pressed = performance.now();
    }, true);
    new MutationObserver((_, observer) => {
        if (!document.querySelector(".nbt .nbt-title")) return;
        observer.disconnect();
        // The frame after the one in which it is drawn: it is on the screen by then.
        requestAnimationFrame(() => requestAnimationFrame(tell));
    }).observe(document.body, { childList: true, subtree: true });
}"""


class FrontEnd(Section):
    """The widget in a real JupyterLab and Chromium."""

    name = "front-end"
    title = "The live view"
    about = """A recording of 64 workers ([made up](../tests/recordings/generated.py)) is replayed
in a notebook, so fast that five steps are told a second, the most that a real run tells. Measured
is the processor's time of the kernel, and of all of Chromium's processes (headless, without a
graphics card: it draws in software), against the same page before the run."""
    notes = """\
- *Appears*: from shift-enter in a `%%k8s_train` cell to the view of the run on the screen, where
  `%load_ext nbtrain` has been run.
- *Seen*: the widget is on the screen. *Unseen*: another tab of JupyterLab is before it.
- *Sent* is what the kernel sends to the browser in that time."""

    def lacking(self) -> str:
        """Return what this machine lacks."""
        from tests.cluster import machine
        from tools import frontend

        if lines := machine.browser_lacking():
            return lines[0]
        return "" if frontend.is_built() else "the front end is not built: tools/frontend.py build"

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Start JupyterLab and Chromium."""
        from tests.browser.person import chromium
        from tests.jupyter import jupyter

        with tempfile.TemporaryDirectory(prefix="nbtrain-bench-") as name:
            folder = Path(name)
            (folder / "fonts").mkdir()
            with (
                jupyter(folder / "notebooks", folder / "home") as self._server,
                chromium(folder / "fonts") as self._browser,
            ):
                yield

    def measure(self) -> dict[str, float]:
        """Measure a cell that trains, then what a view costs."""
        return {"appears": self._appears()} | self._costs()

    def _appears(self) -> float:
        """Return how long it takes a cell to show its run, in seconds."""
        from tests.browser.person import seated

        program = Path(__file__).with_name("programs.py").read_text("utf-8")
        setup = program.replace("from . import SMALL\n", f"SMALL = {SMALL!r}\n")
        setup += "%load_ext nbtrain"
        options = "--backend local --model model --dataset dataset --epochs 1 --name appears"
        with seated(self._browser, self._server) as person:
            person.write(
                "appears.ipynb", setup, f"%%k8s_train {options}\n# as above", "appears.delete()", ""
            )
            person.open("appears.ipynb")
            person.run(0)
            person.page.evaluate(LOOK_OUT)
            person.run(1)
            seconds: float = person.page.wait_for_function("window.shown").json_value()
            person.run(2)
        return seconds

    def _costs(self) -> dict[str, float]:
        """Measure a page at rest, then with the widget in view, then with it out of view."""
        from tests.browser.person import seated
        from tests.recordings import generated

        show = f"import nbtrain\nnbtrain.replay({str(generated.FILE)!r}, speed={SPEED})"
        with seated(self._browser, self._server) as person:
            # The last cell: JupyterLab would make one, with a cursor that is drawn as well.
            person.write("cost.ipynb", "import nbtrain.widget", show, "")
            person.open("cost.ipynb")
            person.run(0)
            found = _named("rest", _watched(person))
            person.run(1, wait=False)
            title = person.view(1).locator(".nbt-title")
            title.filter(has_text=re.compile("training.*step")).wait_for()
            found |= _named("seen", _watched(person))
            person.page.get_by_role("menuitem", name="File", exact=True).click()
            person.page.get_by_role("menuitem", name="New Launcher").click()
            person.page.locator(".jp-LauncherCard").first.wait_for()
            return found | _named("unseen", _watched(person))

    def table(self, samples: Samples) -> list[Measure]:
        """Return the lines of the table with the goals of the project."""

        def cost(name: str, process: str, state: str) -> Measure:
            ours, rest = samples[f"{state}.{process}"], samples[f"rest.{process}"]
            return Measure(f"{name}, {state}", "% of a core", 5.0, ours, rest, difference=True)

        return [
            Measure("The view appears after", "s", 0.3, samples["appears"]),
            cost("Kernel", "kernel", "seen"),
            cost("Chromium", "browser", "seen"),
            cost("Chromium", "browser", "unseen"),
            Measure("Sent, seen", "kB/s", 250.0, samples["seen.sent"]),
        ]


def _named(state: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{state}.{name}": value for name, value in values.items()}


def _watched(person: Any) -> dict[str, float]:
    """Return what is used in a while: parts of a core in percent, and kB/s that are sent."""
    kernel, browser = _processes(person.server)
    received = [0]
    session = person.page.context.new_cdp_session(person.page)
    session.on("Network.webSocketFrameReceived", lambda event: _count(received, event))
    session.send("Network.enable")
    before, began = (_seconds(kernel), _seconds(browser)), time.monotonic()
    person.page.wait_for_timeout(1000 * WINDOW_S)
    passed = time.monotonic() - began
    after = _seconds(kernel), _seconds(browser)
    session.detach()
    return {
        "kernel": 100 * (after[0] - before[0]) / passed,
        "browser": 100 * (after[1] - before[1]) / passed,
        "sent": received[0] / passed / 1000,
    }


def _count(received: list[int], event: Any) -> None:
    received[0] += len(event["response"]["payloadData"])


def _processes(server: Any) -> tuple[list[Any], list[Any]]:
    """Return the kernel of the server, and the processes of this one's browser."""
    import psutil

    (kernel,) = server.json("api/kernels")
    ours = psutil.Process().children(recursive=True)
    lines = {process: " ".join(process.cmdline()) for process in ours}
    kernels = [p for p, line in lines.items() if kernel["id"] in line]
    return kernels, [p for p, line in lines.items() if "chrom" in line and "--type" in line]


def _seconds(processes: Iterable[Any]) -> float:
    import psutil

    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):  # one that has ended
            used = process.cpu_times()
            total += used.user + used.system
    return total
