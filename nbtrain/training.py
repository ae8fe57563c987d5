"""From functions and options to a run."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import backends, config
from .backend import Backend, RunRef
from .backends import results
from .backends.local import LocalBackend, home
from .errors import FunctionError, NameInUse, NbtrainError, OptionError
from .request import ROLES, make_request, new_id
from .run import Run, attach, find, opened
from .runtime.request import TrainRequest
from .runtime.rundir import RunDir
from .starting import Start
from .trained import scratch
from .transfer import Transfer

if TYPE_CHECKING:
    from .payload import Packed

#: What keeps a run from being started is an error of the cell if it is known after so long, in
#: seconds; later it is one of the run.
AT_ONCE_S = 0.05
#: Payloads from this size on are told, in bytes.
WORTH_TELLING = 10_000_000


def train(
    model: Any,
    dataset: Any,
    validation: Any = None,
    callbacks: Any = None,
    *,
    name: str | None = None,
    files: Sequence[str] = (),
    from_run: str | Run | None = None,
    with_optimizer: bool = False,
    replace: bool = False,
    rehearse: bool | None = None,
    wait: bool = False,
    **options: Any,
) -> Run:
    """Train a Keras model on several workers; returns at once.

    Parameters
    ----------
    model
        A function that returns a compiled Keras model.
    dataset, validation
        A function that returns the data, or the data: a `tf.data.Dataset` (its batch is the
        global batch), arrays `(x, y)` or `(x, y, sample_weight)`, a keras PyDataset, ...
    callbacks
        A function that returns Keras callbacks; or a list of them.
    name
        The run's name, a Python identifier; "training" if left out.
    files
        Files and folders that the workers need, relative to the notebook.
    from_run, with_optimizer
        A run whose weights to begin with; with its optimizer's state and epoch count as well.
    replace
        End a live run of the same name.
    rehearse
        Make one step on this machine first, so that a mistake shows in seconds; the default where
        the run trains in containers or pods.
    wait
        Return when the run has ended; raise if it failed.
    **options
        `workers`, `epochs`, `batch`, `seed`, `backend`, ... as in `%%k8s_train?`, and arguments
        of `Model.fit` by their names.

    Returns
    -------
    Run
        `run.model` waits for the trained model.

    Raises
    ------
    OptionError
        If an option is unknown or has no such value.
    CannotTravel
        If something that a function uses can't be sent to the workers.
    NameInUse
        If a live run has this name.
    BackendError, ImageError
        If it is known at once that it can't be started; else `Run.model` and `Run.wait` tell.

    Examples
    --------
    >>> run = nbtrain.train(model, dataset, workers=2, epochs=5)  # doctest: +SKIP
    >>> run.model.predict(x)  # doctest: +SKIP
    """
    settings = config.with_defaults(options)
    name = name or "training"
    is_free = _ask_free(name, str(settings["backend"]), replace)
    functions = _functions(model, dataset, validation, callbacks)
    if validation is not None and options.get("validation_split"):
        raise OptionError(
            "validation_split: there is validation data already, and Keras would ignore the split.",
            "Leave one of them out.",
        )
    keep = settings.pop("keep", 5)
    live = settings.pop("live", True)
    warm = settings.pop("warm", "auto")
    rehearses = settings.pop("rehearse", None) if rehearse is None else rehearse
    request = make_request(name, settings)
    if from_run is not None:
        functions["initial"], request = _initial(from_run, with_optimizer, request)
    backend = backends.get(request.backend)
    if rehearses is None:
        rehearses = not isinstance(backend, LocalBackend)
    plan = _Plan(backend, is_free, rehearses, replace, bool(warm), keep)
    if isinstance(backend, LocalBackend) and not rehearses:
        run = _start_here(plan, request, functions, files)
    else:
        run = _start_in_background(plan, request, functions, files)
    if live:
        run.display()
    if wait:
        run.wait().check()
    return run


def export(
    model: Any,
    dataset: Any,
    validation: Any = None,
    callbacks: Any = None,
    *,
    path: str | Path | None = None,
    name: str | None = None,
    files: Sequence[str] = (),
    from_run: str | Run | None = None,
    with_optimizer: bool = False,
    **options: Any,
) -> str:
    """Return a run as YAML for `kubectl apply --server-side -f`, which trains it with no notebook.

    Parameters
    ----------
    path
        Written to this file, which only you can read: it holds the run's token. Without one the
        text is for reading, and the contents of the Secret are left out.
    model, dataset, validation, callbacks, name, files, from_run, with_optimizer, **options
        As for `train`.
    """
    functions = _functions(model, dataset, validation, callbacks)
    settings = config.with_defaults(options)
    for other in ("keep", "live", "warm", "rehearse", "replace", "wait"):
        settings.pop(other, None)
    request = make_request(name or "training", {**settings, "backend": "kubernetes"})
    if from_run is not None:
        functions["initial"], request = _initial(from_run, with_optimizer, request)
    with tempfile.TemporaryDirectory(prefix="nbtrain-") as folder:
        payload = Path(folder) / RunDir.PAYLOAD
        _, request = _packed(request, functions, files, payload)
        return _exported(request, payload, path)


def export_run(run: Run, path: str | Path) -> str:
    """Write a run of this notebook as YAML, to be trained anew by `kubectl apply`."""
    again = dataclasses.replace(
        run.request, id=new_id(run.name), created=time.time(), backend="kubernetes"
    )
    with run._local(RunDir.PAYLOAD) as payload:
        return _exported(again, payload, path)


def exported_run(run: Run) -> str:
    """Return the YAML that `export_run` writes; it holds a token, and is for nobody else."""
    with tempfile.TemporaryDirectory(prefix="nbtrain-") as folder:
        return export_run(run, Path(folder) / "run.yaml")


def _exported(request: TrainRequest, payload: Path, path: str | Path | None) -> str:
    from .backends.kubernetes.export import exported

    text = exported(request, payload, shown=path is None)
    if path is not None:
        target = Path(path).expanduser()
        try:
            target.touch(mode=0o600)
            target.chmod(0o600)
            target.write_text(text, "utf-8")
        except OSError as error:
            raise OptionError(f"--export {path}: can't be written: {error.strerror}") from None
    return text


def warm_up_in_background() -> None:
    """Have the local backend start a spare process for the next run, if the settings allow it.

    It costs the notebook nothing but memory, and a run that finds one begins seconds earlier.
    """

    def warm_up() -> None:
        if config.defaults().get("warm", "auto"):
            backend = backends.get("local")
            assert isinstance(backend, LocalBackend)
            backend.warm_up()

    in_background("nbtrain-warm-up", warm_up)


def preload_in_background() -> None:
    """Import what runs need where the settings send them, if that is not this machine."""

    def preload() -> None:
        settings = config.defaults()
        on_cluster = "context" in settings or "namespace" in settings
        backends.preload(settings.get("backend", "kubernetes" if on_cluster else "local"))

    in_background("nbtrain-imports", preload)


def in_background(name: str, work: Callable[[], None]) -> None:
    """Have something done that nobody waits for; that it fails is told to nobody either."""

    def tried() -> None:
        with contextlib.suppress(NbtrainError, OSError):
            work()

    threading.Thread(target=tried, name=name, daemon=True).start()


def rerun(run: Run, **changes: Any) -> Run:
    """Train a run again, from its payload; see `Run.rerun`."""
    from .runtime.payload import Payload

    request = run.request
    roles = {role: changes.pop(role) for role in ROLES if role in changes}
    with run._local(RunDir.PAYLOAD) as path:
        payload = Payload.open(path)
        payload.install(scratch(), visiting=True)
        functions = {**payload.load(), **roles}
    initial = functions.pop("initial", None)
    options = {**request.options, "seed": request.seed, "backend": request.backend, **changes}
    name = options.pop("name", request.name)
    if initial is not None and "from_run" not in options:
        functions["initial"] = initial
    return train(
        functions["model"],
        functions["dataset"],
        functions.get("validation"),
        functions.get("callbacks"),
        name=name,
        **options,
    )


def _functions(model: Any, dataset: Any, validation: Any, callbacks: Any) -> dict[str, Any]:
    if not callable(model) or hasattr(model, "trainable_weights"):
        raise FunctionError(
            "model must be a function that returns a compiled Keras model, not"
            f" {type(model).__name__}.",
            "def model(): ...; m.compile(...); return m",
        )
    given = {"model": model, "dataset": dataset, "validation": validation, "callbacks": callbacks}
    if dataset is None:
        raise FunctionError("dataset is None.", "Give a function that returns the data, or data.")
    return {role: value for role, value in given.items() if value is not None}


def _initial(
    from_run: str | Run, with_optimizer: bool, request: TrainRequest
) -> tuple[dict[str, Any], TrainRequest]:
    """Return the weights to begin with, which travel with the functions."""
    from .runtime import tensors

    source = from_run if isinstance(from_run, Run) else attach(from_run)
    source.wait().check()
    with source._local(RunDir.WEIGHTS) as path:
        variables, metadata = tensors.load(path)
    epoch = int(metadata["epoch"]) if with_optimizer else 0
    if with_optimizer and request.epochs <= epoch:
        raise OptionError(
            f"--epochs {request.epochs}: {source.name} has {epoch} epochs already.",
            "--epochs counts from the first run's beginning; ask for more.",
        )
    if not with_optimizer:
        variables = {k: v for k, v in variables.items() if k.startswith(("model/", "own/"))}
    initial = {"epoch": epoch, "variables": variables, "metadata": metadata}
    return initial, dataclasses.replace(request, resume_from=source.id, resume_state=with_optimizer)


def check_free(name: str, backend: str, *, replace: bool = False) -> None:
    """Raise NameInUse if a live run of this backend has the name, unless it is to be replaced.

    Others are not asked: an engine or a cluster takes longer to answer than a cell should.
    """
    if backend not in backends.NAMES:
        return  # which is said where options are read
    live = find(name, among=(backend,), anywhere=False)
    if live is not None and live.live and not replace:
        raise NameInUse(
            f"a run named {name!r} is training.",
            f"Wait for it, stop it (%k8s_stop {name}), take another --name, or say --replace.",
        )


def _ask_free(name: str, backend: str, replace: bool) -> Callable[[], None]:
    """Begin to ask whether a name is free; return what waits for the answer (see `check_free`).

    An engine or a cluster is asked by a thread: the functions can be packed meanwhile.
    """
    if backend in backends.NAMES and not isinstance(backends.get(backend), LocalBackend):
        asking = ThreadPoolExecutor(1, "nbtrain-name")
        answer = asking.submit(check_free, name, backend, replace=replace)
        asking.shutdown(wait=False)
        return answer.result
    check_free(name, backend, replace=replace)
    return lambda: None


def _end(name: str, but: str = "") -> None:
    """End the live run of a name, other than the run `but`."""
    live = find(name, but=but)
    if live is not None and live.live:
        opened(live).stop(0)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How a run is to be started, apart from what it is asked to do."""

    backend: Backend
    is_free: Callable[[], None]  # raises NameInUse if the name is not
    rehearses: bool
    replace: bool
    warm: bool
    keep: int


