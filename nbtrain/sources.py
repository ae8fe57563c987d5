"""The user's own modules, files and the runtime, as they travel to the workers.

A module is the user's own if its file is neither of the standard library nor of site-packages: it
lies beside the notebook, is an editable install, or was put on `sys.path` in some other way. Such
modules travel as sources with their whole top-level package, so that imports inside functions,
relative imports and module state work in the worker as they do here.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib.machinery
import importlib.util
import io
import marshal
import os
import re
import site
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .errors import OptionError

#: Data files beside modules that are bigger than this stay, in bytes.
MAX_DATA_FILE = 1 << 20
#: Data files of all modules together, in bytes.
MAX_DATA = 16 << 20
#: More files than this below one package, and it is no package but a folder of data.
MAX_FILES = 20_000

_LEFT_OUT = {"__pycache__", "node_modules", "site-packages", "dist-packages"}
_ENVIRONMENT = ("pyvenv.cfg", "conda-meta")
_CODE = (".py", ".pyi", *importlib.machinery.EXTENSION_SUFFIXES)
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass
class Sources:
    """The user's modules: where each file lies, by its path on `sys.path` in the worker."""

    files: dict[str, Path] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _data: int = 0

    def zipped(self) -> bytes:
        """Return them as a zip file; nothing at all where there are none."""
        if not self.files:
            return b""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, path in sorted(self.files.items()):
                archive.writestr(_entry(name), path.read_bytes(), zipfile.ZIP_DEFLATED)
        return buffer.getvalue()

    def add(self, top: str) -> list[Path]:
        """Add a top-level module or package and return its files of Python source."""
        before = set(self.files)
        for root in _own_places(top):
            if root.is_dir():
                self._add_package(top, root)
            else:
                self.files[root.name] = root
        return [p for name, p in self.files.items() if name not in before and name.endswith(".py")]

    def _add_package(self, top: str, root: Path) -> None:
        left_out: list[Path] = []
        for count, path in enumerate(_walk(root)):
            if count >= MAX_FILES:
                self.warnings.append(
                    f"`{top}` has more than {MAX_FILES:,} files ({root}): the rest stays here"
                )
                break
            name = f"{top}/{path.relative_to(root).as_posix()}"
            if path.suffix == ".py" or self._data_fits(name, path):
                self.files[name] = path
            else:
                left_out.append(path)
        if left_out:
            self.warnings.append(_left_out(top, left_out))

    def _data_fits(self, name: str, path: Path) -> bool:
        size = path.stat().st_size
        limit = MAX_DATA if name.endswith(_CODE) else MAX_DATA_FILE
        fits = size <= limit and self._data + size <= MAX_DATA
        if fits:
            self._data += size
        return fits


def _left_out(top: str, paths: list[Path]) -> str:
    size = sum(path.stat().st_size for path in paths) / 1e6
    biggest = max(paths, key=lambda path: path.stat().st_size)
    many = "1 data file" if len(paths) == 1 else f"{len(paths):,} data files"
    return (
        f"`{top}`: {many} ({size:,.1f} MB, such as {biggest.name}) can't go with the module: "
        "only small ones do. Send what is needed with --files."
    )


def own_modules(imported: Iterable[str]) -> Sources:
    """Return the sources of all of the user's own modules.

    These are the modules imported so far, those `imported` by the functions that travel, and
    those that one of them imports anywhere.
    """
    sources = Sources()
    waiting = {*_loaded(), *(name.partition(".")[0] for name in imported)}
    seen: set[str] = set()
    while waiting:
        top = waiting.pop()
        if top in seen:
            continue
        seen.add(top)
        for path in sources.add(top):
            waiting |= _imports(str(path), path.stat().st_mtime_ns) - seen
    return sources


def is_own(top: str) -> bool:
    """Tell whether a top-level module is the user's own."""
    return bool(_own_places(top))


def _loaded() -> set[str]:
    """Return the top-level names of the modules in `sys.modules`."""
    return {name.partition(".")[0] for name in list(sys.modules)}


def _own_places(top: str) -> list[Path]:
    """Return the file, or the folders, of a top-level module if it is the user's own."""
    if top in sys.stdlib_module_names or top in ("__main__", "__mp_main__", "nbtrain"):
        return []
    module = sys.modules.get(top)
    spec = getattr(module, "__spec__", None)
    if module is None:
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            return []
    found: list[str] = []
    if spec is not None and spec.submodule_search_locations is not None:
        found = list(spec.submodule_search_locations)
    elif hasattr(module, "__path__"):
        found = list(module.__path__)  # type: ignore[union-attr]
    elif spec is not None and spec.origin:
        found = [spec.origin]
    elif file := getattr(module, "__file__", None):
        found = [file]
    return [p for p in map(Path, found) if is_own_path(p)]


def is_own_path(path: Path) -> bool:
    """Tell whether a file exists and is neither of Python nor an installed package's."""
    if not path.is_absolute():
        path = path.absolute()
    if "site-packages" in path.parts or "dist-packages" in path.parts or not path.exists():
        return False
    return not any(path.is_relative_to(folder) for folder in _installed())


