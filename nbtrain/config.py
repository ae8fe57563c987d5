"""Settings for all cells, kept in a TOML file that people may edit by hand.

An option of the cell counts first, then the file, then the built-in default.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ConfigError, OptionError
from .request import OPTIONS, Option, in_python, option
from .values import nearest

#: The options that the file may hold.
KEYS: tuple[Option, ...] = tuple(o for o in OPTIONS if o.config)

_NAMES = {o.name: o for o in KEYS} | {alias: o for o in KEYS for alias in o.aliases}


@dataclass(frozen=True)
class Setting:
    """A setting as it is now; `source` is "default", the file's name, or why it is ignored."""

    name: str
    value: Any
    source: str
    help: str = ""


def path() -> Path:
    """Return where the settings are; NBTRAIN_CONFIG overrides it."""
    given = os.environ.get("NBTRAIN_CONFIG")
    if given:
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_config_dir("nbtrain")) / "config.toml"


def defaults() -> dict[str, Any]:
    """Return what the file sets, by the names of the options, checked.

    Raises
    ------
    ConfigError
        If the file is not TOML, or a setting can't have its value; it names file and line.
    """
    text = _read()
    found: dict[str, Any] = {}
    for key, value in _parsed(text).items():
        known = _NAMES.get(_plain(key))
        if known is None:
            _complain_if_mistyped(key, value, text)
        elif known.name in found:
            raise ConfigError(f"{_where(key, text)}: {key}: set twice; it is {known.name}")
        else:
            found[known.name] = _checked(known, key, value, text)
    return found


def with_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cell's options, and what the file sets where they say nothing (or None).

    The backend is always among them.
    """
    given = defaults()
    found = {**given, **{name: value for name, value in options.items() if value is not None}}
    return {"backend": default_backend(given), **found}


def default_backend(given: Mapping[str, Any]) -> str:
    """Return where a run trains whose cell does not say it; `given` is what the file sets.

    Who has named a context there wants to train on that cluster.
    """
    return str(given.get("backend") or ("kubernetes" if given.get("context") else "local"))


def _plain(key: str) -> str:
    return key.replace("-", "_")


def _read() -> str:
    file = path()
    try:
        return file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{file}: can't be read: {why}") from None


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        match = re.search(r"\(at line (\d+), column \d+\)$", str(error))
        lines = text.rstrip("\n").count("\n") + 1
        line = match[1] if match else str(lines)
        why = re.sub(r" \(at .*\)$", "", str(error))
        raise ConfigError(
            f"{path()}, line {line}: {why}", "Mend it in an editor, or remove the file."
        ) from None


def _complain_if_mistyped(key: str, value: Any, text: str) -> None:
    """Raise for a key that was surely meant to be another; one of a newer nbtrain is let be."""
    near = nearest(_plain(key), _NAMES)
    if near and not isinstance(value, Mapping):
        raise ConfigError(f"{_where(key, text)}: {key}: no such setting; did you mean {near}?")


def _checked(known: Option, key: str, value: Any, text: str) -> Any:
    try:
        return known.checked(value, in_python(key, value))
    except OptionError as error:
        raise ConfigError(f"{_where(key, text)}: {error.message}") from None


def _where(key: str, text: str) -> str:
    match = re.search(rf"^[ \t]*[\"']?{re.escape(key)}[\"']?[ \t]*=", text, re.MULTILINE)
    line = f", line {text.count(chr(10), 0, match.start()) + 1}" if match else ""
    return f"{path()}{line}"


def settings() -> list[Setting]:
    """Return all settings with where each comes from."""
    text = _read()
    given = defaults()
    file = path().name
    rows = []
    for known in KEYS:
        source = file if known.name in given else "default"
        value = given.get(known.name, known.default)
        if known.name == "backend":
            value = default_backend(given)
        rows.append(Setting(known.name, value, source, known.help))
    unknown = [key for key in _parsed(text) if _plain(key) not in _NAMES]
    return rows + [Setting(key, "", f"{file}; this nbtrain does not know it") for key in unknown]


def table() -> str:
    """Return the settings as text for reading."""
    rows = [(s.name, _shown(s.value), s.source, s.help) for s in settings()]
    heads = ("setting", "value", "from", "")
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(3)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
        for row in (heads, *rows)
    ]
    where = path() if path().exists() else f"{path()} (not there yet)"
    return "\n".join([line.rstrip() for line in lines] + ["", f"File: {where}"])


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def update(values: Mapping[str, Any], remove: Iterable[str] = ()) -> None:
    """Change settings in the file; its comments and whatever else it holds stay.

    Raises
    ------
    OptionError
        If there is no such setting or it can't have the value; then nothing is changed.
    ConfigError
        If the file can't be read or written.
    """
    changes = {}
    for name, value in values.items():
        known = option(name, KEYS, what="setting")
        changes[known.name] = _to_write(value, known.checked(value, in_python(name, value)))
    removed = [option(name, KEYS, what="setting") for name in remove]
    text = _read()
    _parsed(text)
    import tomlkit

    document = tomlkit.parse(text)
    for known in removed:
        for key in _spellings(known, document):
            del document[key]
    for name, value in changes.items():
        keys = _spellings(_NAMES[name], document) or [name]
        document[keys[0]] = value
        for key in keys[1:]:
            del document[key]
    _write(tomlkit.dumps(document))


def _spellings(known: Option, document: Mapping[str, Any]) -> list[str]:
    """Return how the file spells a setting."""
    return [key for key in document if _NAMES.get(_plain(key)) is known]


def _to_write(given: Any, checked: Any) -> Any:
    """Return what people like to read: 5m rather than 300.0."""
    if isinstance(checked, float) and isinstance(given, str):
        try:
            return float(given)
        except ValueError:
            return given.strip()
    return checked


def _write(text: str) -> None:
    # A link to the file (of people who keep their settings in a repository) stays one.
    file = path().resolve()
    beside = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_bytes(text.encode())
            if file.exists():
                beside.chmod(file.stat().st_mode & 0o777)
            beside.replace(file)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{file}: can't be written: {error.strerror}") from None
