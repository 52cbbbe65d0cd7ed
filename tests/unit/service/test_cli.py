from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import reduce
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from oc2d.cli import main
from oc2d.config import Broker
from oc2d.mqtt.expiry import ends, expiry_problems
from oc2d.status import StatusServer

CONFIG = 'device_id = "fw-7"\n[broker]\nhost = "127.0.0.1"\n'
X_LOG = "[actuators.x-log]\n"


def test_version_loads_neither_transfer_nor_engine():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "oc2d", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"oc2d {importlib.metadata.version('oc2d')}\n"
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not modules & {"paho", "structlog", "msgspec", "pluggy", "oc2d.engine", "oc2d.mqtt"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config", "{}", "check"],
        ["check", "--config", "{}"],
        ["--log-format", "json", "check", "--config={}", "--log-level", "debug"],
    ],
)
def test_a_good_configuration_is_ok_wherever_the_options_stand(oc2d, write, arguments):
    path = str(write(CONFIG + X_LOG))
    done = oc2d(*(argument.replace("{}", path) for argument in arguments))
    assert (done.returncode, done.stdout, done.stderr) == (0, "configuration OK\n", "")


def test_check_warns_when_no_actuator_could_carry_out_anything(oc2d, write):
    done = oc2d("check", "--config", write(CONFIG))
    assert (done.returncode, done.stdout) == (0, "configuration OK\n")
    assert done.stderr == (
        "oc2d: warning: actuators: none is on, so no command can be carried out\n"
    )


def test_check_reports_every_mistake_of_every_kind_and_ends_with_78(oc2d, write, tmp_path):
    done = oc2d(
        "check",
        "--config",
        write(
            """
keep_alive = 3
device_id = "a/b"
[broker]
host = "h"
ca_file = "gone.pem"
username = "u"
password_file = "./secret"
[policy]
order = ["x-nobody"]
[actuators.x-lok]
[actuators.x-log]
profiles = ["acme"]
color = "red"
"""
        ),
    )
    assert done.returncode == 78
    assert done.stdout == ""
    *lines, last = done.stderr.splitlines()
    assert last == f"oc2d: the configuration is {tmp_path}/oc2d.toml"
    assert [line.split(": ")[:2] for line in lines] == [
        ["oc2d", "keep_alive"],
        ["oc2d", "device_id"],
        ["oc2d", "actuators.x-lok"],
        ["oc2d", "actuators.x-log.color"],
        ["oc2d", "actuators.x-log.profiles"],
        ["oc2d", "policy.order"],
        ["oc2d", "broker.password_file"],
        ["oc2d", "broker.ca_file"],
    ]
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["oc2d.toml"]


def test_check_changes_nothing(oc2d, write, tmp_path):
    state = f'[state]\ndirectory = "{tmp_path}/state"\nruntime_directory = "{tmp_path}/run"\n'
    assert oc2d("check", "--config", write(CONFIG + state + X_LOG)).returncode == 0
    assert not (tmp_path / "state").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.req("MQTT-57", "MQTT-66")
def test_check_warns_of_a_link_without_protection(oc2d, write):
    done = oc2d("check", "--config", write(CONFIG + "tls = false\n"))
    assert done.returncode == 0
    assert "oc2d: warning: broker.tls: no TLS" in done.stderr
    done = oc2d("check", "--config", write(CONFIG + 'tls_verify = false\nprotocol = "3.1.1"\n'))
    assert "warning: broker.tls_verify" in done.stderr
    assert "warning: broker.protocol" in done.stderr


@pytest.mark.req("MQTT-68")
def test_check_warns_of_secrets_that_everybody_can_read(oc2d, write, tmp_path):
    path = write(CONFIG + 'username = "u"\npassword_file = "./secret"\n' + X_LOG)
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    secret.chmod(0o644)
    done = oc2d("check", "--config", path)
    assert f"warning: broker.password_file: everybody on this host can read {secret}" in done.stderr
    assert done.returncode == 0
    secret.chmod(0o640)
    assert oc2d("check", "--config", path).stderr == ""


