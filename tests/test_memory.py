"""What a worker's memory is like: measured in a process of its own, since it is a process' own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

#: Makes and drops 16 blocks of 1 MiB again and again; prints the page faults of the last rounds.
PROGRAM = """
import resource, sys
from nbtrain.runtime import memory

if sys.argv[1] != "as it is":
    memory.keep_freed()

def rounds(count):
    for _ in range(count):
        blocks = [bytearray(1 << 20) for _ in range(16)]

rounds(5)
if sys.argv[1] == "given back":
    memory.give_back()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
rounds(20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*arguments: str, **environment: str) -> int:
    """Return the page faults of 20 rounds of the program."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_what_is_freed_is_kept_and_used_again():
    assert faults("kept") < 100
    assert faults("as it is") > 1000
    assert faults("given back") > 1000


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_a_user_who_has_set_malloc_is_obeyed():
    assert faults("kept", MALLOC_TRIM_THRESHOLD_="131072") > 1000
