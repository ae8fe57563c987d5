"""The roles of the runtime: `python runtime.zip ROLE ...`."""

from __future__ import annotations

import os
import sys


def main(argv: list[str] | None = None) -> int:
    """Run a role and return the exit code."""
    role, *arguments = sys.argv[1:] if argv is None else argv
    match role:
        case "host":
            from . import host

            return host.main(arguments)
        case "head":
            from . import standalone

            return standalone.main(arguments)
        case "agent":
            from . import zygote_process

            begun = zygote_process.begin() if zygote_process.forks() else None
            from . import agent

            return agent.main(arguments, begun)
        case "read":
            from . import reading

            return reading.main(arguments)
        case "receive":
            from . import receiving

            return receiving.main(arguments)
        case "serve":
            from . import serving

            return serving.main(arguments)
        case "ask":
            from . import serving

            return serving.ask(arguments)
        case "probe":
            from . import probe

            return probe.main(arguments)
        case "zygote":
            from . import zygote

            zygote.main(int(arguments[0]), int(arguments[1]))
            return 0
        case "trainer":
            from . import trainer

            os._exit(trainer.main(int(arguments[0])))
    print(f"unknown role: {role}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
