"""Values of the options of containers and pods, in Kubernetes' own names and quantities.

As in `values`: a parser takes text or a Python value, returns what JSON has, and raises ValueError
that ends the sentence "--cpu lots: …". What a parser returns it takes as well.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .values import Parser, memory

_T = TypeVar("_T")

#: A part of a Kubernetes name, and a name of several parts (DNS, RFC 1123).
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
#: The last part of a label's or annotation's key, and a label's value.
_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_KEY = rf"(?:(?P<prefix>{_SUBDOMAIN})/)?{_WORD}"
#: [host[:port]/]path[:tag][@digest], as the engines write images.
_IMAGE = (
    r"(?=.{1,400}$)(?:[A-Za-z0-9.-]+(?::\d{1,5})?/)?"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@[a-z0-9]+:[0-9a-f]{32,})?"
)
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
#: Set by nbtrain in every worker.
_OWN_VARIABLES = ("TF_CONFIG", "HOME", "TMPDIR", "KERAS_HOME")
#: Of the labels and annotations that belong to nbtrain.
OWN_PREFIX = "nbtrain"
#: Where a mount would hide what the run needs.
_OWN_FOLDERS = ("/", "/nbtrain", "/dev", "/proc", "/sys", "/tmp")


def cores(value: Any) -> float:
    """Parse a number of CPU cores as Kubernetes writes it: 2, 0.5 or 500m."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)(m?)", str(value).strip())
    number = float(match[1]) / (1000 if match[2] else 1) if match else 0.0
    if isinstance(value, bool) or not 0.001 <= number <= 4096:
        raise ValueError("must be a number of cores, such as 2, 0.5 or 500m")
    return round(number, 3)


def storage(value: Any) -> int:
    """Parse the size of a volume, such as 20Gi; 0 for "none"."""
    if isinstance(value, str) and value.strip().lower() == "none":
        return 0
    try:
        return 0 if value == 0 and not isinstance(value, bool) else memory(value)
    except ValueError:
        raise ValueError("must be the size of a volume, such as 20Gi, or none") from None


def image(value: Any) -> str:
    """Parse the name of an image: registry.example/team/train:1."""
    if isinstance(value, str) and re.fullmatch(_IMAGE, value.strip()):
        return value.strip()
    raise ValueError("must be the name of an image, such as registry.example/team/train:1")


def object_name(kind: str) -> Parser:
    """Return a parser of the name of a Kubernetes object; `kind` says of which."""

    def parse(value: Any) -> str:
        text = value.strip() if isinstance(value, str) else ""
        if len(text) > 253 or not re.fullmatch(_SUBDOMAIN, text):
            raise ValueError(f"must be the name of a {kind}: lower-case letters, digits and dashes")
        return text

    return parse


def namespace(value: Any) -> str:
    """Parse the name of a namespace."""
    text = value.strip() if isinstance(value, str) else ""
    if not re.fullmatch(_LABEL, text):
        raise ValueError(
            "must be the name of a namespace: at most 63 lower-case letters, digits and dashes"
        )
    return text


def object_names(kind: str) -> Parser:
    """Return a parser of the names of several objects."""
    return lambda value: _each(value, object_name(kind), f"must be names of {kind}s")


def environment(value: Any) -> dict[str, str]:
    """Parse environment variables: NAME=VALUE, or NAME alone for the notebook's own value."""
    found = {}
    for name, text in _pairs(value, "NAME=VALUE, such as HF_HOME=/data", _own_variable):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"{name!r} is not the name of an environment variable")
        if name in _OWN_VARIABLES or name.startswith("NBTRAIN_"):
            raise ValueError(f"{name} is set by nbtrain itself")
        if "\0" in text:
            raise ValueError(f"{name}: a value can't hold a zero byte")
        found[name] = text
    return found


def _own_variable(name: str) -> str:
    try:
        return os.environ[name]
    except (KeyError, ValueError):
        raise ValueError(f"{name} has no value here; write {name}=VALUE") from None


def labels(value: Any) -> dict[str, str]:
    """Parse labels: key=value, several with commas or spaces between."""
    found = node_labels(value)
    for key in found:
        _refuse_own(key)
    return found


def node_labels(value: Any) -> dict[str, str]:
    """Parse the labels that a node has to have: disktype=ssd."""
    if isinstance(value, str):
        value = [part for part in re.split(r"[,\s]+", value) if part] or value
    found = {}
    for key, text in _pairs(value, "key=value, such as team=vision"):
        _check_key(key)
        if text and not re.fullmatch(_WORD, text):
            raise ValueError(
                f"{text!r} can't be a label's value: letters, digits, dashes, dots and"
                " underscores, at most 63"
            )
        found[key] = text
    return found


def pod_annotations(value: Any) -> dict[str, str]:
    """Parse annotations: key=value; the value may be any text."""
    found = {}
    for key, text in _pairs(value, "key=value, such as example.com/owner=vision"):
        _check_key(key)
        _refuse_own(key)
        found[key] = text
    return found


def _check_key(key: str) -> None:
    match = re.fullmatch(_KEY, key)
    if not match or len(match["prefix"] or "") > 253:
        raise ValueError(f"{key!r} can't be a key; keys are like team or example.com/team")


def _refuse_own(key: str) -> None:
    if key.startswith(OWN_PREFIX + "/"):
        raise ValueError(f"{key} belongs to nbtrain")


