"""The magics: thin faces that hand over to ordinary functions."""

from __future__ import annotations

import builtins
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, no_var_expand

from . import cell as cells
from . import completion, config, image_commands, values
from .errors import NameInUse, OptionError
from .line import Line, parse, words
from .request import DOCTOR, LOGS, ROLES, STOP, Option

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .run import Run

_F = TypeVar("_F", bound=Callable[..., Any])

completion.LINE_OPTIONS.update(k8s_logs=LOGS, k8s_stop=STOP, k8s_doctor=DOCTOR)
completion.SUBCOMMANDS["k8s_image"] = {
    name: command.options for name, command in image_commands.COMMANDS.items()
}


def _documented(text: str) -> Callable[[_F], _F]:
    def document(function: _F) -> _F:
        function.__doc__ = text
        return function

    return document


@magics_class
class TrainMagics(Magics):
    """`%%k8s_train` and the line magics for its runs."""

    shell: InteractiveShell

    # -- training -----------------------------------------------------------------------------

    # Expanded here and not by IPython, which gives up on the whole line where one brace is a
    # dict's, and turns lists and dicts into text.
    @no_var_expand
    @line_cell_magic
    @_documented(completion.help_text())
    def k8s_train(self, line: str, cell: str | None = None) -> None:  # noqa: D102
        from .training import check_free

        given = parse(line, expand=self._expand)
        if given.help:
            print(completion.help_text())
            return
        options = given.options
        name = options.pop("name", None) or "training"
        wait = options.pop("wait", False)
        export, dry_run = options.pop("export", None), options.pop("dry_run", False)
        if options.get("with_optimizer") and "from_run" not in options:
            raise OptionError("--with-optimizer: goes together with --from RUN")
        named = {role: options.pop(role) for role in ROLES if role in options}
        body = self._body(line, cell)
        self._check_name(name, body)
        # A wrong setting should not come up when the cell has worked for minutes.
        backend = str(config.with_defaults(options)["backend"])
        check_free(name, backend, replace=bool(options.get("replace")))
        cells.check_before_running(body, named, self.shell.user_ns)
        if body is not None:
            body.run()
        functions = cells.functions(body, named, self.shell.user_ns)
        if export or dry_run:
            self._export(functions, name, options, export)
        else:
            self._start(functions, name, options, wait)

    def _body(self, line: str, cell: str | None) -> cells.Body | None:
        if cell is None or not cell.strip():
            return None
        return cells.Body(self.shell, cell, f"%%k8s_train {line}".rstrip())

    def _check_name(self, name: str, body: cells.Body | None) -> None:
        """Refuse a name whose variable is taken, before anything is run."""
        if body is not None and name in body.bindings.names:
            raise NameInUse(
                f"--name {name}: the cell itself defines `{name}`; take another name for the run"
            )
        self._check_variable(name)

    def _check_variable(self, name: str) -> None:
        from .run import Run

        namespace = self.shell.user_ns
        if name in namespace and not isinstance(namespace[name], Run):
            kind = type(namespace[name]).__name__
            raise NameInUse(
                f"`{name}` is a variable of the notebook already (of type {kind}), and the run"
                " would replace it; take another --name"
            )
        if name not in namespace and hasattr(builtins, name):
            raise NameInUse(f"`{name}` is Python's own; take another --name")

    def _start(
        self, functions: Mapping[str, Any], name: str, options: dict[str, Any], wait: bool
    ) -> None:
        from .training import train

        run = train(**functions, name=name, **options)
        # Bound before it is waited for: who interrupts the waiting needs it.
        self.shell.user_ns[name] = run
        if wait:
            run.wait().check()

    def _export(
        self, functions: Mapping[str, Any], name: str, options: dict[str, Any], path: str | None
    ) -> None:
        from .training import export

        text = export(**functions, name=name, path=path, **options)
        print(f"kubectl apply --server-side -f {path}   trains it" if path else text)

    def _expand(self, text: str) -> Any:
        return expand(text, self.shell.user_ns)

    # -- settings -----------------------------------------------------------------------------

    @no_var_expand
    @line_magic
    def k8s_config(self, line: str) -> None:
        """Show or change the settings for all cells.

        %k8s_config                       show them, and where they are kept
        %k8s_config workers=4 batch=128   change some
        %k8s_config context=production    train on that cluster, unless a cell says --backend local
        %k8s_config --unset workers       go back to the built-in default
        """
        changes, removed = _changes(words(line), self._expand)
        if changes or removed:
            config.update(changes, removed)
        print(config.table())

    # -- runs ---------------------------------------------------------------------------------

    @line_magic
    def k8s_runs(self, line: str) -> Any:
        """Show all runs, newest first.

        %k8s_runs
        table = %k8s_runs
        """
        from .run import runs

        if words(line):
            raise OptionError(f"{line.strip()}: %k8s_runs takes no options")
        return runs()

    @no_var_expand
    @line_magic
    def k8s_logs(self, line: str) -> None:
        """Show what a worker wrote.

        %k8s_logs NAME                    worker 0
        %k8s_logs NAME --worker 1         another one
        %k8s_logs NAME --follow           go on as it grows, until the run has ended
        """
        given, run = self._named(line, "k8s_logs", LOGS)
        worker = given.options.get("worker", 0)
        if not given.options.get("follow"):
            text = run.logs(worker)
            print(text.rstrip("\n") or f"(worker {worker} has written nothing yet)")
            return
        try:
            for piece in run.follow_logs(worker):
                print(piece, end="", flush=True)
        except KeyboardInterrupt:
            print(f"\n(no longer followed; {run.name} goes on)")

    @no_var_expand
    @line_magic
    def k8s_stop(self, line: str) -> None:
        """Stop a run at its next step; what there is is saved.

        %k8s_stop NAME
        %k8s_stop NAME --now              kill it
        """
        given, run = self._named(line, "k8s_stop", STOP)
        if given.options.get("now"):
            run.stop(0)
        else:
            run.stop()
        print(f"{run.name}: {run.status}")

    @no_var_expand
    @line_magic
    def k8s_attach(self, line: str) -> None:
        """Take a run into this notebook, as the variable of its name.

        %k8s_attach NAME                  a name, or an id of %k8s_runs
        """
        from .run import attach

        run = attach(str(self._name(parse(line, (), expand=self._expand, most=1), "k8s_attach")))
        self._check_variable(run.name)
        self.shell.user_ns[run.name] = run
        run.display()

    @no_var_expand
    @line_magic
    def k8s_export(self, line: str) -> None:
        """Write a run as YAML, which kubectl apply --server-side -f trains anew with no notebook.

        %k8s_export NAME train.yaml       only you can read the file: it holds the run's token
        """
        from .training import export_run

        given = parse(line, (), expand=self._expand, magic="k8s_export", most=2)
        if len(given.words) != 2:
            raise OptionError("%k8s_export: a run's name and a file, as in digits train.yaml")
        run = self._run(given.words[0])
        export_run(run, str(given.words[1]))
        print(f"kubectl apply --server-side -f {given.words[1]}   trains it")

    @no_var_expand
    @line_magic
    def k8s_doctor(self, line: str) -> None:
        """Check what a run on the cluster needs, and say what is missing.

        %k8s_doctor                       with the settings of %k8s_config
        %k8s_doctor --namespace ml --image registry.example/train:1
        %k8s_doctor --probe               start pods for a moment, and see what they see
        """
        from . import doctor

        given = parse(line, DOCTOR, expand=self._expand, magic="k8s_doctor")
        doctor.run(given.options)

    @no_var_expand
    @line_magic
    def k8s_delete(self, line: str) -> None:
        """Remove a run and all its files; a live run is killed first.

        %k8s_delete NAME                  the newest of this name, or an id of %k8s_runs
        """
        _, run = self._named(line, "k8s_delete", ())
        run.delete()
        variable = self.shell.user_ns.get(run.name)
        if getattr(variable, "id", None) == run.id:
            del self.shell.user_ns[run.name]
        print(f"{run.id}: deleted")

    # -- images -------------------------------------------------------------------------------

    @no_var_expand
    @line_magic
    @_documented(image_commands.help_text())
    def k8s_image(self, line: str) -> Any:  # noqa: D102
        name, _, rest = line.strip().partition(" ")
        if name in ("", "--help", "-h", "-?"):
            print(image_commands.help_text())
            return None
        command = image_commands.find(name)
        given = parse(
            rest, command.options, expand=self._expand, magic="k8s_image", most=command.most + 1
        )
        if given.help:
            print(image_commands.help_text())
            return None
        result = command(given.words, given.options)
        if isinstance(result, str):
            print(result)
            return None
        return result

    # -- which run ----------------------------------------------------------------------------

    def _named(self, line: str, magic: str, known: tuple[Option, ...]) -> tuple[Line, Run]:
        """Return a line's options and the run that it names."""
        given = parse(line, known, expand=self._expand, magic=magic, most=1)
        return given, self._run(self._name(given, magic))

    def _run(self, name: Any) -> Run:
        """Return the run that a word of a line names, or is the variable of."""
        from .run import Run, attach, runs

        if isinstance(name, Run):
            return name
        for run in runs():
            if name in (run.name, run.id):
                return run
        variable = self.shell.user_ns.get(name)
        # `attach` says which names there are.
        return variable if isinstance(variable, Run) else attach(name)

    def _name(self, given: Line, magic: str) -> Any:
        if given.help:
            raise OptionError(f"%{magic}? shows the help")
        if not given.words:
            raise OptionError(f"%{magic}: whose? Give a run's name; %k8s_runs shows them")
        return given.words[0]


