"""Merging a user's part of a manifest into ours, as `kubectl patch` does it (strategic merge)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: The field by which the items of a list are the same one; other lists are replaced.
_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
#: Lists to which the user's items are added.
_ADDED = {"tolerations", "envFrom"}


def merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return `ours` with `theirs` put over it; None removes a field. Both stay as they are."""
    found = dict(ours)
    for key, value in theirs.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, Mapping):
            old = found.get(key)
            found[key] = merged(old if isinstance(old, Mapping) else {}, value)
        elif isinstance(value, list) and isinstance(found.get(key), list):
            found[key] = _merged_list(key, found[key], value)
        else:
            found[key] = value
    return found


def _merged_list(name: str, ours: list[Any], theirs: list[Any]) -> list[Any]:
    if name in _ADDED:
        return ours + [item for item in theirs if item not in ours]
    key = _KEYS.get(name)
    if key is None or not all(isinstance(item, Mapping) and key in item for item in theirs):
        return theirs
    by_key = {item[key]: item for item in ours}
    for item in theirs:
        by_key[item[key]] = merged(by_key.get(item[key], {}), item)
    return list(by_key.values())