def _start_here(
    plan: _Plan, request: TrainRequest, functions: Mapping[str, Any], files: Sequence[str]
) -> Run:
    """Pack the functions and start a run on this machine, which takes no longer than a thread."""
    with _packing(plan.backend, request) as path:
        packed, request = _packed(request, functions, files, path)
        plan.is_free()
        if plan.replace:
            _end(request.name)
        ref = plan.backend.start(request, path)
    _note(request)
    _tell(packed)
    _forget_old(plan.backend, request.name, plan.keep)
    run = Run(plan.backend, ref, request)
    if plan.warm:
        run.when_ended(warm_up_in_background)
    return run


def _start_in_background(
    plan: _Plan, request: TrainRequest, functions: Mapping[str, Any], files: Sequence[str]
) -> Run:
    """Pack the functions, and have the rest done by a thread of the run.

    What the user changes from now on is not in the payload any more.
    """
    folder = Path(tempfile.mkdtemp(prefix="nbtrain-"))
    payload = folder / RunDir.PAYLOAD

    def work(start: Start) -> None:
        try:
            _start(plan, request, payload, start)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    try:
        packed, request = _packed(request, functions, files, payload)
        plan.is_free()
        _tell(packed)
        ref = RunRef(plan.backend.name, request.name, request.id, request.created, live=True)
        run = Run(plan.backend, ref, request, Start(work, lambda: plan.backend.delete(ref)))
        if plan.warm:
            run.when_ended(warm_up_in_background)
        run.begin(AT_ONCE_S, replace=plan.replace)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return run