def _changes(given: list[str], expand: Callable[[str], Any]) -> tuple[dict[str, Any], list[str]]:
    """Return settings to change and settings to remove."""
    changes: dict[str, Any] = {}
    removed: list[str] = []
    removing = False
    for word in given:
        name, equals, text = word.partition("=")
        if word == "--unset":
            removing = True
        elif word.startswith("--unset="):
            removed.append(text)
        elif equals and name and not removing:
            changes[name.lstrip("-")] = expand(text)
        elif removing and not equals:
            removed.append(word)
        else:
            raise OptionError(f"{word}: settings are written as in %k8s_config workers=4")
    if removing and not removed:
        raise OptionError("--unset: which setting? As in %k8s_config --unset workers")
    return changes, removed


# -- notebook variables in a line -----------------------------------------------------------------


def expand(text: str, namespace: Mapping[str, Any]) -> Any:
    """Put notebook variables in, as IPython does: ``{n}``, ``{n * 2}``, ``$n``, ``run_{i}``.

    A word that is one variable or expression becomes its value, not its text.

    Raises
    ------
    OptionError
        If there is no such variable or the expression raises.
    """
    if "{" not in text and "$" not in text:
        return text
    for code in _expressions(text):
        compiled = _compiled(code)
        if compiled is not None:
            return _value(text, compiled, namespace)
    from IPython.utils.text import DollarFormatter

    try:
        return DollarFormatter().vformat(text, args=[], kwargs=dict(namespace))
    except NameError as error:
        raise _no_variable(text, error, namespace) from None
    except Exception:  # braces that mean something else, as for IPython
        return text


