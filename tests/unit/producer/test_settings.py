"""oc2ctl.toml and the options laid over it."""

from __future__ import annotations

import pwd
import re
from pathlib import Path

import pytest

from oc2d.errors import ConfigError
from oc2d.producer import settings as module
from oc2d.producer.settings import load_settings, producer_link


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write(home: Path, text: str) -> Path:
    file = home / ".config/oc2d/oc2ctl.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def problems(file: Path | None, options: dict) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load_settings(file, options)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_the_file_of_the_home_directory_is_read(home) -> None:
    write(home, 'from = "soc"\nnamespace = "vpf/"\n[broker]\nhost = "b"\nca_file = "ca.pem"\n')
    made = load_settings(None, {})
    assert (made.sender, made.namespace) == ("soc", "vpf")
    assert (made.broker.host, made.broker.port) == ("b", 8883)
    assert made.broker.ca_file == home / ".config/oc2d/ca.pem"


def test_options_win_over_the_file(home) -> None:
    write(home, 'from = "soc"\n[broker]\nhost = "b"\nport = 1\nca_file = "ca.pem"\n')
    made = load_settings(
        None, {"broker.host": "c", "broker.tls": False, "from": "me", "namespace": "n"}
    )
    assert (made.broker.host, made.broker.port, made.broker.tls) == ("c", 1883, False)
    assert made.broker.ca_file is None
    assert (made.sender, made.namespace) == ("me", "n")
    relative = load_settings(None, {"broker.ca_file": Path("other.pem")})
    assert relative.broker.ca_file == Path.cwd() / "other.pem"
    assert relative.broker.port == 1


@pytest.mark.req("MQTT-36", "MQTT-25")
def test_without_a_file_a_broker_is_enough_and_the_sender_is_who_runs_it() -> None:
    made = load_settings(None, {"broker.host": "b"})
    assert made.broker.tls
    assert re.fullmatch(r"[^/+#]+@[^/+#]+", made.sender)


def test_who_has_no_home_directory_needs_no_file(monkeypatch) -> None:
    """As in a container that runs under a number that nobody has."""
    monkeypatch.delenv("HOME")

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    settings = load_settings(None, {"broker.host": "h", "from": "soc"})
    assert settings.sender == "soc"


def test_every_mistake_is_reported_at_once(home) -> None:
    file = write(home, 'form = "x"\ndevice_id = "y"\n[broker]\nkeep_alive = 0\nhots = "b"\n')
    found = problems(file, {"namespace": "a//b"})
    assert found["form"] == "unknown key; did you mean from?"
    assert "reads only" in found["device_id"]
    assert {"broker.keep_alive", "broker.hots", "broker.host", "namespace"} <= set(found)
    assert "--broker" in problems(None, {"namespace": "x"} | {"broker.tls": True})["broker.host"]


def test_a_named_file_must_exist(home) -> None:
    assert "no such file" in problems(home / "nowhere.toml", {"broker.host": "b"})[""]
    assert problems(write(home, "broker = 5"), {})["broker"].startswith("expected a table")


@pytest.mark.req("MQTT-6", "MQTT-8")
def test_each_run_has_a_client_id_of_its_own_and_a_session_that_ends_with_it() -> None:
    made = load_settings(None, {"broker.host": "b"})
    first, second = (producer_link(made, (), 5) for _ in range(2))
    assert re.fullmatch(r"[0-9A-Za-z]{23}", first.client_id)
    assert first.client_id != second.client_id
    assert (first.session_expiry, first.message_type) == (0, "req")


@pytest.mark.req("MQTT-68")
def test_the_password_comes_from_the_environment_or_a_file(home, monkeypatch) -> None:
    monkeypatch.setenv("OC2D_BROKER_PASSWORD", "from-environment")
    options = {"broker.host": "b", "broker.username": "me"}
    assert producer_link(load_settings(None, options), (), 5).password() == "from-environment"
    (home / "secret").write_text("from-file\n")
    options["broker.password_file"] = home / "secret"
    assert producer_link(load_settings(None, options), (), 5).password() == "from-file"
    assert Path("~/.config/oc2d/oc2ctl.toml") == module.DEFAULT_FILE
