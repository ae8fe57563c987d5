"""Several calls at once, where each waits for an engine or a cluster to answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Make calls at the same time and return what they return, in their order.

    All of them have ended when this returns or raises: what one has made can be removed then.

    Raises
    ------
    BaseException
        What the first of them raised that raised anything, in their order.
    """
    results: list[Any] = [None] * len(calls)
    errors: dict[int, BaseException] = {}

    def make(number: int) -> None:
        try:
            results[number] = calls[number]()
        except BaseException as error:
            errors[number] = error

    # None of concurrent.futures': they refuse to work for a script that has come to its end.
    threads = [
        threading.Thread(target=make, args=(number,), name="nbtrain-together")
        for number in range(1, len(calls))
    ]
    for thread in threads:
        thread.start()
    if calls:
        make(0)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[min(errors)]
    return results