@functools.cache
def _installed() -> list[Path]:
    """Return the folders of the standard library and of installed packages."""
    paths = sysconfig.get_paths()
    found = [paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    found += [*site.getsitepackages(), site.getusersitepackages()]
    return [Path(p) for p in found] + [Path(p).resolve() for p in found]


def _walk(root: Path) -> Iterator[Path]:
    """Yield the files of a package, without what is hidden, built or another environment."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(
            f
            for f in folders
            if f not in _LEFT_OUT
            and not f.startswith(".")
            and not f.endswith(".egg-info")
            and not any(Path(folder, f, mark).exists() for mark in _ENVIRONMENT)
        )
        for file in sorted(files):
            path = Path(folder, file)
            if not file.startswith(".") and not file.endswith(".pyc") and path.is_file():
                yield path


#: Statements of import, wherever they may begin. Parsing would take ten times as long, and a cell
#: is to return at once; what only looks like one, in a text, costs at most a module too many.
_IMPORT = re.compile(
    r"(?:^|[;:])[ \t]*"
    r"(?:import[ \t]+(?P<names>[^;#\n]+)|from[ \t]+(?P<source>\w[\w.]*)[ \t]+import\b)",
    re.MULTILINE,
)


@functools.lru_cache(maxsize=4096)
def _imports(path: str, _mtime: int) -> frozenset[str]:
    """Return the top-level names that a source file imports anywhere, absolutely."""
    try:
        text = Path(path).read_text("utf-8", "replace").replace("\\\n", " ")
    except OSError:
        return frozenset()
    found: set[str] = set()
    for match in _IMPORT.finditer(text):
        modules = (match["source"] or match["names"]).split(",")
        found |= {name.strip().partition(" ")[0].partition(".")[0] for name in modules}
    return frozenset(found)


def chosen_files(files: Sequence[str], cwd: Path) -> dict[str, Path]:
    """Return the files that `--files` names, by their path relative to the notebook's folder.

    Raises
    ------
    OptionError
        If there is no such file, or it lies outside of the folder.
    """
    found: dict[str, Path] = {}
    for name in files:
        path = Path(os.path.abspath(cwd / name))
        matches = [path] if path.exists() else sorted(cwd.glob(name)) if _is_pattern(name) else []
        if not matches:
            raise _no_such_file(name, path)
        for match in matches:
            if not match.is_relative_to(cwd):
                raise OptionError(
                    f"--files {name}: it lies outside of the notebook's folder, {cwd}.",
                    "Copy or link it into that folder, so that its relative path is the same "
                    "in the workers.",
                )
            below = _walk(match) if match.is_dir() else [match]
            found |= {path.relative_to(cwd).as_posix(): path for path in below}
    return found


def _is_pattern(name: str) -> bool:
    return not Path(name).is_absolute() and any(c in name for c in "*?[")


def _no_such_file(name: str, path: Path) -> OptionError:
    folder = path.parent
    while not folder.is_dir():
        folder, path = folder.parent, folder
    near = difflib.get_close_matches(path.name, [p.name for p in folder.iterdir()], 1, 0.5)
    fix = f"Did you mean {os.path.relpath(folder / near[0])!r}?" if near else ""
    return OptionError(f"--files {name}: there is no such file or folder in {folder}.", fix)


def runtime_zip(*, bytecode: bool = True) -> Path:
    """Return the zip file that workers run: the runtime, and cloudpickle for the payload.

    It is built once for its content and kept in the user's cache folder. `python -I` runs it
    with no nbtrain installed. Its bytecode spares every process some 50 ms of compiling, and is
    passed over by other versions of Python; that it is compressed costs no time that could be
    measured, and keeps it small enough for a Kubernetes Secret. Without the bytecode it is a third
    as large.
    """
    import platformdirs

    sources = _runtime_sources()
    digest = hashlib.sha256(f"{sys.version} {bytecode}".encode())
    for name, source in sources.items():
        digest.update(b"%s\0%d\0%s" % (name.encode(), len(source), source))
    folder = platformdirs.user_cache_path("nbtrain")
    path = folder / f"runtime-{digest.hexdigest()[:24]}.zip"
    if not path.is_file():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_beside(path, _runtime_zipped(sources, bytecode=bytecode))
    return path


def _runtime_sources() -> dict[str, bytes]:
    import cloudpickle

    runtime, pickler = Path(__file__).with_name("runtime"), Path(cloudpickle.__file__).parent
    found = {"__main__.py": _MAIN}
    for prefix, folder in (("nbtrain_runtime", runtime), ("cloudpickle", pickler)):
        for path in sorted(folder.rglob("*.py")):
            found[f"{prefix}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    return found


_MAIN = b"""import sys

from nbtrain_runtime.__main__ import main

sys.exit(main())
"""


def _runtime_zipped(sources: dict[str, bytes], *, bytecode: bool) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, source in sources.items():
            archive.writestr(_entry(name), source, zipfile.ZIP_DEFLATED)
            if bytecode:
                archive.writestr(_entry(name + "c"), _bytecode(name, source), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _bytecode(name: str, source: bytes) -> bytes:
    """Return a .pyc that is never compared with its source (PEP 552), the same every time."""
    code = compile(source, f"runtime.zip/{name}", "exec", dont_inherit=True)
    # Newer formats than 2 write down which objects happen to be shared.
    return b"".join(
        [
            importlib.util.MAGIC_NUMBER,
            (1).to_bytes(4, "little"),
            importlib.util.source_hash(source),
            marshal.dumps(code, 2),
        ]
    )


def _entry(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o644 << 16
    return info


def _write_beside(path: Path, data: bytes) -> None:
    """Write a file and rename it; whoever does so at the same time writes the same."""
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink()
        raise
