from __future__ import annotations

import contextlib
import os
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple

from oc2d.config import Broker, Compat, Config, Limits, Policy, State
from oc2d.config_file import inspect, load
from oc2d.errors import ConfigError


def problems(path):
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.exit_code == 78
    return {problem.path: problem.message for problem in caught.value.problems}


@pytest.fixture
def wrong(write):
    """The problems of a file that has these lines instead of the minimal ones."""

    def wrong(top="", broker='host = "h"', rest=""):
        return problems(write(f'device_id = "fw-7"\n{top}\n[broker]\n{broker}\n{rest}\n'))

    return wrong


@pytest.mark.req("MQTT-57")
def test_a_minimal_file_has_the_defaults_and_tls(write):
    config = load(write())
    assert config == Config(
        device_id="fw-7",
        broker=Broker(host="mqtt.example.com", port=8883),
        sender="fw-7",
        state=State(),
        limits=Limits(),
        policy=Policy(),
        compat=Compat(),
    )
    assert config.broker.tls
    assert config.broker.tls_verify


def test_the_port_without_tls_is_1883(write):
    assert load(write('device_id = "a"\n[broker]\nhost = "h"\ntls = false')).broker.port == 1883


def test_every_key_reaches_its_field(write, tmp_path):
    config = load(
        write("""
device_id = "fw-7"
namespace = "vpf/x/"
from = "fw-7@example.com"
[broker]
host = "192.0.2.1"
port = 1
ca_file = "tls/ca.pem"
cert_file = "/abs/cert.pem"
key_file = "key.pem"
key_password_file = "./kp"
crl_file = "../crl.pem"
tls_verify = false
alpn = "mqtt"
username = "u"
password_file = "broker-password"
keep_alive = 1
session_expiry = 4294967295
protocol = "3.1.1"
qos = 2
response_topic = "both"
extra_subscriptions = ["oc2/cmd", "a/+/b/#", "#"]
accept_retained = true
[state]
directory = "state"
runtime_directory = "/run/x"
[limits]
payload = 1
queue = 2
queue_per_producer = 3
rate_per_minute = 4
remember = 5
remember_count = 6
interim_after = 0.5
[policy]
producers = ["a", "b"]
max_age = 7
order = ["slpf"]
report_after_ack = true
[compat]
bare_command = true
profile_field = false
strict_cidr = true
[actuators.slpf]
enabled = false
required = false
timeout = 3
backend = "dry-run"
[actuators.slpf.deep]
er = 1
""")
    )
    assert config.namespace == "vpf/x"
    assert config.sender == "fw-7@example.com"
    assert config.broker == Broker(
        host="192.0.2.1",
        port=1,
        ca_file=tmp_path / "tls/ca.pem",
        cert_file=Path("/abs/cert.pem"),
        key_file=tmp_path / "key.pem",
        key_password_file=str(tmp_path / "kp"),
        crl_file=tmp_path / "../crl.pem",
        tls_verify=False,
        alpn="mqtt",
        username="u",
        password_file="broker-password",
        keep_alive=1,
        session_expiry=4294967295,
        protocol="3.1.1",
        qos=2,
        response_topic="both",
        extra_subscriptions=("oc2/cmd", "a/+/b/#", "#"),
        accept_retained=True,
    )
    assert config.state == State(directory=tmp_path / "state", runtime_directory=Path("/run/x"))
    assert astuple(config.limits) == (1, 2, 3, 4, 5, 6, 0.5)
    assert astuple(config.policy) == (("a", "b"), 7, ("slpf",), True)
    assert astuple(config.compat) == (True, False, True)
    slpf = config.actuators["slpf"]
    assert (slpf.enabled, slpf.required, slpf.timeout) == (False, False, 3.0)
    assert slpf.options == {"backend": "dry-run", "deep": {"er": 1}}


def test_every_mistake_is_reported_at_once(write):
    assert problems(
        write("""
device_id = 7
namepace = "x"
[broker]
port = "1883"
keep_alive = 301
tls = "no"
[limits]
queue = true
[policy]
producers = []
[actuators]
slpf = 3
[actuators.x-log]
timeout = 0
""")
    ) == {
        "device_id": "expected a string, found the number 7",
        "namepace": "unknown key; did you mean namespace?",
        "broker.host": "is required",
        "broker.port": "expected a whole number, found the string '1883'",
        "broker.keep_alive": "expected a whole number from 1 to 300, found the number 301",
        "broker.tls": "expected true or false, found the string 'no'",
        "limits.queue": "expected a whole number, found the boolean true",
        "policy.producers": "the list is empty: name at least one, or leave the key out",
        "actuators.slpf": "expected a table, found the number 3",
        "actuators.x-log.timeout": "expected seconds, more than 0, found the number 0",
    }


