"""Where the test cluster keeps things: nothing of it lies in the repository."""

from __future__ import annotations

import platformdirs

_APP = "nbtrain-tests"

#: Kept from one boot to the next: binaries, pushed images, the nodes' image stores, build logs.
CACHE = platformdirs.user_cache_path(_APP) / "cluster"

#: All that a booted cluster is: `down` removes it.
STATE = platformdirs.user_state_path(_APP) / "cluster"
