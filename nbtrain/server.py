"""Jupyter Server extension: the runs as a REST API and one live stream, for JupyterLab.

It stands behind the server's own authentication, authorization and XSRF check, and knows of runs
what `nbtrain` tells everybody. `openapi.yaml` beside this file describes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.extension.application import ExtensionApp
from jupyter_server.utils import url_path_join
from tornado import web
from tornado.iostream import StreamClosedError

from . import asked
from .errors import NbtrainError
from .run import Run, runs
from .state import RunState
from .view import summary, view
from .watching import FRESH_S, Watcher

#: A comment is sent after so many seconds without news, so that no proxy takes the stream for dead.
HEARTBEAT_S = 15.0
#: At most this many events a second go to one client.
PER_SECOND = 5

_T = TypeVar("_T")


class _Handler(APIHandler):
    """What all of them share."""

    auth_resource = "nbtrain"

    @property
    def watcher(self) -> Watcher:
        watcher: Watcher = self.settings["nbtrain_watcher"]
        return watcher

    async def found(self, run_id: str) -> Run:
        """Return a run, or answer that there is none."""
        run = await self.watcher.find(run_id)
        if run is None:
            raise web.HTTPError(404, f"There is no run {run_id}.")
        return run

    async def told(self, call: Callable[..., _T], *given: Any) -> _T:
        """Call what may take its time in a thread; errors that nbtrain explains are answers."""
        try:
            return await asyncio.to_thread(call, *given)
        except FileNotFoundError:
            raise web.HTTPError(404, "There is no such file.") from None
        except NbtrainError as error:
            raise web.HTTPError(409, str(error).replace("%", "%%")) from None


class RunsHandler(_Handler):
    """All runs, newest first."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with a summary of each."""
        await self.watcher.refresh(FRESH_S)
        now = time.time()
        found = [summary(state, now) for state in _newest(self.watcher.states.values())]
        self.finish({"runs": found, "problems": self.watcher.problems})


class RunHandler(_Handler):
    """One run."""

    @web.authenticated
    @authorized
    async def get(self, run_id: str) -> None:
        """Answer with all there is to draw."""
        run = await self.found(run_id)
        self.finish(view(await self.told(lambda: run.state), time.time()))

    @web.authenticated
    @authorized
    async def delete(self, run_id: str) -> None:
        """Remove it and its files."""
        run = await self.found(run_id)
        await self.told(run.delete)
        await self.watcher.refresh()
        self.set_status(204)
        self.finish()


class StopHandler(_Handler):
    """Stops a run."""

    @web.authenticated
    @authorized
    async def post(self, run_id: str) -> None:
        """Ask it to stop; the answer doesn't wait for the end."""
        run = await self.found(run_id)
        body = self.get_json_body() or {}
        grace = body.get("grace", 120.0)
        if not isinstance(grace, (int, float)) or grace < 0:
            raise web.HTTPError(400, "grace: a number of seconds, 0 or more")
        await self.told(asked.answers(run)["stop"], float(grace))
        self.set_status(202)
        self.finish()


class CardHandler(_Handler):
    """The model card of a run that has ended."""

    @web.authenticated
    @authorized
    async def get(self, run_id: str) -> None:
        """Answer with it."""
        run = await self.found(run_id)
        if run.state.live:
            raise web.HTTPError(409, "The model card is written at the end of the run.")
        self.finish(await self.told(lambda: run.card))


class LogHandler(_Handler):
    """A worker's log, in pieces."""

    @web.authenticated
    @authorized
    async def get(self, run_id: str, worker: str) -> None:
        """Answer with the piece from `offset` on, the end of the log by default."""
        run = await self.found(run_id)
        try:
            offset = int(self.get_query_argument("offset", "-1"))
            limit = int(self.get_query_argument("limit", str(asked.PIECE)))
        except ValueError:
            raise web.HTTPError(400, "offset and limit are whole numbers of bytes") from None
        limit = min(max(limit, 1), asked.PIECE)
        self.finish(await self.told(asked.log_piece, run, int(worker), offset, limit))


class FilesHandler(_Handler):
    """The files of a run."""

    @web.authenticated
    @authorized
    async def get(self, run_id: str) -> None:
        """Answer with their names and sizes."""
        run = await self.found(run_id)
        self.finish({"files": await self.told(_index, run)})


class FileHandler(_Handler):
    """One file of a run, to be downloaded."""

    @web.authenticated
    @authorized
    async def get(self, run_id: str, path: str) -> None:
        """Answer with its bytes; only what the index has can be read."""
        run = await self.found(run_id)
        if path not in {entry["path"] for entry in await self.told(_index, run)}:
            raise web.HTTPError(404, "There is no such file.")
        self.set_header("Content-Type", "application/octet-stream")
        # Without a name: that of the address, or the one that a link proposes.
        self.set_header("Content-Disposition", "attachment")
        with contextlib.suppress(StreamClosedError):  # they have cancelled the download
            async for piece in _in_thread(run.read(path)):
                self.write(piece)
                await self.flush()
        self.finish()


