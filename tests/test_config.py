"""Settings for all cells, in a TOML file that people edit."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbtrain import config
from nbtrain.errors import ConfigError, OptionError


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "nbtrain" / "config.toml"
    monkeypatch.setenv("NBTRAIN_CONFIG", str(path))
    return path


def write(file, text):
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, "utf-8")


def test_without_a_file_there_are_no_settings(file):
    assert config.defaults() == {}
    assert all(setting.source == "default" for setting in config.settings())
    assert not file.exists()


def test_the_file_is_in_the_users_configuration_folder(monkeypatch, tmp_path):
    import platformdirs

    monkeypatch.delenv("NBTRAIN_CONFIG", raising=False)
    assert str(config.path()).startswith(platformdirs.user_config_dir("nbtrain"))


def test_settings_are_kept(file):
    config.update({"workers": "4", "batch-size": 128, "live": "off", "stall_timeout": "5m"})
    assert config.defaults() == {
        "workers": 4,
        "batch": 128,
        "live": False,
        "stall_timeout": 300.0,
    }
    # What people read there is what they wrote.
    assert file.read_text() == 'workers = 4\nbatch = 128\nlive = false\nstall_timeout = "5m"\n'


def test_the_table_shows_where_each_value_comes_from(file):
    config.update({"workers": 4})
    rows = {s.name: (s.value, s.source) for s in config.settings()}
    assert rows["workers"] == (4, "config.toml")
    assert rows["epochs"] == (1, "default")
    assert str(file) in config.table()


@pytest.mark.parametrize(
    ("settings", "backend"),
    [
        ({}, "local"),
        ({"namespace": "ml"}, "local"),
        ({"context": "production"}, "kubernetes"),
        ({"context": "production", "backend": "local"}, "local"),
        ({"backend": "docker"}, "docker"),
    ],
)
def test_who_names_a_context_trains_there_unless_something_else_is_said(file, settings, backend):
    config.update(settings)
    assert config.with_defaults({"epochs": 2, "workers": None}) == {
        **settings,
        "epochs": 2,
        "backend": backend,
    }
    assert config.with_defaults({"backend": "docker"})["backend"] == "docker"
    assert {s.name: s.value for s in config.settings()}["backend"] == backend


def test_comments_and_unknown_keys_stay(file):
    text = '# mine\nworkers = 2  # two\n\nzzz = "later"\n[kubernetes]\nnamespace = "a"\n'
    write(file, text)
    config.update({"workers": 3, "epochs": 5})
    kept = file.read_text()
    assert kept.startswith("# mine\nworkers = 3  # two\n")
    assert 'zzz = "later"' in kept
    assert '[kubernetes]\nnamespace = "a"' in kept
    assert config.defaults() == {"workers": 3, "epochs": 5}
    assert "does not know it" in config.table()


def test_a_setting_is_removed(file):
    config.update({"workers": 4, "epochs": 2})
    config.update({}, ["workers"])
    assert config.defaults() == {"epochs": 2}
    config.update({}, ["workers"])


def test_a_key_may_be_spelled_with_dashes_or_by_its_other_name(file):
    write(file, "batch-size = 4\n")
    assert config.defaults() == {"batch": 4}
    config.update({"batch": 8})
    assert file.read_text() == "batch-size = 8\n"
    write(file, "batch-size = 4\nbatch = 5\n")
    with pytest.raises(ConfigError, match=r"set twice"):
        config.defaults()


def test_a_broken_file_is_named_with_the_line(file):
    write(file, "workers = 2\nepochs = = 3\n")
    for call in (config.defaults, lambda: config.update({"workers": 3}), config.table):
        with pytest.raises(ConfigError, match=r"config\.toml, line 2: "):
            call()
    assert file.read_text() == "workers = 2\nepochs = = 3\n"


def test_a_wrong_value_is_named_with_the_line(file):
    write(file, '\nworkers = "four"\n')
    with pytest.raises(ConfigError, match=r"line 2: workers='four': must be a whole number"):
        config.defaults()


def test_a_mistyped_key_is_named_with_the_line_and_the_nearest(file):
    write(file, "# x\nwrkers = 4\n")
    with pytest.raises(ConfigError, match=r"line 2: wrkers: .* did you mean workers\?"):
        config.defaults()


def test_what_is_not_text_is_said(file):
    file.parent.mkdir()
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"not UTF-8"):
        config.defaults()


def test_nothing_is_changed_where_one_setting_is_wrong(file):
    config.update({"workers": 4})
    before = file.read_text()
    with pytest.raises(OptionError, match=r"wrkers: no such setting; did you mean workers\?"):
        config.update({"epochs": 3, "wrkers": 4})
    with pytest.raises(OptionError, match=r"epochs='x'"):
        config.update({"epochs": "x", "workers": 5})
    assert file.read_text() == before


def test_options_of_a_single_cell_are_no_settings(file):
    with pytest.raises(OptionError, match=r"name: no such setting"):
        config.update({"name": "x"})


def test_a_link_stays_a_link_and_the_mode_stays(file, tmp_path):
    target = tmp_path / "dotfiles.toml"
    target.write_text("workers = 1\n")
    target.chmod(0o600)
    file.parent.mkdir()
    file.symlink_to(target)
    config.update({"workers": 4})
    assert file.is_symlink()
    assert target.read_text() == "workers = 4\n"
    assert target.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".part")] == []


def test_a_file_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("")
    monkeypatch.setenv("NBTRAIN_CONFIG", str(tmp_path / "a" / "config.toml"))
    with pytest.raises(ConfigError, match=r"can't be"):
        config.update({"workers": 4})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text())
def test_any_file_gives_settings_or_a_config_error(file, text):
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(text.encode("utf-8", "replace"))
    try:
        config.defaults()
    except ConfigError as error:
        said = str(error)
    else:
        return
    assert str(file) in said


def test_reading_settings_imports_no_tomlkit(file):
    import subprocess
    import sys

    write(file, "workers = 3\n")
    code = (
        "import sys; from nbtrain import config; config.defaults(); assert 'tomlkit' not in"
        " sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