def tolerations(value: Any) -> tuple[dict[str, Any], ...]:
    """Parse taints that the pods tolerate: key, key=value, key:Effect or key=value:Effect."""
    return _each(value, _toleration, "must be taints, such as gpu=true:NoSchedule")


def _toleration(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return _known_fields(value, ("key", "operator", "value", "effect", "tolerationSeconds"))
    text = value.strip() if isinstance(value, str) else ""
    match = re.fullmatch(
        rf"(?P<key>{_KEY})(?P<equals>=(?P<value>[^:]*))?(?::(?P<effect>\w+))?", text
    )
    if not match:
        raise ValueError("must be a taint, such as gpu=true:NoSchedule")
    if match["effect"] and match["effect"] not in EFFECTS:
        raise ValueError(f"{match['effect']}: the effects are {', '.join(EFFECTS)}")
    found: dict[str, Any] = {"key": match["key"], "operator": "Exists"}
    if match["equals"]:
        found |= {"operator": "Equal", "value": match["value"]}
    return found | ({"effect": match["effect"]} if match["effect"] else {})


def secrets(value: Any) -> tuple[str, ...]:
    """Parse Secrets: NAME (its keys become environment variables) or NAME:/path (files)."""
    parse = _mounted("Secret", path_needed=False)
    return _each(value, parse, "must be Secrets, such as s3-keys")


def volumes(value: Any) -> tuple[str, ...]:
    """Parse volumes: PVC:/path, or PVC:/path:ro to only read from it."""
    return _each(value, _mounted("PersistentVolumeClaim"), "must be volumes, such as my-data:/data")


def _mounted(kind: str, *, path_needed: bool = True) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        text = value.strip() if isinstance(value, str) else ""
        name, colon, rest = text.partition(":")
        object_name(kind)(name)
        if not colon and not path_needed:
            return name
        path, _, mode = rest.partition(":")
        if not re.fullmatch(r"(/[^/:\0]+)+/?", path) or ".." in path.split("/"):
            raise ValueError(f"must be {kind}:/path, such as {name}:/data")
        path = path.rstrip("/")
        if path in _OWN_FOLDERS or path.startswith("/nbtrain/"):
            raise ValueError(f"{path} is needed by the run itself; take another path")
        if mode not in ("", "ro") or (mode and not path_needed):
            raise ValueError(f"{mode!r} is not known after the path")
        return f"{name}:{path}" + (f":{mode}" if mode else "")

    return parse


def pod_template(value: Any) -> dict[str, Any]:
    """Parse a pod template: the name of a YAML or JSON file, or a dict with `spec`."""
    if isinstance(value, str | os.PathLike):
        value = _loaded(Path(value))
    if not isinstance(value, Mapping):
        raise ValueError("must be a YAML file, or a dict, with a pod's metadata and spec")
    if value.get("kind") not in (None, "Pod", "PodTemplate"):
        raise ValueError("must be a pod or a pod template")
    inner = value["template"] if value.get("kind") == "PodTemplate" else value
    if not isinstance(inner, Mapping):
        raise ValueError("must have a pod's metadata and spec")
    found = {key: inner[key] for key in ("metadata", "spec") if inner.get(key)}
    if not found or not all(isinstance(part, Mapping) for part in found.values()):
        raise ValueError("must have a pod's metadata or spec")
    plain: dict[str, Any] = _as_json(found)
    return plain


def _loaded(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.expanduser().read_text("utf-8"))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise ValueError(f"can't be read: {why}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"is not YAML{where}") from None


def _as_json(value: Any) -> Any:
    import json

    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError):
        raise ValueError("must hold only what YAML has: text, numbers, lists, mappings") from None


def _each(value: Any, parse: Callable[[Any], _T], says: str) -> tuple[_T, ...]:
    """Return what `parse` makes of each of several values, or of the one there is."""
    single = isinstance(value, str | Mapping) or not isinstance(value, Iterable)
    values = [value] if single else list(value)
    if not values:
        raise ValueError(says)
    return tuple(parse(item) for item in values)


def _pairs(
    value: Any, like: str, missing: Callable[[str], str] | None = None
) -> list[tuple[str, str]]:
    """Return keys and values of a mapping, of ``key=value`` or of several such texts."""
    if isinstance(value, Mapping):
        pairs = list(value.items())
    else:
        items = [value] if isinstance(value, str) or not isinstance(value, Iterable) else value
        pairs = [_pair(item, like, missing) for item in items]
    if not pairs or not all(isinstance(key, str) for key, _ in pairs):
        raise ValueError(f"must be {like}")
    return [(key, _text(key, text)) for key, text in pairs]


def _pair(item: Any, like: str, missing: Callable[[str], str] | None) -> tuple[str, str]:
    name, equals, text = item.partition("=") if isinstance(item, str) else ("", "", "")
    if name.strip() and not equals and missing is not None:
        return name.strip(), missing(name.strip())
    if not name.strip() or not equals:
        raise ValueError(f"must be {like}")
    return name.strip(), text


def _text(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise ValueError(f"the value of {key} must be text")


def _known_fields(value: Mapping[Any, Any], known: tuple[str, ...]) -> dict[str, Any]:
    strange = [str(key) for key in value if key not in known]
    if strange or not value:
        raise ValueError(f"{', '.join(strange) or 'it is empty'}: there are {', '.join(known)}")
    found: dict[str, Any] = _as_json(dict(value))
    return found