class TensorBoardHandler(_Handler):
    """The logs of a run for TensorBoard."""

    @web.authenticated
    @authorized
    async def post(self, run_id: str) -> None:
        """Copy them into a folder beside the notebooks, and answer where that is."""
        run = await self.found(run_id)
        root = Path(self.settings["server_root_dir"]).expanduser()
        self.finish(await self.told(asked.tensorboard_folder, run, root))


class ExportHandler(_Handler):
    """A run as YAML for `kubectl apply`."""

    @web.authenticated
    @authorized
    async def get(self, run_id: str) -> None:
        """Answer with it; it holds a token, so it is not to be kept anywhere on the way."""
        from .training import exported_run

        run = await self.found(run_id)
        text = await self.told(exported_run, run)
        self.set_header("Content-Type", "application/yaml")
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Disposition", f'attachment; filename="{run.name}.yaml"')
        self.finish(text)


class EventsHandler(_Handler):
    """The live stream, as server-sent events: of all runs, or with `?run=ID` of one."""

    def get_content_type(self) -> str:  # noqa: D102  APIHandler's
        return "text/event-stream"

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Send the runs as they are, then whatever changes, until the client goes."""
        run = self.get_query_argument("run", None)
        if run is not None:
            (await self.found(run)).follow()
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Accel-Buffering", "no")  # nginx would wait for more
        self._task = asyncio.current_task()
        with contextlib.suppress(StreamClosedError, asyncio.CancelledError):
            await self._follow(_Changes() if run is None else _OneRun(run))

    def on_connection_close(self) -> None:
        """End the stream of a client that is gone."""
        super().on_connection_close()
        task = getattr(self, "_task", None)
        if task is not None:
            task.cancel()

    async def _follow(self, news: _Changes | _OneRun) -> None:
        said = time.monotonic()
        changes = self.watcher.changes()
        async with contextlib.aclosing(changes):
            async for _ in changes:
                data = news(self.watcher, time.time())
                if data is not None:
                    self.write(f"data: {json.dumps(data)}\n\n")
                elif time.monotonic() - said > HEARTBEAT_S:
                    self.write(": nothing new\n\n")
                else:
                    continue
                said = time.monotonic()
                await self.flush()
                await asyncio.sleep(1 / PER_SECOND)


class _Changes:
    """What is new in the list of runs since the last time."""

    def __init__(self) -> None:
        self._told: dict[str, Any] | None = None
        self._problems: list[str] = []

    def __call__(self, watcher: Watcher, now: float) -> dict[str, Any] | None:
        runs = {run_id: summary(state, now) for run_id, state in watcher.states.items()}
        told, self._told = self._told, runs
        problems, self._problems = self._problems, watcher.problems
        news = {"gone": [], "all": told is None, "problems": self._problems}
        if told is None:
            return {"runs": list(runs.values()), **news}
        changed = [run for run_id, run in runs.items() if told.get(run_id) != run]
        news["gone"] = [run_id for run_id in told if run_id not in runs]
        same = not changed and not news["gone"] and problems == self._problems
        return None if same else {"runs": changed, **news}


class _OneRun:
    """What is to be drawn of one run, if it is other than the last time."""

    def __init__(self, run_id: str) -> None:
        self._id = run_id
        self._told: dict[str, Any] | None = None

    def __call__(self, watcher: Watcher, now: float) -> dict[str, Any] | None:
        state = watcher.states.get(self._id)
        drawn = {"gone": True} if state is None else view(state, now)
        told, self._told = self._told, drawn
        return drawn if drawn != told else None


def _newest(states: Any) -> list[RunState]:
    return sorted(states, key=lambda state: -state.created)


def _index(run: Run) -> list[dict[str, Any]]:
    index: list[dict[str, Any]] = json.loads(b"".join(run.read("")))
    return index


async def _in_thread(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece


_ID, _PATH = r"([\w.-]+)", r"(.+)"

#: The paths below `nbtrain/api/`, as in openapi.yaml.
ROUTES: list[tuple[str, type[_Handler]]] = [
    ("runs", RunsHandler),
    (f"runs/{_ID}", RunHandler),
    (f"runs/{_ID}/stop", StopHandler),
    (f"runs/{_ID}/card", CardHandler),
    (rf"runs/{_ID}/logs/(\d+)", LogHandler),
    (f"runs/{_ID}/files", FilesHandler),
    (f"runs/{_ID}/files/{_PATH}", FileHandler),
    (f"runs/{_ID}/tensorboard", TensorBoardHandler),
    (f"runs/{_ID}/export", ExportHandler),
    ("events", EventsHandler),
]


class NbtrainApp(ExtensionApp):
    """The extension; `jupyter server extension list` shows it as `nbtrain.server`."""

    name = "nbtrain"
    load_other_extensions = True

    def initialize_settings(self) -> None:
        """Have one watcher for all clients."""
        self.settings["nbtrain_watcher"] = Watcher(runs)

    def initialize_handlers(self) -> None:
        """Put the API below the server's base URL."""
        self.handlers.extend((url_path_join("nbtrain", "api", path), h) for path, h in ROUTES)

    async def stop_extension(self) -> None:
        """Look at no run any more."""
        self.settings["nbtrain_watcher"].close()


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    return [{"module": "nbtrain.server", "app": NbtrainApp}]