def test_more_than_the_journal_can_count_is_no_time_to_remember(wrong):
    assert wrong("[limits]\nremember = 9223372036854775807\n")["limits.remember"] == (
        "expected a whole number from 1 to 4294967295, found the number 9223372036854775807"
    )


@pytest.mark.req("MQTT-5")
@pytest.mark.parametrize("value", [0, 301, -1, "true", '"300"', "300.0"])
def test_keep_alive_is_1_to_300_seconds(wrong, value):
    assert set(wrong(broker=f'host = "h"\nkeep_alive = {value}')) == {"broker.keep_alive"}


@pytest.mark.req("MQTT-9")
@pytest.mark.parametrize("value", [0, 4294967296])
def test_the_session_is_kept_for_a_time_that_mqtt_can_say(wrong, value):
    assert set(wrong(broker=f'host = "h"\nsession_expiry = {value}')) == {"broker.session_expiry"}


@pytest.mark.req("MQTT-25")
@pytest.mark.parametrize(
    "name",
    [
        "a/b",
        "",
        " ",
        "a+",
        "#",
        "a\\u0000b",
        "a\\nb",
        "x" * 40000,
        "a\\u200b",
        "a\\u00a0b",
        "\\uffff",
    ],
)
def test_device_id_is_one_legal_topic_level(write, name):
    path = write(f'device_id = "{name}"\n[broker]\nhost = "h"\n')
    assert set(problems(path)) == {"device_id"}


@pytest.mark.req("MQTT-25")
def test_the_case_of_the_device_id_is_kept(write):
    assert load(write('device_id = "Zulu"\n[broker]\nhost = "h"')).device_id == "Zulu"


@pytest.mark.parametrize(
    ("text", "namespace"),
    [("vpf", "vpf"), ("vpf/", "vpf"), ("a/b", "a/b"), ("", ""), ("a/$b", "a/$b")],
)
def test_a_namespace_is_topic_levels_without_the_last_slash(write, text, namespace):
    assert load(
        write(f'device_id = "a"\nnamespace = "{text}"\n[broker]\nhost = "h"')
    ).namespace == (namespace)


@pytest.mark.parametrize("text", ["/", "/a", "a//b", "a//", "a/+", "#", "a/#", "$SYS", "$a/b"])
def test_a_namespace_that_is_no_topic_prefix_is_refused(wrong, text):
    assert set(wrong(top=f'namespace = "{text}"')) == {"namespace"}


@pytest.mark.req("MQTT-27")
@pytest.mark.parametrize("text", ["a/#/b", "a#", "a/b+", "$share/g/x", "", "a\\u0001"])
def test_an_extra_subscription_must_be_a_topic_filter(wrong, text):
    found = wrong(broker=f'host = "h"\nextra_subscriptions = ["ok", "{text}"]')
    assert found["broker.extra_subscriptions"].startswith("item 2: ")


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("mqtts://h", "not a URL"),
        ("h:8883", "the port goes into broker.port"),
        ("", "must not be empty"),
        ("a b", "no host name"),
        ("[::1]", "no host name"),
    ],
)
def test_a_host_is_a_name_or_an_address(wrong, host, words):
    assert words in wrong(broker=f'host = "{host}"')["broker.host"]


def test_an_ipv6_address_is_a_host(write):
    assert load(write('device_id = "a"\n[broker]\nhost = "2001:db8::1"')).broker.host == (
        "2001:db8::1"
    )


@pytest.mark.req("MQTT-29")
@pytest.mark.parametrize("line", ["qos = 0", "qos = true", 'qos = "1"', "protocol = 5"])
def test_a_choice_is_one_of_its_values_and_of_their_type(wrong, line):
    assert set(wrong(broker=f'host = "h"\n{line}')) == {f"broker.{line.split()[0]}"}


@pytest.mark.req("MQTT-67")
@pytest.mark.parametrize(
    ("lines", "path"),
    [
        ('cert_file = "c"', "broker.cert_file"),
        ('key_file = "k"', "broker.key_file"),
        ('key_password_file = "k"', "broker.key_password_file"),
        ('password_file = "p"', "broker.password_file"),
    ],
)
def test_keys_that_need_another_say_so(wrong, lines, path):
    assert "needs broker." in wrong(broker=f'host = "h"\n{lines}')[path]


@pytest.mark.req("MQTT-57")
@pytest.mark.parametrize(
    "line", ['ca_file = "x"', "tls_verify = true", 'crl_file = "x"', 'alpn = "mqtt"']
)
def test_tls_keys_without_tls_are_errors(wrong, line):
    found = wrong(broker=f'host = "h"\ntls = false\n{line}')
    assert "no effect with tls = false" in found[f"broker.{line.split()[0]}"]