def _start(plan: _Plan, request: TrainRequest, payload: Path, start: Start) -> None:
    """Do what takes its time: in a thread, since the cell has returned."""
    start.say("looking at what is needed")
    if plan.rehearses:
        plan.backend.check(request)
        _rehearse(plan, request, payload, start)
    if plan.replace:
        start.say(f"ending the run before, which is called {request.name} too")
        _end(request.name, but=request.id)
    start.say("starting the head and the workers")
    sending = Transfer("sending the functions and data")

    def sent(done: int, total: int) -> None:
        start.say(sending.said(done, total) if sending.slow else start.doing)

    for said in plan.backend.start(request, payload, sent).warnings:
        start.warn(said)
    _note(request)
    in_background("nbtrain-old-runs", lambda: _forget_old(plan.backend, request.name, plan.keep))


def _rehearse(plan: _Plan, request: TrainRequest, payload: Path, start: Start) -> None:
    """Rehearse a run; what was in the way, if it was not the user's code, becomes a warning."""
    from .rehearsal import rehearse

    try:
        said = rehearse(request, payload, start.say)
    finally:
        if plan.warm:  # the next cell's rehearsal finds a spare process
            warm_up_in_background()
    if said:
        start.warn(said)


def _note(request: TrainRequest) -> None:
    if request.results:
        results.note(request)


