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

from . import container_values, values
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
    "Containers and pods",
    "Kubernetes",
    "Settings",
)
TRAINING, FUNCTIONS, FIT, RUN, TROUBLE, CONTAINERS, KUBERNETES, SETTINGS = GROUPS

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
    container
        It is kept in `TrainRequest.container`, under its own name.
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
    container: bool = False
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
        parse=values.one_of("local", "docker", "kubernetes"),
        help="local, docker or kubernetes, which it is where %k8s_config names a context",
        group=RUN,
        metavar="NAME",
        default="local",
        choices=("local", "docker", "kubernetes"),
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
        name="rehearse",
        parse=values.flag,
        help="make one step here first: a mistake shows in seconds; --no-rehearse does not",
        group=RUN,
        default="on for docker and kubernetes",
        flag=True,
        config=True,
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
        name="results",
        parse=values.address,
        help="write the results there as well: s3://bucket/folder, a folder, ...",
        group=RUN,
        metavar="URL",
        default="the run's own directory alone",
        field="results",
        config=True,
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
        default="none here, 4Gi in containers, 2Gi in pods",
        field="memory",
        config=True,
    ),
    Option(
        name="image",
        parse=container_values.image,
        help="what the workers run in; %k8s_image makes one",
        group=CONTAINERS,
        metavar="IMAGE",
        default="one of the notebook's Python",
        container=True,
        config=True,
    ),
    Option(
        name="python_image",
        parse=container_values.image,
        help="what pods run in, and install packages in, without an --image",
        group=KUBERNETES,
        metavar="IMAGE",
        default="Docker Hub's, slim",
        container=True,
        config=True,
    ),
    Option(
        name="cpu",
        parse=container_values.cores,
        help="cores of a worker, such as 2 or 500m",
        group=CONTAINERS,
        metavar="CORES",
        default=1,
        container=True,
        config=True,
    ),
    Option(
        name="gpus",
        parse=values.whole(0, 64),
        help="GPUs of a worker",
        group=CONTAINERS,
        metavar="N",
        default=0,
        container=True,
        config=True,
    ),
    Option(
        name="env",
        parse=container_values.environment,
        help="environment variables; a NAME alone has the notebook's value",
        group=CONTAINERS,
        metavar="NAME=VALUE…",
        default="none",
        several=True,
        container=True,
        config=True,
    ),
    Option(
        name="context",
        parse=values.word,
        help="context of the kubeconfig",
        group=KUBERNETES,
        metavar="NAME",
        default="the current one",
        container=True,
        config=True,
    ),
    Option(
        name="namespace",
        parse=container_values.namespace,
        help="where the run's objects are made",
        group=KUBERNETES,
        metavar="NAME",
        default="the context's",
        container=True,
        config=True,
    ),
    Option(
        name="node_selector",
        parse=container_values.node_labels,
        help="labels that a node has to have",
        group=KUBERNETES,
        metavar="KEY=VALUE…",
        default="any node",
        several=True,
        container=True,
        config=True,
    ),
    Option(
        name="tolerations",
        parse=container_values.tolerations,
        help="taints of nodes that are tolerated: gpu=true:NoSchedule",
        group=KUBERNETES,
        metavar="TAINT…",
        default="none",
        several=True,
        container=True,
        config=True,
    ),
    Option(
        name="service_account",
        parse=container_values.object_name("ServiceAccount"),
        help="whose rights the pods have (its token is not mounted)",
        group=KUBERNETES,
        metavar="NAME",
        default="the namespace's",
        container=True,
        config=True,
    ),
    Option(
        name="image_pull_secret",
        parse=container_values.object_names("Secret"),
        help="Secrets with the image registry's credentials",
        group=KUBERNETES,
        metavar="NAME…",
        default="none",
        several=True,
        container=True,
        config=True,
    ),
    Option(
        name="storage",
        parse=container_values.storage,
        help="size of the volume for the results, or none",
        group=KUBERNETES,
        metavar="BYTES",
        default="10Gi",
        container=True,
        config=True,
    ),
    Option(
        name="storage_class",
        parse=container_values.object_name("StorageClass"),
        help="class of that volume",
        group=KUBERNETES,
        metavar="NAME",
        default="the cluster's",
        container=True,
        config=True,
    ),
    Option(
        name="priority_class",
        parse=container_values.object_name("PriorityClass"),
        help="priority of the pods",
        group=KUBERNETES,
        metavar="NAME",
        default="the cluster's",
        container=True,
        config=True,
    ),
    Option(
        name="secret",
        parse=container_values.secrets,
        help="Secrets as environment variables (NAME) or files (NAME:/path)",
        group=KUBERNETES,
        metavar="NAME…",
        default="none",
        several=True,
        container=True,
        config=True,
    ),
    Option(
        name="volume",
        parse=container_values.volumes,
        help="volumes with data: my-data:/data, my-data:/data:ro",
        group=KUBERNETES,
        metavar="PVC:PATH…",
        default="none",
        several=True,
        container=True,
        config=True,
    ),
    Option(
        name="max_time",
        parse=values.seconds,
        help="stop the run after so long, such as 12h, from the beginning of the training",
        group=TROUBLE,
        metavar="TIME",
        default="no limit",
        container=True,
        config=True,
    ),
    Option(
        name="labels",
        parse=container_values.labels,
        help="labels of all objects",
        group=KUBERNETES,
        metavar="KEY=VALUE…",
        default="nbtrain's own",
        several=True,
        container=True,
        config=True,
    ),
    Option(
        name="annotations",
        parse=container_values.pod_annotations,
        help="annotations of all pods",
        group=KUBERNETES,
        metavar="KEY=VALUE…",
        default="nbtrain's own",
        several=True,
        container=True,
        config=True,
    ),
    Option(
        name="pod_template",
        parse=container_values.pod_template,
        help="YAML file, or dict, merged into the pods last",
        group=KUBERNETES,
        metavar="FILE",
        default="none",
        variable=True,
        container=True,
        config=True,
    ),
    Option(
        name="export",
        parse=values.word,
        help="write what kubectl apply -f runs, and train nothing",
        group=KUBERNETES,
        metavar="FILE",
        default="train now",
    ),
    Option(
        name="dry_run",
        parse=values.flag,
        help="show the objects that would be made, and train nothing",
        group=KUBERNETES,
        default=False,
        flag=True,
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

#: The options of `%k8s_logs` and `nbtrain logs`, and so on.
LOGS = (
    Option(
        name="worker", parse=values.whole(0), help="whose log", group="", metavar="N", default=0
    ),
    Option(name="follow", parse=values.flag, help="go on as it grows", group="", flag=True),
)
STOP = (Option(name="now", parse=values.flag, help="kill it; saves nothing", group="", flag=True),)
DOCTOR = (
    *(o for o in OPTIONS if o.container or o.name in ("workers", "memory")),
    Option(
        name="probe",
        parse=values.flag,
        help="start pods for a moment: image, DNS, network, isolation",
        group=KUBERNETES,
        flag=True,
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
    "cpus": "cpu",
    "cores": "cpu",
    "gpu": "gpus",
    "mem": "memory",
    "ram": "memory",
    "kube_context": "context",
    "ns": "namespace",
    "pvc": "volume",
    "secrets": "secret",
    "toleration": "tolerations",
    "image_pull_secrets": "image_pull_secret",
    "environment": "env",
    "timeout": "max_time",
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
    container = {n: value for n, value in _plain(given).items() if BY_NAME[n].container}
    request = TrainRequest(
        name=name,
        id=new_id(name),
        created=time.time(),
        fit=arguments,
        container=container,
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
    here = [o for o in OPTIONS if o.field or o.fit or o.container]
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


def new_id(name: str) -> str:
    """Return an id of a run that no other one has: its name, the time, a few letters."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    letters = "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(4))
    return f"{name}-{now}-{letters}"