def test_a_credential_of_the_service_is_not_missed_by_hand(oc2d, write, tmp_path):
    path = write(CONFIG + 'username = "u"\npassword_file = "broker-password"\n' + X_LOG)
    done = oc2d("check", "--config", path)
    assert done.returncode == 0
    assert "only the service has the credential 'broker-password'" in done.stderr
    kept = tmp_path / "credentials"
    kept.mkdir()
    done = oc2d("check", "--config", path)
    assert done.returncode == 0
    assert f"there is no {kept}/broker-password, where the service has it from" in done.stderr
    (kept / "broker-password").write_text("\n")
    done = oc2d("check", "--config", path)
    assert (done.returncode, "broker-password is empty" in done.stderr) == (78, True)
    (kept / "broker-password").write_text("hunter2\n")
    assert oc2d("check", "--config", path).stderr == ""
    by_path = CONFIG + f'username = "u"\npassword_file = "{kept}/broker-password"\n' + X_LOG
    done = oc2d("check", "--config", write(by_path))
    assert done.returncode == 0
    assert f"the service cannot read {kept}/broker-password: it has it as" in done.stderr
    path = write(CONFIG + 'username = "u"\npassword_file = "broker-password"\n' + X_LOG)
    service = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert oc2d("check", "--config", path, env=service).returncode == 78
    (tmp_path / "broker-password").write_text("hunter2\n")
    done = oc2d("check", "--config", path, env=service)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_not_required_is_only_warned_of(oc2d, write):
    done = oc2d("check", "--config", write(CONFIG + "[actuators.x-gone]\nrequired = false\n"))
    assert done.returncode == 0
    assert "oc2d: warning: actuators.x-gone: no plugin serves this profile" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--foo"], ["chek"], ["check", "--foreground=3"], ["--log-level", "loud"], ["--c"]],
)
def test_a_wrong_command_line_ends_with_2(oc2d, arguments):
    done = oc2d(*arguments)
    assert done.returncode == 2
    assert "usage: oc2d" in done.stderr


def test_a_missing_file_is_a_message_and_no_traceback(oc2d, tmp_path):
    for arguments in ([], ["check"], ["status"]):
        done = oc2d(*arguments, "--config", tmp_path / "none")
        assert done.returncode == 78
        assert (
            done.stderr
            == f"oc2d: {tmp_path}/none: no such file; write one, or name another with --config\n"
        )


DOOR = """
from oc2d.actuator import Actuator, Response, pair
class Plugin(Actuator):
    profile = "x-door"
    @pair("deny", "file")
    @pair("allow", "file")
    @pair("deny", "device")
    def lock(self, command): return Response()
"""


def test_plugins_are_listed_with_pairs_and_why_they_are_not_in_use(oc2d, write, install, site):
    install("acme-door", DOOR)
    install("acme-broken", "1/0")
    install("acme-foo", DOOR.replace('"deny", "file"', '"x-foo", "file"'))
    path = write(
        CONFIG + '[actuators.x-log]\nprofiles = ["x-ids", "x-edr"]\npairs = {scan = ["uri"]}\n'
    )
    done = oc2d("plugins", "--json", "--config", path)
    assert done.returncode == 0
    ours = ("acme-", "oc2d-log")
    rows = [row for row in json.loads(done.stdout) if row["distribution"].startswith(ours)]
    orders = [row.pop("order") for row in rows]
    assert orders[0] == orders[1] > max(orders[2:])  # acme goes before oc2d
    assert "acme_broken.py line 1" in rows[3]["where"]
    for row in rows:
        assert Path(row.pop("location")).is_dir()
        row.pop("where")
        row.pop("needs")
        assert row.pop("hooks") == []
    version = rows[0]["version"]
    log = {"distribution": "oc2d-log", "version": version, "entry_point": "log"}
    acme = {"version": "1.2", "entry_point": "plugin"}
    assert rows == [
        {"profile": "x-ids", "state": "on", "reason": "", "pairs": {"scan": ["uri"]}, **log},
        {"profile": "x-edr", "state": "on", "reason": "", "pairs": {"scan": ["uri"]}, **log},
        {
            "profile": "x-door",
            "state": "off",
            "reason": "no [actuators.x-door] in the configuration",
            "pairs": {"allow": ["file"], "deny": ["device", "file"]},
            "distribution": "acme-door",
            **acme,
        },
        {
            "profile": None,
            "state": "failed",
            "reason": "ZeroDivisionError: division by zero",
            "pairs": {},
            "distribution": "acme-broken",
            **acme,
        },
        {
            "profile": None,
            "state": "failed",
            "reason": "Plugin.lock: no OpenC2 action 'x-foo'",
            "pairs": {},
            "distribution": "acme-foo",
            **acme,
        },
    ]
    text = oc2d("--config", path, "plugins").stdout
    assert "x-edr: on\n  from oc2d-log" in text
    assert (
        f"-: failed (ZeroDivisionError: division by zero)\n  at {site}/acme_broken.py line 1\n"
        f"  from acme-broken 1.2 (plugin)\n  in {site}\n" in text
    )