def _expressions(text: str) -> Iterator[str]:
    """Yield what a whole word may be: ``$n``, ``{n}``, or a dict."""
    import re

    if re.fullmatch(r"\$[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", text):
        yield text[1:]
    elif text.startswith("{") and text.endswith("}"):
        yield text[1:-1].strip()
        yield text


def _compiled(code: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return compile(code, "<option>", "eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def _value(text: str, compiled: Any, namespace: Mapping[str, Any]) -> Any:
    try:
        return eval(compiled, dict(namespace))
    except NameError as error:
        raise _no_variable(text, error, namespace) from None
    except Exception as error:
        raise OptionError(f"{text}: {type(error).__name__}: {error}") from None


def _no_variable(text: str, error: NameError, namespace: Mapping[str, Any]) -> OptionError:
    name = error.name or text
    near = values.nearest(name, (n for n in namespace if not n.startswith("_")))
    hint = f"; did you mean {near}?" if near else ""
    return OptionError(f"{text}: the notebook has no variable {name}{hint}")


# -- loading --------------------------------------------------------------------------------------


def load(shell: InteractiveShell) -> None:
    """Register magics and completion; doing it again changes nothing."""
    shell.register_magics(TrainMagics)
    completion.register(shell, _run_names)
    transformers = shell.input_transformers_cleanup
    if _lone_line not in transformers:
        transformers.append(_lone_line)


def unload(shell: InteractiveShell) -> None:
    """Undo `load`."""
    manager = shell.magics_manager
    for kind, names in TrainMagics.magics.items():
        for name in names:
            manager.magics[kind].pop(name, None)
    manager.registry.pop(TrainMagics.__name__, None)
    completion.unregister(shell)
    transformers = shell.input_transformers_cleanup
    if _lone_line in transformers:
        transformers.remove(_lone_line)


def _lone_line(lines: list[str]) -> list[str]:
    """Let `%%k8s_train` stand without a body: `--help`, or functions of earlier cells."""
    if lines and lines[0].split()[:1] == ["%%k8s_train"] and not "".join(lines[1:]).strip():
        return [lines[0].removeprefix("%"), *lines[1:]]
    return lines


# In a terminal, where lines are still to come, IPython must not take the first one for all.
_lone_line.has_side_effects = True  # type: ignore[attr-defined]


def _run_names() -> list[str]:
    from .run import runs

    return [run.name for run in runs()]
