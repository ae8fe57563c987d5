"""The handle of a run: what a cell leaves in the notebook."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import backends
from .backend import Backend, Placement, RunRef
from .backends.results import OrResults, ResultsBackend, forget
from .errors import (
    BackendError,
    NameInUse,
    NbtrainError,
    NoSuchRun,
    NotReady,
    NotStarted,
    RehearsalFailed,
    RunFailed,
    RunStopped,
    WaitInterrupted,
    WaitTimeout,
    nearest,
)
from .files import RunPath, logs_in
from .runtime import events
from .runtime.events import Event
from .runtime.request import TrainRequest
from .runtime.rundir import RunDir
from .starting import Start
from .state import (
    REHEARSAL,
    START,
    RunState,
    fold,
    initial,
    mark_called_off,
    mark_lost,
    mark_starting,
    mark_stopping,
    mark_stored,
    mark_stuck,
    mark_unstarted,
)

if TYPE_CHECKING:
    import keras


class History:
    """What `Model.fit` would have returned: `.history` and `.epoch` as in Keras' own History."""

    def __init__(self, history: dict[str, list[float]], epoch: list[int]) -> None:
        self.history, self.epoch = history, epoch

    def __repr__(self) -> str:
        return f"History({len(self.epoch)} epochs: {', '.join(self.history)})"


class Log(str):
    """A worker's log; shows as text and not as a Python string."""

    def __repr__(self) -> str:
        return str(self)