@pytest.mark.parametrize(
    ("table", "state", "words"),
    [
        ("enabled = false", "off", "enabled = false"),
        ("color = 1", "failed", "actuators.x-log.color: unknown key"),
        ("required = false\ncolor = 1", "failed", "actuators.x-log.color: unknown key"),
    ],
)
def test_a_table_that_is_off_or_wrong_shows_in_plugins(oc2d, write, table, state, words):
    done = oc2d("plugins", "--json", "--config", write(CONFIG + X_LOG + table))
    (row,) = [row for row in json.loads(done.stdout) if row["profile"] == "x-log"]
    assert row["state"] == state
    assert words in row["reason"]


def test_a_table_that_no_plugin_serves_shows_in_plugins(oc2d, write):
    path = write(CONFIG + "[actuators.x-gone]\nrequired = false\n")
    done = oc2d("plugins", "--json", "--config", path)
    (row,) = [row for row in json.loads(done.stdout) if row["profile"] == "x-gone"]
    assert (row["state"], row["distribution"]) == ("failed", None)
    assert "install the distribution that brings x-gone" in row["reason"]
    assert "x-gone: failed (actuators.x-gone: no plugin" in oc2d("plugins", "--config", path).stdout


def test_actions_with_the_same_targets_share_a_line_in_plugins(oc2d, write):
    text = oc2d("plugins", "--config", write(CONFIG)).stdout
    assert len([line for line in text.splitlines() if "artifact, command, device" in line]) <= 2
    assert "  allow, deny: ipv4_connection, ipv4_net, ipv6_connection, ipv6_net\n" in text


def test_plugins_are_listed_without_a_configuration_too(oc2d, tmp_path):
    done = oc2d("plugins", "--config", tmp_path / "none")
    assert done.returncode == 0
    assert f"x-log: off ({tmp_path}/none: no such file" in done.stdout


@pytest.fixture
def daemon(tmp_path):
    server = StatusServer(tmp_path, lambda: {"pid": 7, "link": {"connected": False}})
    server.start()
    yield f'[state]\nruntime_directory = "{tmp_path}"\n'
    server.stop()


def test_status_asks_the_running_daemon(oc2d, write, daemon):
    path = write(CONFIG + daemon)
    done = oc2d("status", "--config", path)
    assert (done.returncode, done.stdout) == (0, "pid: 7\n\nlink:\n  connected: no\n")
    assert json.loads(oc2d("--config", path, "status", "--json").stdout) == {
        "pid": 7,
        "link": {"connected": False},
    }


