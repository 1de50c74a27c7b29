from __future__ import annotations

import pickle
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from everloop.errors import InvalidRequest
from everloop.setting import NUMBERS
from everloop.settings import SPECS, Settings, load, unknown_environment


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


def test_flag_environment_project_user_default(
    project: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (load().max_n, load().origin("max_n")) == (8, "default")
    write(home, "config.toml", "max_n = 1")
    assert (load().max_n, load().origin("max_n")) == (1, f"file {home / 'config.toml'}")
    write(project, "everloop.toml", "max_n = 2")
    assert (load().max_n, load().origin("max_n")) == (2, f"file {project / 'everloop.toml'}")
    monkeypatch.setenv("EVERLOOP_MAX_N", "3")
    assert (load().max_n, load().origin("max_n")) == (3, "environment EVERLOOP_MAX_N")
    both = load({"max_n": "4"})
    assert (both.max_n, both.origin("max_n")) == (4, "flag --max-n")
    assert load({"max_n": None}).max_n == 3  # a flag that isn't given


def test_port_has_a_second_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9001")
    assert (load().port, load().origin("port")) == (9001, "environment PORT")
    monkeypatch.setenv("EVERLOOP_PORT", "9002")
    assert load().port == 9002
    monkeypatch.setenv("EVERLOOP_PORT", "")  # as good as not set
    assert load().port == 9001


def test_the_user_file_follows_the_home(tmp_path: Path, project: Path) -> None:
    write(tmp_path / "other", "config.toml", "port = 9000")
    assert load().port == 8400
    assert load({"home": str(tmp_path / "other")}).port == 9000
    write(tmp_path / "other", "config.toml", "home = 'x'")
    with pytest.raises(InvalidRequest, match="lies in the home itself"):
        load({"home": tmp_path / "other"})


def test_paths_in_a_file_start_at_the_file(
    project: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home, "config.toml", "data = 'corpus'")
    assert load().data == home / "corpus"
    monkeypatch.setenv("EVERLOOP_DATA", "../corpus")
    assert load().data == project.parent / "corpus"
    assert load({"data": "~/corpus"}).data == Path.home() / "corpus"


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("max_body_bytes", "10MiB", 10 * 2**20),
        ("max_body_bytes", "10 MB", 10**7),
        ("max_body_bytes", "64k", 64_000),
        ("max_body_bytes", "64KiB", 65_536),
        ("max_body_bytes", "2048", 2048),
        ("receive_timeout", "20s", 20.0),
        ("receive_timeout", "1.5m", 90.0),
        ("receive_timeout", "500ms", 0.5),
        ("receive_timeout", "3", 3.0),
        ("remote_url", "http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"),
        ("api_key", " any text ", " any text "),
        ("log_level", "debug", "debug"),
    ],
)
def test_values_are_read(
    name: str, raw: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SPECS[name].env[0], raw)
    assert getattr(load(), name) == value


@pytest.mark.parametrize(
    ("name", "raw", "repair"),
    [
        ("port", "0", "a whole number from 1 to 65535"),
        ("port", "65536", "a whole number from 1 to 65535"),
        ("port", "8400.5", "a whole number"),
        ("port", "http", "a whole number"),
        ("threads", "-1", "at least 0"),
        ("max_body_bytes", "10 potatoes", "a size such as 10MiB"),
        ("receive_timeout", "soon", "a time such as 20s"),
        ("receive_timeout", "0.05", "at least 0.1"),
        ("log_level", "loud", "one of debug, info, warning, error"),
        ("remote_url", "127.0.0.1:8000", "a URL such as"),
        ("model", "   ", "isn't blank"),
    ],
)
def test_a_bad_value_names_setting_value_origin_and_repair(
    name: str, raw: str, repair: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = SPECS[name].env[0]
    monkeypatch.setenv(variable, raw)
    with pytest.raises(InvalidRequest) as caught:
        load()
    message = str(caught.value)
    assert f"`{name}`" in message
    assert repr(raw) in message
    assert f"from environment {variable}" in message
    assert repair in message
    assert caught.value.param == name
    assert caught.value.exit_code == 2


def test_a_file_is_checked_too(project: Path) -> None:
    write(project, "everloop.toml", "prot = 9000")
    with pytest.raises(InvalidRequest, match=r"`prot` in .*everloop\.toml: did you mean `port`\?"):
        load()
    write(project, "everloop.toml", "port = true")
    with pytest.raises(InvalidRequest, match="`port` is 'True'"):
        load()
    write(project, "everloop.toml", "api_key = 5")
    with pytest.raises(InvalidRequest, match=r"`api_key` is \*\*\*"):
        load()
    write(project, "everloop.toml", "port =")
    with pytest.raises(InvalidRequest, match="not valid TOML"):
        load()
    write(project, "everloop.toml", "port = 9000\nreceive_timeout = 2.5\nmax_body_bytes = '1MiB'")
    assert (load().port, load().receive_timeout, load().max_body_bytes) == (9000, 2.5, 2**20)


def test_a_variable_that_no_setting_reads_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unknown_environment() == {}
    monkeypatch.setenv("EVERLOOP_PROT", "1")
    assert unknown_environment() == {"EVERLOOP_PROT": "EVERLOOP_PORT"}


def test_settings_made_by_hand_are_checked_as_well(home: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"`port` is '0' \(from default\)"):
        Settings(port=0)
    assert Settings(home=home).home == home


def test_settings_travel_to_a_child_process() -> None:
    settings = load({"port": 9000})
    again = pickle.loads(pickle.dumps(settings))  # noqa: S301  our own bytes
    assert again == settings
    assert again.origin("port") == "flag --port"


@given(st.text(st.characters()), st.sampled_from(sorted(SPECS)))
@example("\0", "home")
@example("~nobody-here/x", "home")
@example("x" * 300, "home")
@example("http://[", "engine_url")
@example("a\0b", "host")
def test_any_text_is_a_value_or_a_clear_refusal(text: str, name: str) -> None:
    try:
        load({name: text})
    except InvalidRequest as error:
        assert error.param == name  # noqa: PT017  either outcome is right


def test_every_setting_is_in_the_table_and_shown() -> None:
    assert set(SPECS) == {item.name for item in fields(Settings)} - {"origins"}
    for spec in SPECS.values():
        assert spec.help.endswith(".")
        assert spec.env[0] == f"EVERLOOP_{spec.name.upper()}"
        assert spec.kind in ("text", "secret", "path", "url", "choice", *NUMBERS)
    shown = SPECS["max_body_bytes"].show
    assert [shown(10 * 2**20), shown(1536), shown(None)] == ["10MiB", "1536", "not set"]
    assert "secret" not in SPECS["api_key"].show("secret")
