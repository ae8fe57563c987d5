"""The body of a cell: what it binds, running it as IPython runs a cell, and its functions."""

from __future__ import annotations

import ast
import collections
import contextlib
import traceback
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import FunctionError, NbtrainError, OptionError
from .request import ROLES
from .values import nearest

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

#: Those that a cell must have.
REQUIRED = ROLES[:2]

#: Names that others give to it, besides those that contain it.
_ALSO = {
    "model": ("net", "network", "build", "make", "create"),
    "dataset": ("data", "ds", "train_ds", "train_data", "load", "load_data"),
}
_EXAMPLE = {
    "model": "def model(): ... compiles a Keras model and returns it.",
    "dataset": "def dataset(): ... returns the data, such as (x, y).",
}
_DATA = "a function that returns the data, or the data"
_WANTED = {
    "dataset": _DATA,
    "validation": _DATA,
    "callbacks": "a function that returns Keras callbacks, or a list of them",
}
#: Calls that may bind names which the source doesn't show.
_DYNAMIC = {"get_ipython", "exec", "globals", "locals", "vars", "setattr"}
#: What they contain may not be run.
_CONDITIONAL = (
    ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.TryStar, ast.Match, ast.IfExp,
    ast.BoolOp, ast.Compare,
)  # fmt: skip
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_SCOPES = (*_DEFINITIONS, ast.Lambda)


class CellSyntaxError(NbtrainError):
    """The body of a cell is not Python; shows as IPython shows a SyntaxError."""

    def __init__(self, error: SyntaxError, shown: list[str]) -> None:
        super().__init__(str(error))
        self._shown = shown

    def _render_traceback_(self) -> list[str]:
        return self._shown


# -- what a cell binds ----------------------------------------------------------------------------


@dataclass
class Bindings:
    """Names that the top level of a cell binds.

    Attributes
    ----------
    names
        All of them.
    functions, imported
        Those that it defines, with ``def`` or ``class``; those that it imports.
    maybe
        Those that are bound under a condition only.
    dynamic
        It may bind others: ``from x import *``, ``%run``, ``exec``.
    """

    names: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    imported: set[str] = field(default_factory=set)
    maybe: set[str] = field(default_factory=set)
    dynamic: bool = False

    def doubts(self, name: str) -> bool:
        """Tell whether the source leaves open if the cell binds a name."""
        return name in self.maybe or (self.dynamic and name not in self.names)


def bindings(tree: ast.Module) -> Bindings:
    """Return the names that a cell's top level binds."""
    found = Bindings()
    certain: set[str] = set()
    for node, sure in _top_level(tree.body, True):
        names = set(_bound_by(node))
        found.names |= names
        found.functions |= names if isinstance(node, _DEFINITIONS) else set()
        found.imported |= names if isinstance(node, ast.Import | ast.ImportFrom) else set()
        certain |= names if sure else set()
        found.dynamic |= _is_dynamic(node)
    found.maybe = found.names - certain
    return found


