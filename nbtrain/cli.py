"""The command `nbtrain`: a thin face for the shell, like the magics for the notebook."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from . import __version__, image_commands
from .errors import NbtrainError, WaitInterrupted
from .request import DOCTOR, LOGS, STOP, Option

#: What a program ends with that was interrupted, by the shell's convention.
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return an exit status: 1 for an error that nbtrain explains.

    A command returns what is to be printed, or None, or its exit status.
    """
    arguments = vars(_parser().parse_args(argv))
    run = arguments.pop("run")
    try:
        result = run(arguments)
        if result is not None and not isinstance(result, int):
            print(result, flush=True)
    except NbtrainError as error:
        print(f"nbtrain: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read it has enough: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return result if isinstance(result, int) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nbtrain", description="Distributed TensorFlow training from a notebook."
    )
    parser.add_argument("--version", action="version", version=__version__)
    topics = parser.add_subparsers(metavar="COMMAND", required=True)
    # Each topic adds itself.
    _add_runs(topics)
    _add_doctor(topics)
    _add_image(topics)
    _add_replay(topics)
    return parser


# -- runs -----------------------------------------------------------------------------------------


def _add_runs(topics: Any) -> None:
    about = "show all runs, newest first"
    topics.add_parser("runs", help=about, description=_sentence(about)).set_defaults(run=_runs)
    commands: list[tuple[Callable[..., Any], str, Sequence[Option]]] = [
        (_attach, "follow a run until it has ended; Ctrl-C leaves it running", ()),
        (_logs, "show what a worker wrote", LOGS),
        (_stop, "stop a run at its next step; what there is is saved", STOP),
        (_delete, "remove a run and all its files; a live run is killed first", ()),
    ]
    for run, about, options in commands:
        name = run.__name__.removeprefix("_")
        face = topics.add_parser(name, help=about, description=_sentence(about))
        face.add_argument("name", metavar="NAME", help="the run's name (the newest one) or its id")
        add_options(face, options)
        face.set_defaults(run=_of_run(run, options))


def _sentence(about: str) -> str:
    return about[0].upper() + about[1:] + "."


def _of_run(run: Callable[..., Any], options: Sequence[Option]) -> Callable[..., Any]:
    return lambda arguments: run(arguments.pop("name"), **checked(arguments, options))


def _runs(_: dict[str, Any]) -> Any:
    from .run import runs

    return runs()


def _logs(name: str, worker: int = 0, follow: bool = False) -> None:
    from .run import named

    run = named(name)
    for piece in run.follow_logs(worker) if follow else [run.logs(worker)]:
        print(piece, end="", flush=True)


def _stop(name: str, now: bool = False) -> str:
    from .run import named

    run = named(name)
    run.stop(0) if now else run.stop()
    return f"{run.name}: {run.status}"


def _delete(name: str) -> str:
    from .run import named

    run = named(name)
    run.delete()
    return f"{run.id}: deleted"


def _attach(name: str) -> int:
    from .run import attach

    run = attach(name)
    try:
        run.wait()
    except WaitInterrupted:
        print(f"{run.name} goes on; nbtrain stop {run.name} stops it", file=sys.stderr)
        return INTERRUPTED
    print(run)
    return int(run.status not in ("succeeded", "stopped"))


# -- the cluster ----------------------------------------------------------------------------------


def _add_doctor(topics: Any) -> None:
    about = "check what a run on the cluster needs, and say what is missing"
    parser = topics.add_parser("doctor", help=about, description=_sentence(about))
    add_options(parser, DOCTOR)
    parser.set_defaults(run=_doctor)


def _doctor(arguments: dict[str, Any]) -> int:
    from . import doctor

    return doctor.run(checked(arguments, DOCTOR))


# -- images ---------------------------------------------------------------------------------------


def _add_image(topics: Any) -> None:
    title = "build, push, save and load the image that workers train in"
    parser = topics.add_parser("image", help=title, description=_sentence(title))
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in image_commands.COMMANDS.values():
        about = command.help.replace("%", "%%")
        face = commands.add_parser(command.name, help=about, description=about)
        if command.most:
            face.add_argument("words", nargs="*", metavar="WORD", help=command.words)
            face.usage = f"nbtrain image {command.name} [OPTIONS] {command.words}"
        add_options(face, command.options)
        face.set_defaults(run=_image_runner(command))


def _image_runner(command: image_commands.Command) -> Any:
    def run(arguments: dict[str, Any]) -> Any:
        return command(arguments.pop("words", ()), checked(arguments, command.options))

    return run


def _add_replay(topics: Any) -> None:
    title = "show a recorded run again"
    parser = topics.add_parser("replay", help=title, description=title.capitalize() + ".")
    parser.add_argument(
        "of", metavar="RECORDING", help="an events.jsonl, a run directory, or a run's name or id"
    )
    parser.add_argument(
        "--speed", type=float, default=1.0, metavar="X", help="X times as fast as it was (1)"
    )
    parser.set_defaults(run=_replay)


def _replay(arguments: dict[str, Any]) -> str:
    from .recordings import replay

    return repr(replay(arguments["of"], arguments["speed"]).wait())


# -- options of nbtrain's own tables --------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser, options: Sequence[Option]) -> None:
    """Add options of nbtrain's own tables to a parser."""
    for option in options:
        written = [f"-{alias}" for alias in option.aliases if len(alias) == 1] + [option.dashed]
        kind: dict[str, Any] = {"metavar": option.metavar}
        if option.flag:
            kind = {"action": "store_true"}
        elif option.several:
            kind |= {"action": "extend", "nargs": "+"}
        parser.add_argument(
            *written,
            dest=option.name,
            default=argparse.SUPPRESS,
            help=option.help.replace("%", "%%"),
            **kind,
        )


def checked(given: dict[str, Any], options: Sequence[Option]) -> dict[str, Any]:
    """Return the options that were given, checked as in the notebook."""
    return {
        option.name: option.checked(given[option.name], _shown(option, given[option.name]))
        for option in options
        if option.name in given
    }


def _shown(option: Option, value: Any) -> str:
    words = value if isinstance(value, list) else [value]
    return " ".join([option.dashed, *map(str, words)]).rstrip()


if __name__ == "__main__":
    sys.exit(main())