@pytest.mark.parametrize(
    ("top", "path", "words"),
    [
        ("keep_alive = 3", "keep_alive", "belongs to [broker]"),
        ("[brokr]", "brokr", "did you mean broker?"),
        ("[limits]\nqeue = 3", "limits.qeue", "did you mean queue?"),
        ("[mqtt]\na = 1", "mqtt", "unknown key"),
        ("[policy]\ndevice_id = 'x'", "policy.device_id", "belongs above all tables"),
    ],
)
def test_an_unknown_key_is_an_error_with_a_suggestion(write, top, path, words):
    text = 'device_id = "a"\nbroker = { host = "h" }\n' + top
    found = problems(write(text))
    assert set(found) == {path}
    assert words in found[path]


@pytest.mark.req("MQTT-68")
def test_a_secret_in_the_wrong_place_is_not_repeated(wrong):
    found = wrong(broker='host = "h"\nusername = "u"\npassword = "hunter2"\npassword_file = 4711')
    assert "did you mean password_file?" in found["broker.password"]
    assert "hunter2" not in str(found)
    assert "4711" not in str(found)


@pytest.mark.parametrize("value", ["nan", "inf", "-1.0", '"5"', "true"])
def test_seconds_are_a_positive_finite_number(wrong, value):
    assert set(wrong(rest=f"[limits]\ninterim_after = {value}")) == {"limits.interim_after"}


@pytest.mark.parametrize("value", ["1979-05-27", "[1]", "{ a = 1 }", "1.5"])
def test_values_of_all_toml_types_are_refused_by_name(wrong, value):
    assert "expected a string, found" in wrong(top=f"from = {value}")["from"]


def test_a_section_that_is_no_table_is_an_error(write):
    found = problems(write('device_id = "a"\nlimits = 3\nactuators = []\n[broker]\nhost = "h"'))
    assert found == {
        "limits": "expected a table ([limits]), found the number 3",
        "actuators": "expected a table ([actuators]), found a list",
    }


def test_a_missing_file_says_what_to_do(tmp_path):
    assert "no such file; write one" in problems(tmp_path / "none.toml")[""]


def test_a_directory_in_the_place_of_the_file_is_named(tmp_path):
    assert "cannot be read: Is a directory" in problems(tmp_path)[""]


NOBODY = 65534


def as_somebody_else(check):
    """Tell whether a check holds in a child that is not root: root may read everything."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that other tests left
        child = os.fork()
    if child == 0:
        held = False
        with contextlib.suppress(BaseException):
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            held = check()
        os._exit(0 if held else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_unreadable_file_is_named(write, monkeypatch):
    path = write()
    path.parent.chmod(0o755)
    monkeypatch.chdir(path.parent)  # the directories above are root's own
    path = Path(path.name)
    assert as_somebody_else(lambda: load(path).device_id == "fw-7")
    path.chmod(0)
    assert as_somebody_else(lambda: "Permission denied" in problems(path)[""])


def test_a_syntax_error_comes_with_its_line(write):
    assert "(at line 2, column 3)" in problems(write('device_id = "a"\n[ broker\n'))[""] or (
        "line 2" in problems(write('device_id = "a"\n[ broker\n'))[""]
    )


def test_text_that_is_not_utf8_comes_with_its_line(write):
    path = write()
    path.write_bytes(b'device_id = "a"\n# caf\xe9\n')
    assert "line 2 is not UTF-8" in problems(path)[""]


@pytest.mark.parametrize("line", ["[broker]\nport", "limits", "[limits]\ninterim_after"])
@pytest.mark.parametrize("number", ["1" * 5000, "0x" + "f" * 5000])
def test_a_number_that_python_does_not_write_out_is_a_problem_like_others(write, line, number):
    assert any("digits" in found for found in problems(write(f"{line} = {number}")).values())


def test_a_file_may_begin_with_a_byte_order_mark(write):
    path = write()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load(path).device_id == "fw-7"


def test_what_is_right_in_a_wrong_file_is_still_told(write):
    findings = inspect(write("[broker]\nhost = 'h'\n[state]\ndirectory = '/x'\n[actuators.slpf]"))
    assert findings.config is None
    assert findings.broker is not None
    assert findings.state == State(directory=Path("/x"))
    assert set(findings.actuators) == {"slpf"}


@given(st.binary(max_size=200))
def test_no_file_makes_it_raise_anything_else(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("config") / "oc2d.toml"
    path.write_bytes(content)
    assert inspect(path).config is None


@pytest.mark.parametrize("name", ["", "a" * 256, "möqtt", "mqtt\\n"])
def test_a_protocol_name_is_short_printable_ascii(wrong, name):
    assert "broker.alpn" in wrong(broker=f'host = "h"\nalpn = "{name}"')


def test_text_without_quotes_is_told_to_want_them(write):
    assert "at line 1" in problems(write("device_id = fw-7\n"))[""]
    assert problems(write("device_id = fw-7\n"))[""].endswith("; text stands in quotes")
