"""The project itself: the locks are whole and name no registry, the set-up knows what it does."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import environment  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))


def normalized(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    assert name
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def locked(path: Path) -> set[str]:
    return {normalized(line) for line in path.read_text("utf-8").splitlines() if "==" in line}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_holds_all_direct_dependencies_with_hashes_and_no_address(path):
    content = path.read_text("utf-8")
    project = PROJECT["project"]
    direct = {*project["dependencies"], *project["optional-dependencies"]["demo"]}
    if path.stem == "dev":
        groups = PROJECT["dependency-groups"]
        direct |= {r for name in ("dev", "test") for r in groups[name] if isinstance(r, str)}
    assert {normalized(requirement) for requirement in direct} <= locked(path)
    assert "://" not in content
    assert "--index" not in content
    for entry in re.split(r"\n(?=\S)", content.strip()):
        assert entry.startswith("#") or "--hash=sha256:" in entry


def test_the_smaller_lock_is_a_part_of_the_larger():
    demo, dev = (
        set(re.findall(r"^(\S+==\S+)", path.read_text("utf-8"), re.MULTILINE))
        for path in (ROOT / "requirements" / "demo.lock", ROOT / "requirements" / "dev.lock")
    )
    assert demo
    assert demo <= dev


def test_what_the_larger_lock_has_installed_does_for_the_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "VENV", tmp_path)
    assert not environment._up_to_date("demo")
    (tmp_path / ".nbtrain-dev").write_text(environment._fingerprint("dev"))
    assert environment._up_to_date("dev")
    assert environment._up_to_date("demo")
    (tmp_path / ".nbtrain-dev").write_text("of an older lock")
    assert not environment._up_to_date("demo")


def test_an_environment_whose_python_is_gone_is_not_usable(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "VENV", tmp_path)
    monkeypatch.setattr(environment, "PYTHON", tmp_path / "bin" / "python")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(tmp_path / "removed")
    assert not environment._usable()


@pytest.mark.parametrize("break_it", ["venv", "ensurepip", "venv and virtualenv"])
@pytest.mark.full
def test_an_environment_is_made_without_the_standard_librarys_means(
    break_it, tmp_path, monkeypatch
):
    """Debian without python3-venv has no ensurepip; slim builds have no venv at all."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for module in break_it.split(" and "):
        (broken / f"{module}.py").write_text("raise ImportError('not installed')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    monkeypatch.setattr(environment, "VENV", tmp_path / "venv")
    monkeypatch.setattr(environment, "PYTHON", tmp_path / "venv" / "bin" / "python")
    monkeypatch.setattr(environment, "BOOTSTRAP", tmp_path / "bootstrap")
    environment._create()
    monkeypatch.delenv("PYTHONPATH")
    assert environment._usable()
    assert (tmp_path / "bootstrap").exists() == (break_it == "venv and virtualenv")


def test_every_make_target_is_explained():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "cluster", "cluster-down", "test", "bench", "lock", "clean"):
        assert f"make {target} " in done.stdout


def test_no_file_names_a_registry_or_a_folder_of_one_machine():
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    # Put together here, so that this file does not name them itself.
    hosts = ["pypi" + ".org", "python" + "hosted.org", "registry.npm" + "js.org"]
    folders = ["/ro" + "ot/", "/tmp/" + "dev/", "/work/" + "main"]
    named = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix not in {".png", ".gif"} and path.is_file():
            content = path.read_text("utf-8")
            named += [(name, word) for word in hosts + folders if word in content]
    assert named == []
