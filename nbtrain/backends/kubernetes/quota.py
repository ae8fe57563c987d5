"""Whether a namespace's quotas have room for a run: for its head and all of its workers.

The cluster itself looks at one pod after the other. The pod that is one too many would be refused
when the others wait for it already.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from .manifests import Manifests, quantity

Object = Mapping[str, Any]
#: Amounts by a quota's own names: "requests.cpu", "limits.memory", "pods".
Amounts = dict[str, Decimal]

_AMOUNT = re.compile(r"([+-]?\d*\.?\d*(?:[eE][+-]?\d+)?)([numkKMGTPE]?i?)")
_FACTORS = {
    "": Decimal(1),
    **{unit: Decimal(10) ** (3 * power) for power, unit in enumerate("num", -3)},
    **{unit: Decimal(10) ** (3 * power) for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}
#: What a quota may name without saying that requests are meant.
_PLAIN = ("cpu", "memory", "ephemeral-storage")


def amount(text: object) -> Decimal:
    """Return a quantity as a number: 500m is half, 1Ki is 1024."""
    match = _AMOUNT.fullmatch(str(text))
    if not match or match[2] not in _FACTORS:
        raise ValueError(f"{text} is no quantity")
    return Decimal(match[1]) * _FACTORS[match[2]]


def of_run(manifests: Manifests) -> Amounts:
    """Return what the head's and the workers' pods take of a quota together."""
    head, workers = (job["spec"] for job in (manifests.head(), manifests.workers()))
    worker = of_pod(workers["template"]["spec"])
    return added([of_pod(head["template"]["spec"]), *[worker] * workers["parallelism"]])


def added(all_of_them: Iterable[Amounts]) -> Amounts:
    """Return the sums of amounts."""
    total: Amounts = {}
    for amounts in all_of_them:
        for name, size in amounts.items():
            total[name] = total.get(name, Decimal(0)) + size
    return total


def of_pod(spec: Object) -> Amounts:
    """Return what a pod takes of a quota."""
    found: Amounts = {"pods": Decimal(1), "count/pods": Decimal(1)}
    for part in ("requests", "limits"):
        for resource, size in _of_containers(spec, part).items():
            found[f"{part}.{resource}"] = size
            if part == "requests" and resource in _PLAIN:
                found[resource] = size
    return found


def _of_containers(spec: Object, part: str) -> Amounts:
    """Return what a pod's containers take together; those that come first take it before."""
    together = added(_of_container(c, part) for c in spec.get("containers") or ())
    for container in spec.get("initContainers") or ():
        for name, size in _of_container(container, part).items():
            together[name] = max(together.get(name, Decimal(0)), size)
    return together


def _of_container(container: Object, part: str) -> Amounts:
    given = container.get("resources") or {}
    found = dict(given.get("limits") or {})  # which requests are, too, where there are none
    if part == "requests":
        found |= given.get("requests") or {}
    return {name: amount(size) for name, size in found.items()}


def shortages(quotas: Iterable[Object], needed: Amounts, freed: Amounts) -> list[str]:
    """Return in words what quotas lack for what is needed, with what will be `freed` for it.

    A quota for some pods only (it has scopes) is left to the cluster.
    """
    found = []
    for quota in quotas:
        if quota["spec"].get("scopes") or quota["spec"].get("scopeSelector"):
            continue
        status = quota.get("status") or {}
        for name, limit in (status.get("hard") or {}).items():
            used = amount((status.get("used") or {}).get(name, 0)) - freed.get(name, Decimal(0))
            left = max(amount(limit) - used, Decimal(0))
            if needed.get(name, Decimal(0)) > left:
                found.append(
                    f"{quota['metadata']['name']} has {_shown(name, left)} of {limit} {name} left,"
                    f" and {_shown(name, needed[name])} are needed"
                )
    return found


def _shown(name: str, size: Decimal) -> str:
    is_bytes = name.endswith(("memory", "storage"))
    return quantity(int(size)) if is_bytes and size else f"{size.normalize():f}"
