"""The options of a run, in one table; and from options to a request.

Parsing the cell's line, its help, completion, the configuration's keys and the keywords of
`train` are all read from `OPTIONS`.
"""

from __future__ import annotations

import datetime
import json
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import values
from .errors import OptionError
from .runtime.request import MULTI_WORKER_MIRRORED, TrainRequest

#: What the functions of a cell, or the arguments of `train`, are for.
ROLES = ("model", "dataset", "validation", "callbacks")
#: The groups of options, in the order of the help.
GROUPS = (
    "Training",
    "The cell's functions",
    "Arguments of Model.fit",
    "The run",
    "When something goes wrong",
    "Settings",
)
TRAINING, FUNCTIONS, FIT, RUN, TROUBLE, SETTINGS = GROUPS

_LATER = "not in this release; there is: local"
_OTHER_STRATEGIES = {
    "mirrored": "not supported yet; multi-worker-mirrored does the same with one GPU a worker",
    "parameter-server": "not supported: Keras 3 can't train under it",
    "central-storage": "not supported: Keras 3 can't train under it",
    "tpu": "not supported yet",
    "one-device": "not supported; workers=1 trains in one process",
    "default": "not supported; workers=1 trains in one process",
}


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option: of the cell, of `train`, of the configuration, or of several of them.

    Parameters
    ----------
    name
        As `train` has it; the cell's has dashes for underscores.
    parse
        Returns the value of text or of a Python value; a ValueError says what it must be.
    help, group, metavar, default
        For the help; `default` is the built-in value, a text where that is not one value.
    choices
        For completion.
    flag
        Takes no value in the cell; `--no-…` switches it off.
    several
        Takes all words up to the next option.
    variable
        A word that could be a variable is one.
    aliases
        Other names for it.
    written
        How the cell has it, where that is no name in Python.
    field
        Its name in `TrainRequest`; empty for what is not there.
    fit
        It is an argument of `Model.fit`.
    cell, config
        Whether the cell, and the configuration, have it.
    """

    name: str
    parse: values.Parser
    help: str
    group: str
    metavar: str = ""
    default: Any = None
    choices: tuple[str, ...] = ()
    flag: bool = False
    several: bool = False
    variable: bool = False
    aliases: tuple[str, ...] = ()
    written: str = ""
    field: str = ""
    fit: bool = False
    cell: bool = True
    config: bool = False

    @property
    def dashed(self) -> str:
        """The option as the cell has it."""
        return "--" + (self.written or self.name).replace("_", "-")

    def checked(self, value: Any, shown: str) -> Any:
        """Return the value that is used; an OptionError begins with `shown`."""
        try:
            return self.parse(value)
        except ValueError as error:
            raise OptionError(f"{shown}: {error}") from None


_COUNT = values.whole(1)

#: Every option there is.
OPTIONS: tuple[Option, ...] = (
    Option(
        name="workers",
        parse=values.whole(1, 64),
        help="how many processes train together",
        group=TRAINING,
        metavar="N",
        default=2,
        aliases=("num_workers",),
        field="workers",
        config=True,
    ),
    Option(
        name="epochs",
        parse=_COUNT,
        help="how many times the training goes through the data",
        group=TRAINING,
        metavar="N",
        default=1,
        field="epochs",
        config=True,
    ),
    Option(
        name="batch",
        parse=_COUNT,
        help="examples in a step, of all workers together",
        group=TRAINING,
        metavar="N",
        default="the dataset's own, or 32",
        aliases=("batch_size", "global_batch", "global_batch_size"),
        field="batch",
        config=True,
    ),
    Option(
        name="seed",
        parse=values.whole(0, 2**32 - 1),
        help="the same seed gives the same weights",
        group=TRAINING,
        metavar="N",
        default="a random one",
        field="seed",
        config=True,
    ),
    Option(
        name="strategy",
        parse=values.one_of(MULTI_WORKER_MIRRORED, refused=_OTHER_STRATEGIES),
        help="how the workers train together",
        group=TRAINING,
        metavar="NAME",
        default=MULTI_WORKER_MIRRORED,
        choices=(MULTI_WORKER_MIRRORED,),
        field="strategy",
    ),
    Option(
        name="shard",
        parse=values.one_of("example", "file"),
        help="how the data is shared among the workers",
        group=TRAINING,
        metavar="HOW",
        default="example",
        choices=("example", "file"),
        field="shard",
    ),
    Option(
        name="model",
        parse=lambda value: value,
        help="the function that returns the compiled model",
        group=FUNCTIONS,
        metavar="NAME",
        default="model, of this cell",
    ),
    Option(
        name="dataset",
        parse=lambda value: value,
        help="the function that returns the training data; or the data",
        group=FUNCTIONS,
        metavar="NAME",
        default="dataset, of this cell",
    ),
    Option(
        name="validation",
        parse=lambda value: value,
        help="the function that returns the validation data; or the data",
        group=FUNCTIONS,
        metavar="NAME",
        default="validation, of this cell",
    ),
    Option(
        name="callbacks",
        parse=lambda value: value,
        help="the function that returns Keras callbacks; or a list of them",
        group=FUNCTIONS,
        metavar="NAME",
        default="callbacks, of this cell",
    ),
    Option(
        name="steps_per_epoch",
        parse=_COUNT,
        help="end an epoch after so many steps",
        group=FIT,
        metavar="N",
        default="all of the data",
        fit=True,
    ),
    Option(
        name="validation_split",
        parse=values.fraction,
        help="part of the training arrays to hold back for validation",
        group=FIT,
        metavar="FRACTION",
        default=0.0,
        fit=True,
    ),
    Option(
        name="validation_steps",
        parse=_COUNT,
        help="end a validation after so many steps",
        group=FIT,
        metavar="N",
        default="all of the data",
        fit=True,
    ),
    Option(
        name="validation_freq",
        parse=values.epochs_list,
        help="validate every N epochs, or after the epochs 1,5,10",
        group=FIT,
        metavar="N",
        default=1,
        fit=True,
    ),
    Option(
        name="validation_batch_size",
        parse=_COUNT,
        help="examples in a validation step",
        group=FIT,
        metavar="N",
        default="as --batch",
        fit=True,
    ),
    Option(
        name="class_weight",
        parse=values.class_weights,
        help="weights by class number: {0: 1.0, 1: 5.0}, or a variable's name",
        group=FIT,
        metavar="DICT",
        default="all alike",
        fit=True,
        variable=True,
    ),
    Option(
        name="shuffle",
        parse=values.flag,
        help="shuffle arrays in every epoch; --no-shuffle does not",
        group=FIT,
        default=True,
        flag=True,
        fit=True,
    ),
    Option(
        name="initial_epoch",
        parse=values.whole(0),
        help="the epoch to begin at, counted from 0",
        group=FIT,
        metavar="N",
        default=0,
        fit=True,
    ),
    Option(
        name="verbose",
        parse=values.verbosity,
        help="how much fit writes to worker 0's log: 0, 1 or 2",
        group=FIT,
        metavar="N",
        default=2,
        choices=("0", "1", "2"),
        fit=True,
    ),
    Option(
        name="name",
        parse=values.name,
        help="the run's name; it becomes a variable of the notebook",
        group=RUN,
        metavar="NAME",
        default="training",
    ),
    Option(
        name="backend",
        parse=values.one_of("local", refused={"docker": _LATER, "kubernetes": _LATER}),
        help="where the workers run",
        group=RUN,
        metavar="NAME",
        default="local",
        choices=("local",),
        field="backend",
        config=True,
    ),
    Option(
        name="wait",
        parse=values.flag,
        help="the cell ends when the run has ended",
        group=RUN,
        default=False,
        flag=True,
    ),
    Option(
        name="replace",
        parse=values.flag,
        help="end a live run of the same name first",
        group=RUN,
        default=False,
        flag=True,
    ),
    Option(
        name="files",
        parse=values.paths,
        help="files and folders that the functions read, beside the notebook",
        group=RUN,
        metavar="PATH…",
        default="no files",
        several=True,
    ),
    Option(
        name="from_run",
        parse=lambda value: value,
        help="begin with the weights of this run",
        group=RUN,
        metavar="RUN",
        default="what model() returns",
        aliases=("from",),
        written="from",
    ),
    Option(
        name="with_optimizer",
        parse=values.flag,
        help="with --from: go on with its optimizer's state and epoch count as well",
        group=RUN,
        default=False,
        flag=True,
    ),
    Option(
        name="checkpoint_every",
        parse=values.checkpoints,
        help="how often to save: epoch, 100steps, or a time such as 30s or 5m",
        group=TROUBLE,
        metavar="WHEN",
        default="epoch",
        choices=("epoch",),
        field="checkpoint_every",
        config=True,
    ),
    Option(
        name="stall_timeout",
        parse=values.seconds,
        help="end a run that makes no step for this long",
        group=TROUBLE,
        metavar="TIME",
        default="30m",
        field="stall_timeout_s",
        config=True,
    ),
    Option(
        name="start_timeout",
        parse=values.seconds,
        help="how long workers may take to come",
        group=TROUBLE,
        metavar="TIME",
        default="2m",
        field="start_timeout_s",
        config=True,
    ),
    Option(
        name="max_restarts",
        parse=values.whole(0, 1000),
        help="how often lost workers are replaced before an epoch is gained",
        group=TROUBLE,
        metavar="N",
        default=5,
        field="max_restarts",
        config=True,
    ),
    Option(
        name="min_workers",
        parse=values.whole(1, 64),
        help="go on with so many workers while others are lost",
        group=TROUBLE,
        metavar="N",
        default="all",
        field="min_workers",
        config=True,
    ),
    Option(
        name="memory",
        parse=values.memory,
        help="end a worker that needs more memory than this, such as 4Gi",
        group=TROUBLE,
        metavar="BYTES",
        default="no limit",
        field="memory",
        config=True,
    ),
    Option(
        name="keep",
        parse=values.whole(0, 1_000_000),
        help="ended runs kept of each name",
        group=SETTINGS,
        metavar="N",
        default=5,
        cell=False,
        config=True,
    ),
    Option(
        name="live",
        parse=values.flag,
        help="show a run below its cell while it trains",
        group=SETTINGS,
        default=True,
        flag=True,
        cell=False,
        config=True,
    ),
    Option(
        name="warm",
        parse=values.flag_or_auto,
        help="keep a process with TensorFlow ready, so that runs start fast",
        group=SETTINGS,
        default="auto",
        choices=("auto", "true", "false"),
        cell=False,
        config=True,
    ),
)

_COMPILE = "belongs to model.compile(...), in model()"
#: What people ask for and what to do instead.
REFUSED: dict[str, str] = {
    "x": "return the data from dataset()",
    "y": "return the labels from dataset(), as (x, y)",
    "sample_weight": "return the weights from dataset(), as (x, y, sample_weight)",
    "validation_data": "use validation: a function of the cell, or --validation NAME",
    "optimizer": _COMPILE,
    "loss": _COMPILE,
    "metrics": _COMPILE,
    "lr": _COMPILE,
    "learning_rate": _COMPILE,
}
#: What other tools call it.
_SYNONYMS = {
    "processes": "workers",
    "replicas": "workers",
    "nodes": "workers",
    "gpus": "workers",
    "random_state": "seed",
    "data": "dataset",
    "train_data": "dataset",
    "val_data": "validation",
    "val_split": "validation_split",
    "callback": "callbacks",
    "force": "replace",
    "initial_weights": "from_run",
    "weights": "from_run",
}

BY_NAME: dict[str, Option] = {
    name: option for option in OPTIONS for name in (option.name, *option.aliases)
}


def option(
    name: str, known: Iterable[Option] = OPTIONS, *, dashes: bool = False, what: str = "option"
) -> Option:
    """Return the option of a name.

    Parameters
    ----------
    name
        With dashes or underscores.
    known
        The options that there are in this place.
    dashes, what
        How the error writes names, as the cell does or as Python does, and what it calls them.

    Raises
    ------
    OptionError
        If there is none; the message has the nearest name or what to do instead.
    """
    plain = name.replace("-", "_")
    here = {n: o for o in known for n in (o.name, *o.aliases)}
    if plain in here:
        return here[plain]
    shown = _shown(name, dashes)
    if plain.lower() in REFUSED:
        raise OptionError(f"{shown}: {REFUSED[plain.lower()]}")
    near = _SYNONYMS.get(plain.lower()) or values.nearest(plain, here)
    if near in here:
        found = here[near]
        meant = found.dashed if dashes else near
        raise OptionError(f"{shown}: no such {what}; did you mean {meant}?")
    raise OptionError(f"{shown}: no such {what}", _all(here.values(), dashes))


def _shown(name: str, dashes: bool) -> str:
    return "--" + name.replace("_", "-") if dashes else name


def _all(known: Iterable[Option], dashes: bool) -> str:
    names = dict.fromkeys(o.dashed if dashes else o.name for o in known)
    return "There are: " + ", ".join(names)


def in_python(name: str, value: Any) -> str:
    """Return how an error shows a keyword argument: ``epochs='five'``."""
    text = repr(value)
    return f"{name}={text if len(text) <= 60 else text[:59] + '…'}"


def make_request(
    name: str, options: Mapping[str, Any], *, fit: Mapping[str, Any] | None = None
) -> TrainRequest:
    """Return the request for a run, with everything checked and a seed drawn if there is none.

    Parameters
    ----------
    name
        The run's name.
    options
        Options by their names in `OPTIONS`; None leaves one out. Arguments of `fit` may be
        among them.
    fit
        Further arguments of `Model.fit`.

    Raises
    ------
    OptionError
        If an option is unknown or can't have its value.
    """
    given = _checked({**options, **(fit or {})})
    name = BY_NAME["name"].checked(name, in_python("name", name))
    fields = {BY_NAME[n].field: value for n, value in given.items() if BY_NAME[n].field}
    fields.setdefault("seed", secrets.randbelow(2**32))
    arguments = {n: value for n, value in given.items() if BY_NAME[n].fit}
    request = TrainRequest(
        name=name,
        id=_new_id(name),
        created=time.time(),
        fit=arguments,
        options=_plain(given),
        **fields,
    )
    _check_epochs(arguments.get("initial_epoch", 0), request.epochs)
    if request.min_workers > request.workers:
        raise OptionError(
            f"min_workers={request.min_workers}: there are only {request.workers} workers"
        )
    return request


def _check_epochs(first: int, epochs: int) -> None:
    if first >= epochs:
        raise OptionError(
            f"initial_epoch={first}: there is nothing to train, since epochs is {epochs}",
            "epochs counts from the first epoch; ask for more.",
        )


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values by the options' own names; those that are None are left out."""
    here = [o for o in OPTIONS if o.field or o.fit]
    found: dict[str, Any] = {}
    for name, value in options.items():
        known = option(name, here)
        if value is None:
            continue
        if known.name in found:
            raise OptionError(f"{name}: given twice; {name} is {known.name}")
        found[known.name] = known.checked(value, in_python(name, value))
    return found


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy that shares nothing, of what JSON has."""
    return {n: v if isinstance(v, dict) else json.loads(json.dumps(v)) for n, v in given.items()}


def _new_id(name: str) -> str:
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    letters = "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(4))
    return f"{name}-{now}-{letters}"