def _tell(packed: Packed) -> None:
    for line in packed.warnings or _sizes(packed):
        print(line)


def _packed(
    request: TrainRequest, functions: Mapping[str, Any], files: Sequence[str], path: Path
) -> tuple[Packed, TrainRequest]:
    """Pack the functions into a file, and return the request that goes with it."""
    from .payload import pack

    packed = pack(functions, path, files=files)
    return packed, dataclasses.replace(
        request,
        payload_sha256=packed.sha256,
        payload_bytes=packed.bytes,
        versions=packed.versions,
        code=packed.code,
    )


@contextlib.contextmanager
def _packing(backend: Backend, request: TrainRequest) -> Iterator[Path]:
    """Give a name for the payload: in the run directory, where that is on this machine."""
    if not isinstance(backend, LocalBackend):
        with tempfile.TemporaryDirectory(prefix="nbtrain-") as folder:
            yield Path(folder) / RunDir.PAYLOAD
        return
    rundir = RunDir(home() / request.id)
    rundir.create()
    try:
        yield rundir / RunDir.PAYLOAD
    except BaseException:
        shutil.rmtree(rundir.path, ignore_errors=True)
        raise


def _sizes(packed: Packed) -> list[str]:
    """Return in a line what is sent, where it is more than a moment's work."""
    from .captured import human

    if packed.bytes < WORTH_TELLING:
        return []
    biggest = sorted(packed.captured, key=lambda c: -c.bytes)[:3]
    parts = ", ".join(f"`{c.variable}` {human(c.bytes)}" for c in biggest)
    return [f"{human(packed.bytes)} go to the workers: {parts}"]


def _forget_old(backend: Backend, name: str, keep: int) -> None:
    """Remove all but the newest `keep` ended runs of a name."""
    ended = [ref for ref in backend.runs() if ref.name == name and not ref.live]
    for ref in ended[keep:]:
        with contextlib.suppress(OSError):
            backend.delete(ref)