def test_status_works_when_the_file_was_broken_since(oc2d, write, daemon):
    assert oc2d("status", "--config", write("keep_alive = 3\n" + daemon)).returncode == 0


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_status_that_is_nested_too_deep_is_one_line_of_error(write, monkeypatch, capsys, form):
    deep = reduce(lambda inner, _: {"a": inner}, range(5000), {})
    monkeypatch.setattr("oc2d.status.fetch", lambda _: deep)
    assert main(["status", *form, "--config", str(write(CONFIG))]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("oc2d: the answer on ")
    assert len(told.err.splitlines()) == 1


def test_status_of_nobody_ends_with_1(oc2d, write, tmp_path):
    state = f'[state]\nruntime_directory = "{tmp_path}"\n'
    done = oc2d("status", "--config", write(CONFIG + state))
    assert done.returncode == 1
    assert f"oc2d is not running: nobody answers on {tmp_path}/status.sock;" in done.stderr


def test_a_reader_that_goes_away_is_no_traceback(write):
    command = f"{sys.executable} -m oc2d plugins --config {write(CONFIG + X_LOG)}"
    done = subprocess.run(
        ["bash", "-c", f'{command} | true; echo "${{PIPESTATUS[0]}}"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.strip() in {"0", "1"}


def test_ctrl_c_is_quiet(write, install, site, tmp_path):
    install("acme-slow", "import pathlib, time; pathlib.Path('begun').touch(); time.sleep(60)")
    with subprocess.Popen(
        [sys.executable, "-m", "oc2d", "check", "--config", str(write())],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
    ) as process:
        deadline = time.monotonic() + 30
        while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (1, "")


TAKER = """
import threading, structlog
from oc2d.hookspecs import hookimpl

def take():
    structlog.configure(processors=[], wrapper_class=structlog.stdlib.BoundLogger,
                        logger_factory=structlog.stdlib.LoggerFactory())

take()

@hookimpl
def oc2d_parse_config(table):
    return 1

@hookimpl
def oc2d_configure(config, place):
    take()
    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
"""


def test_a_plugin_does_not_take_the_log_over(write, install, site):
    install("taker", TAKER, entry="taker", target="")
    own = "port = 9\ntls = false\n[plugins.taker]\n"
    own += '[state]\ndirectory = "s"\nruntime_directory = "r"\n'
    with subprocess.Popen(
        [sys.executable, "-m", "oc2d", "--log-format", "json", "--config", write(CONFIG + own)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(site)},
    ) as process:
        lines = []
        for line in process.stderr:
            lines.append(json.loads(line))
            if lines[-1]["event"] == "started":
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    events = [line["event"] for line in lines]
    assert events[-1] == "stopped"
    assert [line["by"] for line in lines if line["event"] == "log_setup_ignored"] == ["taker"]


def test_main_returns_its_exit_code(write, capsys, monkeypatch):
    monkeypatch.setattr("oc2d.cli._configure_logs", lambda *_: None)  # it is for good
    assert main(["check", "--config", str(write("device_id = 3"))]) == 78
    assert "device_id" in capsys.readouterr().err


# -- what check says of the link


def test_check_warns_of_a_broker_without_an_address(oc2d, write):
    done = oc2d("check", "--config", write(CONFIG.replace("127.0.0.1", "a..b") + X_LOG))
    assert (done.returncode, done.stdout) == (0, "configuration OK\n")
    assert done.stderr.startswith("oc2d: warning: broker.host: a..b has no address here: ")


@pytest.fixture
def link(tmp_path, certificates):
    """A configuration whose files, copies, may be replaced."""
    for name in ("ca.crt", "client.crt", "client.key", "server.key"):
        shutil.copy(certificates.directory / name, tmp_path / name)
    return CONFIG + (
        'ca_file = "ca.crt"\ncert_file = "client.crt"\nkey_file = "client.key"\n' + X_LOG
    )


def certificate_until(end, key):
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fw-7")])
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), 7, end - dt.timedelta(days=1), end)
        # longer than the short form of DER
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("x" * 60)] * 9), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (-1, "ended on {}: the broker and we refuse each other; replace it"),
        (20.5, "ends on {}, in 20 days: replace it, then reload (SIGHUP)"),
        (40, None),
        (40 * 365, None),  # written in another form from 2050 on
    ],
)
def test_check_warns_of_certificates_that_end_soon_or_are_over(
    oc2d, write, link, tmp_path, days, words
):
    end = dt.datetime.now(dt.timezone.utc).replace(microsecond=0) + dt.timedelta(days=days)
    key = serialization.load_pem_private_key((tmp_path / "client.key").read_bytes(), None)
    (tmp_path / "client.crt").write_bytes(certificate_until(end, key))
    config = Broker(host="h", port=1, cert_file=tmp_path / "client.crt")
    assert ends(config) == {"broker.cert_file": end}
    done = oc2d("check", "--config", write(link))
    said = [line for line in done.stderr.splitlines() if "cert_file" in line]
    when = f"{end:%Y-%m-%d %H:%M} UTC"
    wanted = [f"oc2d: warning: broker.cert_file: {words.format(when)}"] if words else []
    assert (done.returncode, said) == (0, wanted)
    assert "warning: broker.ca_file: ends on" in done.stderr


def test_of_several_authorities_the_last_to_end_counts_and_of_our_chain_the_first(tmp_path):
    now = dt.datetime.now(dt.timezone.utc).replace(microsecond=0)
    key = ec.generate_private_key(ec.SECP256R1())
    both = [now + dt.timedelta(days=days) for days in (3, 300)]
    (tmp_path / "two.pem").write_bytes(b"".join(certificate_until(end, key) for end in both))
    config = Broker(host="h", port=1, ca_file=tmp_path / "two.pem", cert_file=tmp_path / "two.pem")
    assert ends(config) == {"broker.ca_file": both[1], "broker.cert_file": both[0]}


def test_the_end_of_a_revocation_list_is_known(certificates):
    config = Broker(host="h", port=1, crl_file=certificates.crl("none"))
    (crl,) = [x509.load_pem_x509_crl(certificates.crl("none").read_bytes())]
    (end,) = ends(config).values()
    assert end == crl.next_update_utc
    assert list(expiry_problems(config, end - dt.timedelta(minutes=1))) == []
    (problem,) = expiry_problems(config, end)
    assert problem.path == "broker.crl_file"


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----"]
)
def test_a_file_without_a_date_in_it_has_no_end(tmp_path, content):
    (tmp_path / "odd").write_bytes(content)
    assert ends(Broker(host="h", port=1, ca_file=tmp_path / "odd")) == {}
    assert ends(Broker(host="h", port=1, ca_file=tmp_path / "none")) == {}


def test_a_key_of_another_certificate_is_an_error(oc2d, write, link):
    done = oc2d("check", "--config", write(link.replace("client.key", "server.key")))
    assert done.returncode == 78
    assert "broker.key_file" in done.stderr
    assert "does not belong to" in done.stderr
