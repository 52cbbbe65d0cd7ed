from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from msgspec.structs import replace

from oc2d.config import Broker, Config
from oc2d.errors import ConfigError, StateError
from oc2d.mqtt.client import Link
from oc2d.mqtt.settings import (
    PASSWORD_VARIABLE,
    broker_link,
    consumer_link,
    load_client_id,
    read_secret,
)


@pytest.fixture
def config():
    broker = Broker(
        host="mqtt.example.com", port=8883, username="fw", extra_subscriptions=("oc2/cmd",)
    )
    return Config(device_id="fw-7", broker=broker, namespace="vpf")


@pytest.mark.req("MQTT-5", "MQTT-9", "MQTT-57", "AMB-51", "MQTT-29")
def test_the_defaults_are_what_the_specification_wants(config):
    link = consumer_link(config, ("slpf",), "id")
    assert (link.host, link.port, link.client_id) == ("mqtt.example.com", 8883, "id")
    assert link.tls is not None
    assert link.tls.verify
    assert (link.keep_alive, link.session_expiry, link.protocol, link.qos) == (300, 86400, "5", 1)
    assert link.message_type == "rsp"
    assert link.subscriptions == (
        "vpf/oc2/cmd/all",
        "vpf/oc2/cmd/ap/slpf",
        "vpf/oc2/cmd/device/fw-7",
        "vpf/oc2/cmd",
    )
    assert link.maximum_packet_size > config.limits.payload


@pytest.mark.req("MQTT-57", "MQTT-66")
def test_tls_is_left_out_only_when_told(config):
    plain = replace(config, broker=replace(config.broker, tls=False))
    assert consumer_link(plain, (), "id").tls is None


def test_the_largest_payload_asks_for_no_larger_packet_than_there_is(config):
    limits = replace(config.limits, payload=268_435_455)
    link = consumer_link(replace(config, limits=limits), (), "id")
    assert link.maximum_packet_size == 268_435_455
    with socket.socket() as sock:
        Link(link, sock, None)


@pytest.mark.req("MQTT-68")
def test_a_secret_comes_from_a_file_less_one_newline(tmp_path):
    file = tmp_path / "secret"
    for written, read in (("s3", "s3"), ("s3\n", "s3"), ("s3\r\n", "s3"), (" s3\n\n", " s3\n")):
        file.write_bytes(written.encode())
        assert read_secret(str(file), environ={}) == read


@pytest.mark.req("MQTT-68")
def test_a_secret_comes_from_a_systemd_credential(tmp_path):
    (tmp_path / "broker-password").write_text("s3\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert read_secret("broker-password", environ=environ) == "s3"


@pytest.mark.req("MQTT-68")
@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        (None, "{}/absent", "cannot read"),
        (None, "credential", "LoadCredential=credential:"),
        (b"\n", "{}/secret", "is empty"),
        (b"\xff\xfehush", "{}/secret", "not UTF-8"),
        (None, "{}", "cannot read"),
    ],
)
def test_a_secret_that_cannot_be_read_is_named_with_file_and_place_and_not_shown(
    tmp_path, content, name, told
):
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_secret(name.format(tmp_path), "broker.password_file", environ={})
    assert told in str(caught.value)
    assert "hush" not in str(caught.value)
    assert caught.value.problems[0].path == "broker.password_file"


@pytest.mark.req("MQTT-68")
def test_a_credential_that_is_not_there_or_empty_is_told_with_the_place_to_write_it(tmp_path):
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    (tmp_path / "broker-password").write_text("\n")
    with pytest.raises(ConfigError, match=r"write /etc/oc2d/credentials/broker-password.* restart"):
        read_secret("broker-password", environ=environ)
    with pytest.raises(ConfigError, match="the unit needs LoadCredential=passwd:FILE"):
        read_secret("passwd", environ=environ)


@pytest.mark.req("MQTT-68")
def test_the_password_comes_from_the_environment_when_no_file_is_named(config, monkeypatch):
    monkeypatch.setenv(PASSWORD_VARIABLE, "from-environment")
    assert broker_link(config.broker, "id").password() == "from-environment"
    assert consumer_link(config, (), "id").password() == "from-environment"
    monkeypatch.delenv(PASSWORD_VARIABLE)
    assert broker_link(config.broker, "id").password() is None


@pytest.mark.req("MQTT-68")
def test_no_secret_is_in_the_text_of_the_settings(config, tmp_path):
    file = tmp_path / "secret"
    file.write_text("hush")
    broker = replace(config.broker, password_file=str(file), key_password_file=str(file))
    link = consumer_link(replace(config, broker=broker), (), "id")
    assert link.password() == "hush"
    assert link.tls is not None
    assert link.tls.key_password() == "hush"
    assert "hush" not in repr(link)


@pytest.mark.req("MQTT-6", "MQTT-7", "MQTT-8")
def test_the_client_id_is_random_private_and_kept(tmp_path):
    first = load_client_id(tmp_path)
    assert re.fullmatch(r"[0-9A-Za-z]{23}", first)
    assert load_client_id(tmp_path) == first
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    other = tmp_path / "other"
    other.mkdir()
    assert load_client_id(other) != first


@pytest.mark.req("MQTT-7")
@pytest.mark.parametrize("content", [b"", b"a-b\n", b"a" * 24, b"\xff"])
def test_a_damaged_client_id_is_an_error_and_not_replaced(tmp_path, content):
    file = tmp_path / "client-id"
    file.write_bytes(content)
    with pytest.raises(StateError, match="client-id"):
        load_client_id(tmp_path)
    assert file.read_bytes() == content


@pytest.mark.req("MQTT-7")
def test_a_state_directory_that_is_not_there_is_an_error():
    with pytest.raises(StateError, match="client id"):
        load_client_id(Path("/nonexistent/oc2d"))