class Run:
    """A training run, live or ended.

    Attributes
    ----------
    name, id : str
        The name is the notebook's; the id tells runs of one name apart.
    """

    def __init__(
        self, backend: Backend, ref: RunRef, request: TrainRequest, start: Start | None = None
    ) -> None:
        self.name, self.id = ref.name, ref.id
        self._backend, self._ref, self._request = backend, ref, request
        self._start = start  # None once the run is there
        self._problem: NbtrainError | None = None
        self._state = initial(
            ref.name,
            ref.id,
            ref.backend,
            request.workers,
            request.created,
            request.epochs,
            ref.context,
        )
        if ref.stored:
            self._state = mark_stored(self._state)
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._followed = False
        self._thread: threading.Thread | None = None
        self._model: keras.Model | None = None
        self._display: Any = None
        self._afterwards: list[Callable[[], None]] = []

    # -- what it is and how it goes -----------------------------------------------------------

    @property
    def status(self) -> str:
        """What the run is doing, or how it ended: "training", "succeeded", "failed", ..."""
        return self.state.status

    @property
    def state(self) -> RunState:
        """All that is known of the run now."""
        self._follow()
        if not self._ref_is_live():
            self._until(lambda: self._followed)
        return self._state

    @property
    def outline(self) -> RunState:
        """What is known of the run without reading it where it is stored: for lists of runs."""
        return self._state if self._ref.stored else self.state

    @property
    def request(self) -> TrainRequest:
        """All that the run was asked to do."""
        if self._ref.request:  # a part of it
            self._request = TrainRequest.from_json(json.loads(self._read(RunDir.REQUEST)))
            self._ref = dataclasses.replace(self._ref, request="")
        return self._request

    def follow(self) -> None:
        """Begin to read what the run does and has done, in the background."""
        self._follow()

    @property
    def events(self) -> Sequence[Event]:
        """The events so far; `watch` iterates over those to come as well."""
        self.state  # noqa: B018  begins to follow
        return tuple(self._events)

    def watch(self) -> Iterator[Event]:
        """Yield the events from the first one to the last, as they happen."""
        self._follow()
        for seen in itertools.count():
            self._until_event(seen)
            if len(self._events) == seen:
                return
            yield self._events[seen]

    def _until_event(self, number: int) -> None:
        self._until(lambda: len(self._events) > number or self._followed)

    def wait_for(
        self, condition: Callable[[RunState], object], timeout: float | None = None
    ) -> RunState:
        """Wait until `condition(state)` holds, and return that state.

        Raises
        ------
        WaitTimeout
            If it does not within `timeout` seconds.
        NotReady
            If the run ended without it.
        """
        self._follow()
        self._until(lambda: condition(self._state) or self._followed, timeout)
        if not condition(self._state):
            raise NotReady(f"{self.name} ended ({self._state.status}) before that came about")
        return self._state

    def wait(self, timeout: float | None = None) -> Run:
        """Wait until the run has ended, however it ended.

        Parameters
        ----------
        timeout
            In seconds; None waits for as long as it takes.

        Raises
        ------
        WaitTimeout
            If the run goes on for longer.
        WaitInterrupted
            If the kernel is interrupted; the run goes on.
        """
        with self._interruptible():
            self._follow()
            with self._shown_while_waiting():
                self._until(lambda: self._followed, timeout)
        return self

    # -- results ------------------------------------------------------------------------------

    @property
    def model(self) -> keras.Model:
        """The trained model: compiled, with its optimizer's state. Waits for the end of the run.

        Raises
        ------
        RunFailed
            If the run failed; it shows the user's own traceback.
        RunStopped
            If it was stopped before there was anything to save.
        """
        if self._model is None:
            self.wait().check()
            self._model = self.load()
        return self._model

    def check(self) -> Run:
        """Raise what the run ended with, unless there is a trained model; see `model`."""
        state = self._state
        if self._problem is not None:
            raise self._problem.with_traceback(None)
        if state.status == "succeeded" or (state.status == "stopped" and "weights" in state.saved):
            return self
        if state.status == "stopped":
            raise RunStopped(f"{self.name} was stopped before there was anything to save")
        failure = state.failures[-1] if state.failures else None
        fix = ""
        if "weights" in state.saved or "checkpoint" in state.saved:
            fix = f"{self.name}.load() gives the model with the weights of the last checkpoint."
        raise RunFailed(
            state.message or f"{self.name} failed",
            fix,
            worker=failure.worker if failure else None,
            cause=failure.cause if failure else "lost",
            traceback=failure.traceback if failure else "",
        )

    def load(self) -> keras.Model:
        """Return the model with the newest weights that were saved, also those of a failed run.

        Raises
        ------
        NotReady
            If no weights were saved yet.
        """
        from . import trained

        saved = self.state.saved
        name = RunDir.WEIGHTS if "weights" in saved else ""
        if not name and "checkpoint" in saved:
            name = saved["checkpoint"].path
        if not name:
            raise NotReady(f"{self.name} has saved no weights yet", f"{self.name}.wait() waits.")
        offered = {"workers": self._request.workers, "worker": 0, "batch": self._request.batch}
        with self._local(RunDir.PAYLOAD) as payload, self._local(name) as weights:
            return trained.load(payload, weights, offered)

    @property
    def history(self) -> History:
        """The history, as `fit` returns it. Waits for the end of the run."""
        self.wait().check()
        with contextlib.suppress(FileNotFoundError):
            raw = json.loads(self._read(RunDir.HISTORY))
            return History(raw["history"], raw["epoch"])
        return History(dict(self._state.history), list(self._state.epoch_numbers))

    @property
    def metrics(self) -> dict[str, float]:
        """The values of the last epoch that is over; empty before the first one is."""
        return {k: v[-1] for k, v in self.state.history.items() if v}

    @property
    def card(self) -> dict[str, Any]:
        """The model card: code, data, versions, seed, times, failures. Waits for the end."""
        self.wait()
        card: dict[str, Any] = json.loads(self._read(RunDir.CARD))
        return card

    def logs(self, worker: int = 0) -> Log:
        """Return what a worker wrote to its standard output and error."""
        self._check_worker(worker)
        with contextlib.suppress(FileNotFoundError):
            return Log(self._read(RunDir("").log(worker)).decode("utf-8", "replace"))
        return Log("")

    def follow_logs(self, worker: int = 0) -> Iterator[str]:
        """Yield a worker's log as it grows, until the run has ended."""
        self._check_worker(worker)
        self._until(lambda: self._start is None or self._followed)
        for piece in self._place().read(self._ref, RunDir("").log(worker), follow=True):
            yield piece.decode("utf-8", "replace")

    def _check_worker(self, worker: int) -> None:
        if not 0 <= worker < self._request.workers:
            raise NotReady(
                f"{self.name} has no worker {worker}", f"Workers: 0 to {self._request.workers - 1}."
            )

    def read(self, path: str, offset: int = 0) -> Iterator[bytes]:
        """Yield a file of the run directory from an offset; a folder gives its index as JSON."""
        return self._place().read(self._ref, path, offset)

    @property
    def files(self) -> RunPath:
        """The run directory, to be read like a `pathlib.Path`."""
        return RunPath(self._place(), self._ref)

    def tensorboard(self, folder: str | Path = ".") -> Path:
        """Copy what TensorBoard callbacks have written so far; `tensorboard --logdir` shows it.

        Parameters
        ----------
        folder
            Where NAME-tensorboard is made, or brought up to date.

        Raises
        ------
        NotReady
            If there is nothing; it says what to add to `callbacks()`.
        """
        target = Path(folder).expanduser() / f"{self.name}-tensorboard"
        files = logs_in(self.files / RunDir.FILES)
        if not files:
            raise NotReady(
                f"{self.name} has written no TensorBoard logs",
                'Have callbacks() return [keras.callbacks.TensorBoard("logs")], and install'
                " tensorboard where the workers run.",
            )
        for name, file in files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            file.download(target / name)
        return target

    # -- what can be done with it ---------------------------------------------------------------

    def stop(self, grace: float = 120.0) -> Run:
        """Stop at the next step; what there is is saved and `model` returns it.

        Parameters
        ----------
        grace
            Seconds until a run that does not come to a stop is killed; 0 kills at once.
        """
        if self._called_off():
            return self
        self._follow()
        self._state = mark_stopping(self._state)
        self._backend.stop(self._ref, grace)
        self._until(lambda: self._followed)
        return self

    def delete(self) -> None:
        """Remove the run and all its files; a live run is killed first."""
        if not self._called_off():
            self._backend.delete(self._ref)
            forget(self.id)
        _here.pop(self.id, None)

    def rerun(self, **changes: Any) -> Run:
        """Train again with the same functions, data, seed and options, except for `changes`."""
        from .training import rerun

        return rerun(self, **changes)

    # -- how it looks ---------------------------------------------------------------------------

    def __repr__(self) -> str:
        from .report import text

        return text(self.state, time.time())

    def _ipython_display_(self) -> None:
        """Show a live run live, an ended one as its report."""
        if self.state.live:
            self.display()
        else:
            from IPython.display import display

            display(self._repr_mimebundle_(), raw=True)  # type: ignore[no-untyped-call]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        from .report import html, text

        state = self.state
        return {"text/html": html(state, time.time()), "text/plain": text(state, time.time())}

    def display(self) -> None:
        """Show the run here, and keep what is shown up to date until it has ended."""
        from .asked import answers
        from .display import LiveDisplay

        self._follow()
        if self._display is None:
            self._display = LiveDisplay(lambda: self._state, answers=answers(self))
        self._display.show()

    def when_ended(self, call: Callable[[], None]) -> None:
        """Call back, in another thread, once the run has ended; only runs that are followed."""
        self._afterwards.append(call)

    # -- starting -------------------------------------------------------------------------------

    def begin(self, patience: float, *, replace: bool = False) -> None:
        """Start the run in a thread, as its `Start` says.

        Raises
        ------
        NbtrainError
            What prevents it, if that is known within `patience` seconds; `check` raises it later.
        NameInUse
            If another thread is starting a run of its name, which it does not `replace`.
        """
        assert self._start is not None
        _enlist(self, replace)
        # No daemon: a script that ends now must not leave half a start.
        threading.Thread(target=self._begin, name=f"nbtrain-{self.name}-start").start()
        try:
            with self._changed:
                self._changed.wait_for(self._is_settled, patience)
        except BaseException:  # whoever interrupts the cell has no variable to stop it by
            self._start.call_off()
            raise
        if self._problem is not None:
            del _here[self.id]
            raise self._problem

    def _begin(self) -> None:
        start = self._start
        assert start is not None
        start.changed = self._show_start
        try:
            started = start()
        except NbtrainError as error:
            self._end_unstarted(error)
        except Exception as error:
            self._end_unstarted(BackendError(f"{type(error).__name__}: {error}"))
        else:
            self._end_start(start) if started else self._end_unstarted(None)

    def _show_start(self) -> None:
        start = self._start
        if start is not None:
            self._show(mark_starting(self._state, start.doing, start.warnings))

    def _end_start(self, start: Start) -> None:
        """Go over to following the run, which is there now."""
        self._show(mark_starting(self._state, "", start.warnings))
        with self._changed:
            self._start = None
            self._changed.notify_all()
        _here.pop(self.id, None)
        self._follow()

    def _end_unstarted(self, problem: NbtrainError | None) -> None:
        """End a run that could not be started, or was called off (None)."""
        if problem is None:
            state = mark_called_off(self._state)
        elif isinstance(problem, RehearsalFailed):
            cause = REHEARSAL if problem.cause == "user" else problem.cause
            message = "\n".join(part for part in (problem.message, problem.fix) if part)
            state = mark_unstarted(self._state, message, cause, problem.traceback)
        else:
            state = mark_unstarted(self._state, str(problem), START)
        self._problem = problem
        self._show(state)
        if problem is None:
            _here.pop(self.id, None)
        self._end_following()

    def _is_settled(self) -> bool:
        return self._start is None or self._followed

    def _called_off(self) -> bool:
        """Call the start off, if it is not over; tell whether the run was never started."""
        if self._start is None:
            return False
        self._start.call_off()
        self._until(self._is_settled)
        return self._start is not None

    def _place(self) -> Backend:
        """Return where the run is."""
        if self._start is None:
            if self._request.results:
                return OrResults(self._backend, self._request)
            return self._backend
        if self._followed:
            raise NotReady(f"{self.name} was not started: it has no files")
        raise NotStarted(f"{self.name} is still being started: it has no files yet")

    def _show(self, state: RunState) -> None:
        with self._changed:
            self._state = state
            self._changed.notify_all()
        if self._display is not None:
            self._display.update()

    # -- following ------------------------------------------------------------------------------

    def _follow(self) -> None:
        if self._thread is None and self._start is None:
            self._thread = threading.Thread(
                target=self._read_events, name=f"nbtrain-{self.name}", daemon=True
            )
            self._thread.start()
            threading.Thread(
                target=self._read_placements, name=f"nbtrain-{self.name}-placed", daemon=True
            ).start()

    def _read_placements(self) -> None:
        """Follow what the infrastructure says of the workers; the run itself goes on without."""
        with contextlib.suppress(NbtrainError):
            for placement in self._backend.placements(self._ref):
                with self._changed:
                    self._state = fold(self._state, placement)
                    self._changed.notify_all()
                if self._display is not None:
                    self._display.update()
                if placement.stuck and self._state.live:
                    self._give_up(placement)
                if self._state.ended:
                    return

    def _give_up(self, placement: Placement) -> None:
        """End a run that waits for what will not come by itself."""
        with self._changed:
            self._state = mark_stuck(self._state, placement)
            self._changed.notify_all()
        self._backend.stop(self._ref, 0)

    def _read_events(self) -> None:
        rest = b""
        try:
            for piece in self._backend.read(self._ref, RunDir.EVENTS, follow=True):
                *lines, rest = (rest + piece).split(b"\n")
                self._take(lines)
            self._lose("its head process is gone")
        except NbtrainError as error:
            self._lose(error.message)
        finally:
            self._lose("it can't be followed any more")
            self._end_following()

    def _end_following(self) -> None:
        with self._changed:
            self._followed = True
            self._changed.notify_all()
        if self._display is not None:
            self._display.update()
            self._display.close()
        for call in self._afterwards:
            call()

    def _take(self, lines: list[bytes]) -> None:
        for line in lines:
            with contextlib.suppress(ValueError):
                event = events.decode(line)
                if event is not None:
                    self._events.append(event)
                    with self._changed:
                        self._state = fold(self._state, event)
        if lines:
            with self._changed:
                self._changed.notify_all()
            if self._display is not None:
                self._display.update()

    def _lose(self, why: str) -> None:
        with self._changed:
            if self._state.status == "stored":
                self._state = mark_stored(self._state, self._state.message or why)
            if self._state.live:
                self._state = mark_lost(
                    self._state, f"{why}; nbtrain.attach({self.name!r}) goes on from what there is"
                )

    def _until(self, condition: Callable[[], object], timeout: float | None = None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._interruptible(), self._changed:
            while not condition():
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise WaitTimeout(
                        f"{self.name} is still {self._state.status} after {timeout:g} s",
                        "It goes on; wait again, or stop it with .stop().",
                    )
                # Short waits: a longer one would hold an interrupt back on some platforms.
                self._changed.wait(min(0.5, left) if left is not None else 0.5)

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Have an interrupt end the waiting alone."""
        try:
            yield
        except KeyboardInterrupt:
            raise WaitInterrupted(
                f"stopped waiting; {self.name} goes on ({self._state.status})",
                f"{self.name}.stop() stops it and saves what there is.",
            ) from None

    @contextlib.contextmanager
    def _shown_while_waiting(self) -> Iterator[None]:
        from .display import waiting

        with waiting(self, shown=self._display is not None):
            yield

    def _ref_is_live(self) -> bool:
        return self._ref.live

    def _read(self, name: str) -> bytes:
        return b"".join(self._place().read(self._ref, name))

    @contextlib.contextmanager
    def _local(self, name: str) -> Iterator[Path]:
        """Give a file of the run directory as a file of this machine."""
        path = getattr(self._place(), "path", None)
        if path is not None:
            yield path(self._ref) / name
            return
        with tempfile.TemporaryDirectory(prefix="nbtrain-") as folder:
            yield (self.files / name).download(folder)


#: The runs that this kernel is starting, and those that it could not start, by their ids.
_here: dict[str, Run] = {}
_enlisting = threading.Lock()
# In a forked process no thread goes on with them.
os.register_at_fork(after_in_child=lambda: _here.clear())


def _enlist(run: Run, replace: bool) -> None:
    """Have a run that is about to be started found; those of its name that failed are forgotten."""
    with _enlisting:
        for other in [other for other in _here.values() if other.name == run.name]:
            if not other.state.live:
                del _here[other.id]
            elif not replace:
                raise NameInUse(f"a run named {run.name!r} is being started in another thread.")
        _here[run.id] = run


class Runs(list[Run]):
    """Runs, newest first; a table in the notebook.

    Attributes
    ----------
    problems : list of str
        Which backends could not be asked for theirs, and why.
    """

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        super().__init__(runs)
        self.problems: list[str] = []

    def __repr__(self) -> str:
        from .report import runs_text

        return runs_text([run.outline for run in self], time.time(), self.problems)

    def _repr_html_(self) -> str:
        from .report import runs_html

        return runs_html([run.outline for run in self], time.time(), self.problems)

    def to_pandas(self) -> Any:
        """Return a DataFrame with a row per run: options, outcome, last metrics, times."""
        import pandas as pd

        return pd.DataFrame([_row(run) for run in self])


def _row(run: Run) -> dict[str, Any]:
    state, request = run.outline, run._request
    ended = state.ended_at
    return {
        "name": run.name,
        "id": run.id,
        "status": state.status,
        "workers": request.workers,
        "epochs": len(state.epoch_numbers),
        "batch": state.global_batch,
        "seed": request.seed,
        **{name: values[-1] for name, values in state.history.items() if values},
        "seconds": ended - request.created if ended else None,
        "created": request.created,
    }


def runs() -> Runs:
    """Return all runs of this user on this machine and on the clusters that it has used.

    They are newest first. What could not be asked is in `problems` and below the table. Of a run
    whose results are on a cluster's volume alone it is told later how it ended: once it is read.
    """
    found = Runs(reversed(list(_here.values())))
    for name in backends.NAMES:
        backend = backends.get(name)
        try:
            for ref in backend.runs():
                if ref.id in _here or any(ref.id == run.id for run in found):
                    continue
                with contextlib.suppress(NoSuchRun, FileNotFoundError, ValueError, TypeError):
                    found.append(_listed(backend, ref))
        except NbtrainError as error:  # one that can't be reached hides none of the others
            found.problems.append(f"{name}: {error}")
    return found


def find(
    name: str, *, among: Iterable[str] = backends.NAMES, anywhere: bool = True, but: str = ""
) -> RunRef | None:
    """Return the newest run of a name, or the run of an id; None if there is none.

    The backends `among` which it is looked for are asked in turn. One that can't be reached is an
    error if the run is nowhere else; without `anywhere` it is passed over. The run of the id `but`
    is not looked at.
    """
    for run in reversed(list(_here.values())):
        if name in (run.name, run.id) and run.id != but:
            return dataclasses.replace(run._ref, live=run._state.live)
    unreachable = None
    for backend in map(backends.get, among):
        try:
            for ref in backend.runs():
                if name in (ref.name, ref.id) and ref.id != but:
                    return ref
        except NbtrainError as error:
            unreachable = error
    if anywhere and unreachable is not None:
        raise unreachable
    return None


def named(name: str) -> Run:
    """Return the run of this name (the newest one) or id as it is, dead or alive.

    Raises
    ------
    NoSuchRun
        If there is none; the message names the nearest.
    """
    ref = _at(name) if "://" in name else find(name)
    if ref is None:
        raise _no_such_run(name)
    return opened(ref)


def _at(url: str) -> RunRef:
    backend = backends.get("results")
    assert isinstance(backend, ResultsBackend)
    return backend.at(url)


def opened(ref: RunRef) -> Run:
    """Return the run that a reference is to."""
    return _here.get(ref.id) or _open(backends.get(ref.backend), ref)


def attach(name: str) -> Run:
    """Return the run of this name (the newest one) or id, from any kernel.

    The address of a run's folder of results (`--results`) gives that run, also where nothing else
    is left of it. A run whose head died goes on from its last checkpoint.

    Raises
    ------
    NoSuchRun
        If there is none; the message names the nearest.
    """
    run = named(name)
    backend, ref = run._backend, run._ref
    if not ref.live and run.status == "lost":
        ref = backend.start(run._request, Path(_payload_of(backend, ref)))
        run = _open(backend, ref)
    return run


def _payload_of(backend: Backend, ref: RunRef) -> str:
    path = getattr(backend, "path", None)
    return str(path(ref) / RunDir.PAYLOAD) if path else ""


def _open(backend: Backend, ref: RunRef) -> Run:
    raw = json.loads(b"".join(backend.read(ref, RunDir.REQUEST)))
    return Run(backend, dataclasses.replace(ref, request=""), TrainRequest.from_json(raw))


def _listed(backend: Backend, ref: RunRef) -> Run:
    """Return a run of a list: what was found by the way is not asked for once more."""
    if not ref.request:
        return _open(backend, ref)
    return Run(backend, ref, TrainRequest.from_json(json.loads(ref.request)))


def _no_such_run(name: str) -> NoSuchRun:
    known = list(dict.fromkeys(run.name for run in runs()))
    near = nearest(name, known)
    if near:
        return NoSuchRun(f"no run named {name!r}", f"Did you mean {near!r}?")
    return NoSuchRun(f"no run named {name!r}", f"There are: {', '.join(known) or 'none yet'}.")