def _top_level(body: list[Any], sure: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Yield the nodes outside functions and classes, and whether they are always run."""
    for node in body:
        yield node, sure
        if isinstance(node, _SCOPES):
            continue
        if isinstance(node, ast.comprehension):  # its target is its own
            yield from _top_level([node.iter, *node.ifs], False)
            continue
        within = sure and not isinstance(node, _CONDITIONAL)
        yield from _top_level(list(ast.iter_child_nodes(node)), within)


def _bound_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, _DEFINITIONS):
        yield node.name
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0]
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
        yield node.name
    elif isinstance(node, ast.MatchMapping) and node.rest:
        yield node.rest


def _is_dynamic(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return any(alias.name == "*" for alias in node.names)
    return isinstance(node, ast.Name) and node.id in _DYNAMIC


# -- running it -----------------------------------------------------------------------------------


class _Recorder(collections.UserDict[str, Any]):
    """The notebook's namespace, remembering which names were bound through it."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        super().__init__()
        self.data = namespace
        self.bound: set[str] = set()

    def __setitem__(self, name: str, value: Any) -> None:
        self.bound.add(name)
        self.data[name] = value


class Body:
    """The body of a cell, parsed.

    Parameters
    ----------
    shell
        The notebook's.
    source
        The cell without its first line.
    first_line
        The magic's own line, for tracebacks.

    Raises
    ------
    CellSyntaxError
        If it is not Python.
    """

    def __init__(self, shell: InteractiveShell, source: str, first_line: str) -> None:
        self._shell = shell
        try:
            text = _text(shell, source, first_line)
            self._file = _name_and_cache(shell, text)
            tree: Any = shell.compile.ast_parse(text, filename=self._file)
            self.bindings = bindings(tree)
            tree = shell.transform_ast(tree)  # type: ignore[no-untyped-call]
            self._code: types.CodeType = shell.compile(tree, self._file, "exec")
        except (SyntaxError, ValueError, OverflowError) as error:
            raise _as_ipython_shows(shell, error) from None
        #: The names that running it has bound; empty before.
        self.bound: set[str] = set()

    def run(self) -> None:
        """Run it in the notebook's namespace; an error shows the user's own frames alone."""
        namespace = self._shell.user_ns
        before = {role: namespace.get(role) for role in ROLES}
        # Where a cell may or may not bind a name that an earlier cell has bound, only watching
        # tells. Reading names is slower then, so this is not done where the source tells.
        doubtful = any(role in namespace and self.bindings.doubts(role) for role in ROLES)
        recorder = _Recorder(namespace)
        try:
            exec(self._code, self._shell.user_global_ns, recorder if doubtful else namespace)
        except SyntaxError as error:  # of a module, or of code that the body compiles
            raise _as_ipython_shows(self._shell, error, _own(error)) from None
        except BaseException as error:
            _show_own_frames(self._shell, error)
            raise
        static = self.bindings.names - (self.bindings.maybe if doubtful else set())
        changed = {r for r in ROLES if r in namespace and namespace[r] is not before[r]}
        self.bound = {n for n in static | recorder.bound | changed if n in namespace}


def _text(shell: InteractiveShell, source: str, first_line: str) -> str:
    """Return the body as Python, each line with the number that it has in the notebook."""
    above = _lines_above(shell, source, first_line)
    lines = source.splitlines(keepends=True)
    # IPython removes empty lines at the beginning.
    empty = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
    body: str = shell.transform_cell("".join(lines[empty:]))  # type: ignore[no-untyped-call]
    return "".join(f"# {line}\n" for line in above) + "\n" * empty + body


def _lines_above(shell: InteractiveShell, source: str, first_line: str) -> list[str]:
    raw = _raw_cell(shell).rstrip()
    above = raw.removesuffix(source.rstrip())
    if above.endswith("\n"):
        return above.splitlines()
    return [first_line]


def _raw_cell(shell: InteractiveShell) -> str:
    result = shell.displayhook.exec_result
    return result.info.raw_cell or "" if result is not None and result.info else ""


def _name_and_cache(shell: InteractiveShell, text: str) -> str:
    """Name the body as IPython names the cell (debuggers know it by that), and keep its text."""
    result = shell.displayhook.exec_result
    number = shell.execution_count if result is None else result.execution_count
    return shell.compile.cache(text, number or 0, raw_code=_raw_cell(shell) or text)


def _as_ipython_shows(
    shell: InteractiveShell, error: Exception, frames: types.TracebackType | None = None
) -> CellSyntaxError:
    if not isinstance(error, SyntaxError):
        return CellSyntaxError(SyntaxError(str(error)), [f"SyntaxError: {error}"])
    # As IPython's `showsyntaxerror` calls it, which is not what its types say.
    listed: Any = traceback.extract_tb(frames)
    return CellSyntaxError(error, shell.SyntaxTB.structured_traceback(type(error), error, listed))


def _own(error: BaseException) -> types.TracebackType | None:
    """Return the traceback from the body on; the first frame is nbtrain's."""
    return error.__traceback__.tb_next if error.__traceback__ else None


def _show_own_frames(shell: InteractiveShell, error: BaseException) -> None:
    """Have IPython leave out the frames from the magic to the body, which help nobody."""
    own = _own(error)
    if hasattr(error, "_render_traceback_"):
        return

    def render() -> Any:
        return shell.InteractiveTB.structured_traceback(type(error), error, own, tb_offset=0)

    with contextlib.suppress(AttributeError, TypeError):
        error._render_traceback_ = render  # type: ignore[attr-defined]


# -- its functions --------------------------------------------------------------------------------


def functions(
    body: Body | None, named: Mapping[str, Any], namespace: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the functions by role: those that options name, else those that the cell bound.

    Raises
    ------
    FunctionError
        If one is missing or can't be used.
    OptionError
        If an option names something that is not there.
    """
    bound = body.bound if body else set()
    found: dict[str, Any] = {}
    for role in ROLES:
        if named.get(role) is not None:
            found[role] = _named(role, named[role], namespace)
        elif role in bound and namespace[role] is not None:
            found[role] = namespace[role]
        elif role in REQUIRED:
            raise missing(role, body, namespace)
    _check(found, named)
    return found


def check_before_running(
    body: Body | None, named: Mapping[str, Any], namespace: Mapping[str, Any]
) -> None:
    """Find what is missing before the body is run, where its source tells."""
    if body is not None and body.bindings.dynamic:
        return
    names = body.bindings.names if body else set()
    for role in ROLES:
        value = named.get(role)
        if isinstance(value, str):
            if value.partition(".")[0] not in names:
                _named(role, value, namespace, names)
        elif value is None and role in REQUIRED and role not in names:
            raise missing(role, body, namespace)


def _named(
    role: str, name: Any, namespace: Mapping[str, Any], names: set[str] | None = None
) -> Any:
    """Return what `--model build` names; a variable's value is taken as it is."""
    if not isinstance(name, str):
        return name
    first, *rest = name.split(".")
    if not all(part.isidentifier() for part in (first, *rest)):
        raise OptionError(f"--{role} {name}: must be the name of a function, such as build_model")
    if first not in namespace:
        near = nearest(first, _visible(namespace) | (names or set()))
        raise OptionError(
            f"--{role} {name}: the notebook has no {first}"
            + (f"; did you mean {near}?" if near else "; run the cell that defines it first")
        )
    value = namespace[first]
    for part in rest:
        if not hasattr(value, part):
            near = nearest(part, dir(value))
            raise OptionError(
                f"--{role} {name}: there is no {part}" + (f"; did you mean {near}?" if near else "")
            )
        value = getattr(value, part)
    return value


def missing(role: str, body: Body | None, namespace: Mapping[str, Any]) -> FunctionError:
    """Return the error for a function that the cell does not have, with the likely reason."""
    has = body.bindings if body else Bindings()
    similar = _similar(role, has.functions.difference(ROLES))
    if not similar and role == "dataset":  # which may be data as well
        similar = _similar(role, has.names - has.imported - set(ROLES))
    if similar:
        return FunctionError(
            f"the cell has no `{role}` but has `{similar}`; rename it, or add --{role} {similar}"
        )
    if namespace.get(role) is not None:
        return FunctionError(
            f"`{role}` is defined in an earlier cell; add --{role} {role} to use it"
        )
    earlier = _similar(role, {n for n in _visible(namespace) if _is_own(namespace[n])})
    if earlier:
        return FunctionError(
            f"the cell has no `{role}`; an earlier one has `{earlier}`:"
            f" add --{role} {earlier} to use it"
        )
    return FunctionError(f"the cell has no function `{role}`", _EXAMPLE[role])


def _is_own(value: Any) -> bool:
    """Tell the notebook's own functions from imported ones."""
    return isinstance(value, types.FunctionType) and value.__module__ == "__main__"


def _visible(namespace: Mapping[str, Any]) -> set[str]:
    return {
        name
        for name, value in namespace.items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }


def _similar(role: str, names: set[str]) -> str:
    """Return the name that is the most like a role's, or an empty string."""
    near = nearest(role, names)
    if near:
        return near
    for name in sorted(names, key=len):
        if role in name.lower() or name.lower() in _ALSO[role]:
            return name
    for name in sorted(names, key=len):
        if any(word in name.lower().split("_") for word in _ALSO[role]):
            return name
    return ""


def _check(found: Mapping[str, Any], named: Mapping[str, Any]) -> None:
    """Raise FunctionError for what can't be right whatever the functions do."""
    names = {role: v if isinstance(v := named.get(role), str) else role for role in found}
    for role, value in found.items():
        if _is_coroutine(value):
            raise FunctionError(f"`{names[role]}` is an async function; define it with `def`")
        if role != "model" and isinstance(value, str | int | float):
            raise FunctionError(
                f"`{names[role]}` is of type {type(value).__name__}; give {_WANTED[role]}"
            )
    _check_model(found["model"], names["model"])


def _check_model(model: Any, name: str) -> None:
    if isinstance(model, type):
        raise FunctionError(f"`{name}` is a class; {_make(name)}", _recipe(f"{name}()"))
    if hasattr(model, "trainable_weights"):
        raise FunctionError(f"`{name}` is a Keras model; {_make(name)}", _recipe("..."))
    if not callable(model):
        kind = type(model).__name__
        raise FunctionError(f"`{name}` is of type {kind}; {_make(name)}", _recipe("..."))


def _make(name: str) -> str:
    what = "give a function that makes" if name == "model" else "`model` is a function that makes"
    return f"{what} one and compiles it, since each worker needs its own"


def _recipe(made: str) -> str:
    return f"def model():\n    m = {made}\n    m.compile(...)\n    return m"


def _is_coroutine(value: Any) -> bool:
    import inspect

    return inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value)
