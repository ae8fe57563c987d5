"""From functions and options to a run."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import backends, config
from .backend import Backend
from .backends.local import LocalBackend, home
from .errors import FunctionError, NameInUse, NbtrainError, OptionError
from .request import ROLES, make_request
from .run import Run, attach, find
from .runtime.request import TrainRequest
from .runtime.rundir import RunDir
from .trained import scratch

if TYPE_CHECKING:
    from .payload import Packed

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

    Examples
    --------
    >>> run = nbtrain.train(model, dataset, workers=2, epochs=5)  # doctest: +SKIP
    >>> run.model.predict(x)  # doctest: +SKIP
    """
    check_free(name or "training", replace=replace)
    functions = _functions(model, dataset, validation, callbacks)
    if validation is not None and options.get("validation_split"):
        raise OptionError(
            "validation_split: there is validation data already, and Keras would ignore the split.",
            "Leave one of them out.",
        )
    settings = {**config.defaults(), **{k: v for k, v in options.items() if v is not None}}
    keep = settings.pop("keep", 5)
    live = settings.pop("live", True)
    warm = settings.pop("warm", "auto")
    request = make_request(name or "training", settings)
    if from_run is not None:
        functions["initial"], request = _initial(from_run, with_optimizer, request)
    backend = backends.get(request.backend)
    if replace:
        _end(request.name)
    run = _launch(backend, request, functions, files)
    _forget_old(backend, request.name, keep)
    if warm:
        run.when_ended(warm_up_in_background)
    if live:
        run.display()
    if wait:
        run.wait().check()
    return run


def warm_up_in_background() -> None:
    """Have the local backend start a spare process for the next run, if the settings allow it.

    It costs the notebook nothing but memory, and a run that finds one begins seconds earlier.
    """

    def warm_up() -> None:
        with contextlib.suppress(NbtrainError, OSError):  # only a run's start has to tell it
            if config.defaults().get("warm", "auto"):
                backend = backends.get("local")
                assert isinstance(backend, LocalBackend)
                backend.warm_up()

    threading.Thread(target=warm_up, name="nbtrain-warm-up", daemon=True).start()


def rerun(run: Run, **changes: Any) -> Run:
    """Train a run again, from its payload; see `Run.rerun`."""
    from .runtime.payload import Payload

    request = run._request
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
        variables = {k: v for k, v in variables.items() if k.startswith("model/")}
    initial = {"epoch": epoch, "variables": variables}
    return initial, dataclasses.replace(request, resume_from=source.id, resume_state=with_optimizer)


def check_free(name: str, *, replace: bool = False) -> None:
    """Raise NameInUse if a live run has the name, unless it is to be replaced."""
    live = find(name)
    if live is not None and live.live and not replace:
        raise NameInUse(
            f"a run named {name!r} is training.",
            f"Wait for it, stop it (%k8s_stop {name}), take another --name, or say --replace.",
        )


def _end(name: str) -> None:
    live = find(name)
    if live is not None and live.live:
        backends.get(live.backend).stop(live, 0)


def _launch(
    backend: Backend, request: TrainRequest, functions: Mapping[str, Any], files: Sequence[str]
) -> Run:
    from .payload import pack

    rundir = RunDir(home() / request.id)
    rundir.create()
    try:
        packed = pack(functions, rundir / RunDir.PAYLOAD, files=files)
        request = dataclasses.replace(
            request,
            payload_sha256=packed.sha256,
            payload_bytes=packed.bytes,
            versions=packed.versions,
            code=packed.code,
        )
        ref = backend.start(request, rundir / RunDir.PAYLOAD)
    except BaseException:
        shutil.rmtree(rundir.path, ignore_errors=True)
        raise
    for line in packed.warnings or _sizes(packed):
        print(line)
    return Run(backend, ref, request)


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
