"""What a run asks of its pods: the request's options, with what is chosen where it says nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from ...runtime.request import TrainRequest

GIB = 2**30
#: Of a worker and of the head, where nothing is asked for, in bytes.
WORKER_MEMORY, HEAD_MEMORY = 2 * GIB, 256 * 2**20
HEAD_CPU, HEAD_CPU_LIMIT = 0.1, 1.0
#: The results' volume, in bytes.
STORAGE = 10 * GIB
#: What a container may write to its node beside the run's own data, in bytes.
DISK = GIB
#: What TensorFlow and the rest take where they are installed when a pod starts, in bytes.
WHEELS_DISK = 4 * GIB
#: The same with NVIDIA's libraries, in bytes; an estimate.
GPU_WHEELS_DISK = 12 * GIB
#: How long a worker of a node that died is waited for before it is replaced, in seconds.
LOST_NODE_S = 30
#: How long after its end the head goes on serving the results when nobody asks it for anything, in
#: seconds: with a volume that outlives it, and without one. A notebook that has read the model does
#: not send the head away: it keeps none of the files, and without a volume they would be lost.
LINGER_S, LINGER_WITHOUT_VOLUME_S = 600, 24 * 3600
#: After how long the head's Job, and with it all but the volume, is removed, in seconds.
TTL_S = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class PodSettings:
    """The options of containers and pods, by their names; see `nbtrain.request.OPTIONS`.

    Parameters
    ----------
    image
        What the pods run in.
    wheels
        Requirements that are installed when a pod starts; empty where the image has them.
    volume
        Whether the results get a volume (PersistentVolumeClaim), or live and die with the head.
    linger
        How long the head goes on serving after the run's end, in seconds.
    """

    image: str
    wheels: tuple[str, ...] = ()
    volume: bool = True
    linger: int = LINGER_S
    cpu: float = 1.0
    memory: int = WORKER_MEMORY
    gpus: int = 0
    env: dict[str, str] = field(default_factory=dict)
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = ()
    service_account: str = ""
    image_pull_secret: tuple[str, ...] = ()
    storage: int = STORAGE
    storage_class: str = ""
    priority_class: str = ""
    secret: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    max_time: float = 0.0
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    template: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, request: TrainRequest, **chosen: Any) -> PodSettings:
        """Return those of a request; `chosen` is what the backend found out, and counts first."""
        asked = {_FIELDS.get(name, name): value for name, value in request.container.items()}
        if request.memory:
            asked["memory"] = request.memory
        if asked.get("storage") == 0:
            asked["volume"], asked["storage"] = False, STORAGE
        known = {f.name for f in fields(cls)}
        given = {name: _frozen(value) for name, value in {**asked, **chosen}.items()}
        if not given.get("volume", True):
            given.setdefault("linger", LINGER_WITHOUT_VOLUME_S)
        return cls(**{name: value for name, value in given.items() if name in known})


#: Options whose fields have another name.
_FIELDS = {"volume": "volumes", "pod_template": "template"}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
