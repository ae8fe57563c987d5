"""What the head tells of its workers' speed and memory: enough, and not too much."""

from __future__ import annotations

import random

from nbtrain.runtime.usage import Meter


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def told(meter, clock, seconds, rate, memory=lambda: 10**9, workers=(0, 1)):
    """Let workers train for so long, and return the events that came of it."""
    found, trained = [], dict.fromkeys(workers, 0.0)
    for _ in range(seconds):
        clock.now += 1.0
        for worker in workers:
            trained[worker] += rate(worker)
            meter.heard(worker, trained[worker], memory())
        found.append(meter.told())
    return [event for event in found if event is not None]


def test_rate_is_that_of_the_examples_since_the_last_time():
    clock = Clock()
    meter = Meter(clock)
    last = told(meter, clock, 4, lambda worker: 100.0 * (worker + 1))[-1]
    assert last.workers == [0, 1]
    assert last.examples_per_s == [100.0, 200.0]
    assert last.memory == [10**9, 10**9]


def test_nothing_is_said_before_anybody_has_trained_or_where_nothing_has_changed():
    clock = Clock()
    meter = Meter(clock)
    assert [e.examples_per_s for e in told(meter, clock, 6, lambda *_: 0.0)] == [[None, None]]
    meter.clear()
    assert len(told(meter, clock, 60, lambda *_: 100.0)) <= 3
    meter.clear()
    again = told(meter, clock, 60, lambda *_: 100.0, memory=lambda: 2 * 10**9)
    assert 1 <= len(again) <= 3


def test_a_new_generation_counts_anew():
    clock = Clock()
    meter = Meter(clock)
    told(meter, clock, 10, lambda *_: 100.0)
    meter.clear()
    later = told(meter, clock, 5, lambda *_: 50.0, workers=(1,))
    assert later[-1].workers == [1]
    assert later[-1].examples_per_s == [50.0]


def test_a_day_has_some_thousands_of_them_whatever_the_workers_do():
    clock = Clock()
    meter = Meter(clock)
    chance = random.Random(0)
    day = told(meter, clock, 86_400, lambda *_: 100.0, memory=lambda: chance.randrange(10**9))
    assert 1000 < len(day) < 3200
