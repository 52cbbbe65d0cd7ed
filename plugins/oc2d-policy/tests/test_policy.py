from __future__ import annotations

import time
from datetime import datetime, timezone

import pytest

from oc2d.errors import ConfigError
from oc2d.hookspecs import Request
from oc2d.language.codec import Encoding
from oc2d.language.command import parse_command
from oc2d_policy import PolicyPlugin
from oc2d_policy.reading import parse_policy

NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc).timestamp()  # a Monday
ALLOW, DENY = {"effect": "allow"}, {"effect": "deny"}
SOC = "soc@example.com"


def request(action="deny", target=None, *, producer=SOC, profile="slpf", topic="oc2/cmd/all"):
    tree = {"action": action, "target": target or {"ipv4_net": "198.51.100.7"}}
    return Request("r1", producer, topic, profile, parse_command(tree, Encoding.CBOR))


def judge(asked, *rules, default="deny", now=NOON, **more):
    refusal = parse_policy({"default": default, "rules": [*rules], **more}).judge(asked, now)
    return None if refusal is None else refusal.status


def places(tree):
    with pytest.raises(ConfigError) as caught:
        parse_policy(tree)
    return [problem.path for problem in caught.value.problems]


def test_what_no_rule_matches_is_for_the_default():
    assert judge(request()) == 403
    assert judge(request(), default="allow") is None


def test_the_first_rule_that_matches_decides():
    assert judge(request(), ALLOW, DENY) is None
    assert judge(request(), DENY, ALLOW, default="allow") == 403
    assert judge(request(), {**DENY, "from": ["other"]}, ALLOW) is None


@pytest.mark.parametrize(
    ("condition", "matching", "other"),
    [
        ({"from": ["*@example.com"]}, {}, {"producer": "soc@example.com.evil"}),
        ({"from": ["*"]}, {}, {"producer": None}),
        ({"topics": ["oc2/cmd/device/*"]}, {"topic": "oc2/cmd/device/fw-7"}, {}),
        ({"profiles": ["slpf"]}, {}, {"profile": "x-door"}),
        ({"profiles": ["slpf"]}, {}, {"profile": None}),
        ({"actions": ["deny", "allow"]}, {"action": "allow"}, {"action": "scan"}),
        ({"targets": ["ipv4_*"]}, {}, {"target": {"uri": "http://example.com/"}}),
        (
            {"targets": ["slpf:*"]},
            {"action": "delete", "target": {"slpf:rule_number": 7}},
            {"action": "delete", "target": {"x-door:lock": 7}},
        ),
    ],
)
def test_each_condition_matches_what_it_names_and_nothing_else(condition, matching, other):
    assert judge(request(**matching), {**ALLOW, **condition}) is None
    assert judge(request(**other), {**ALLOW, **condition}) in {401, 403}


def test_all_conditions_of_a_rule_have_to_be_met():
    rule = {**ALLOW, "from": [SOC], "actions": ["deny"]}
    assert judge(request(), rule) is None
    assert judge(request("allow"), rule) == 403
    assert judge(request(producer="x"), rule) == 403


NETS = ["192.0.2.0/24", "2001:db8::/32"]


@pytest.mark.parametrize(
    ("target", "inside", "touches"),
    [
        ({"ipv4_net": "192.0.2.7"}, True, True),
        ({"ipv4_net": "192.0.2.0/24"}, True, True),
        ({"ipv4_net": "192.0.0.0/16"}, False, True),
        ({"ipv4_net": "0.0.0.0/0"}, False, True),
        ({"ipv4_net": "198.51.100.1"}, False, False),
        ({"ipv6_net": "2001:db8:5::/48"}, True, True),
        ({"ipv6_net": "::/0"}, False, True),
        ({"ipv6_net": "::ffff:192.0.2.7"}, True, True),
        ({"ipv6_net": "2001:db9::/32"}, False, False),
        ({"ipv4_connection": {"dst_addr": "192.0.2.7", "dst_port": 22}}, True, True),
        ({"ipv4_connection": {"src_addr": "198.51.100.1", "dst_addr": "192.0.2.7"}}, True, True),
        ({"ipv4_connection": {"src_addr": "198.51.100.1"}}, False, False),
        ({"ipv4_connection": {"dst_port": 22}}, False, True),
        ({"ipv6_connection": {"dst_port": 22}}, False, True),
        ({"pf:advanced_connection": {"dst_port": 22}}, False, True),
        ({"pf": {"advanced_connection": {"protocol": "tcp"}}}, False, True),
        ({"pf:advanced_connection": {"dst_addr": "www.example.com"}}, False, True),
        ({"pf:advanced_connection": {"dst_addr": "192.0.2.7", "dst_port": 22}}, True, True),
        ({"pf:advanced_connection": {"dst_addr": "198.51.100.1"}}, False, False),
        ({"uri": "https://192.0.2.7:8443/x"}, True, True),
        ({"uri": "https://[2001:db8::1]/x"}, True, True),
        ({"file": {"name": "192.0.2.7"}}, False, False),
        ({"x-door:lock": {"at": ["192.0.2.7", {"b": "10.0.0.1"}]}}, False, True),
        ({"x-door:lock": {"at": ["192.0.2.7", {"b": "192.0.2.8"}]}}, True, True),
        ({"x-door:lock": {"192.0.2.7": 22}}, True, True),
        ({"x-door:lock": bytes([192, 0, 2, 7])}, True, True),
        ({"x-door:lock": {"at": [bytes([192, 0, 0, 0]), 16]}}, False, True),
        ({"x-door:lock": [[bytes.fromhex("20010db8") + bytes(12), 48], 22]}, True, True),
        ({"x-door:lock": b"192.0.2.7"}, False, False),
        ({"slpf:rule_number": 5}, False, False),
    ],
)
def test_a_rule_that_allows_takes_what_is_inside_and_one_that_denies_what_touches(
    target, inside, touches
):
    asked = request(target=target)
    assert (judge(asked, {**ALLOW, "nets": NETS}) is None) is inside
    assert (judge(asked, {**DENY, "nets": NETS}, default="allow") == 403) is touches


@pytest.mark.parametrize(
    ("target", "matches"),
    [
        ({"domain_name": "www.example.com"}, True),
        ({"domain_name": "www.example.com.evil.org"}, False),
        ({"uri": "https://www.Example.com:8443/a"}, True),
        ({"uri": "https://www.example.com@evil.org/"}, False),
        ({"email_addr": "a@mail.example.com"}, True),
        ({"device": {"hostname": "fw.example.com"}}, True),
        ({"file": {"name": "www.example.com"}}, False),
        ({"ipv4_net": "192.0.2.7"}, False),
    ],
)
def test_domains_are_found_where_a_target_has_a_name(target, matches):
    asked = request(target=target)
    assert (judge(asked, {**ALLOW, "domains": ["*.EXAMPLE.com."]}) is None) is matches
    assert (judge(asked, {**DENY, "domains": ["*.example.com"]}, default="allow") == 403) is matches


@pytest.mark.parametrize("name", ["ai", "AI."])
@pytest.mark.parametrize("kind", ["domain_name", "idn_domain_name"])
@pytest.mark.parametrize("pattern", ["ai", "*"])
def test_a_name_of_one_label_is_a_name(name, kind, pattern):
    asked = request(target={kind: name})
    assert judge(asked, {**DENY, "domains": [pattern]}, default="allow") == 403
    assert judge(asked, {**ALLOW, "domains": [pattern]}) is None


@pytest.mark.parametrize(
    "pattern", ["*.bücher.example", "*.xn--bcher-KVA.example", "*\uff0eBÜCHER。example"]
)
@pytest.mark.parametrize(
    ("target", "matches"),
    [
        ({"domain_name": "www.xn--bcher-kva.example"}, True),
        ({"idn_domain_name": "www.bücher.example"}, True),
        ({"idn_domain_name": "www.BU\u0308CHER\uff0eexample\uff61"}, True),
        ({"iri": "http://www.bücher\u3002example/"}, True),
        ({"uri": "http://www.b%C3%BCcher.example:8443/"}, True),
        ({"uri": "http://ww%77.xn--bcher-kva.example/"}, True),
        ({"uri": "mailto:a@www.xn--bcher-kva.example?subject=x"}, True),
        ({"uri": "mailto:a%40www.xn--bcher-kva.example,b@c.org?cc=d@e.org"}, True),
        ({"idn_domain_name": "www.bücher.example.org"}, False),
        ({"x-door:lock": "www." + "ü" * 99 + ".example"}, False),
        ({"iri": "http://evil.org/@www.bücher.example"}, False),
    ],
)
def test_a_name_is_found_in_each_of_its_spellings(target, matches, pattern):
    asked = request(target=target)
    assert (judge(asked, {**DENY, "domains": [pattern]}, default="allow") == 403) is matches


def test_a_name_has_to_be_allowed_in_all_places_of_a_mailto():
    rule = {**ALLOW, "domains": ["*.example.com"]}
    assert judge(request(target={"uri": "mailto:a@b.example.com?subject=x"}), rule) is None
    assert judge(request(target={"uri": "mailto:a@evil.org,b@b.example.com"}), rule) == 403


def test_an_address_in_a_uri_is_found_if_it_is_quoted():
    rule = {**DENY, "nets": NETS}
    assert judge(request(target={"uri": "http://192.0.2.%37/"}), rule, default="allow") == 403


@pytest.mark.parametrize(
    "host",
    [
        "".join(map(chr, range(0x4E00, 0x4E00 + 20_000))),
        ".".join(["\u4e00\u4e8c\u4e09" * 20] * 1000),
        "a@" * 100_000,
        "\u4e00@" * 40_000,
    ],
)
def test_no_text_however_long_keeps_the_engine_busy(host):
    """One label of 20 000 letters took a minute: the watchdog ended the daemon, again and again."""
    asked = request(target={"iri": f"mailto:{host}"})
    begun = time.process_time()
    assert judge(asked, {**ALLOW, "domains": ["*.example.com"]}) == 403
    assert time.process_time() - begun < 5


def test_no_number_of_addresses_and_rules_keeps_the_engine_busy():
    target = {"x-door:lock": [bytes([10, *divmod(n, 256), 1]) for n in range(40_000)]}
    rules = [{**DENY, "nets": [f"192.0.2.{n}"]} for n in range(200)]
    begun = time.process_time()
    assert judge(request(target=target), *rules, default="allow") == 403
    assert judge(request(target=target), {**ALLOW, "from": [SOC]}) is None
    assert time.process_time() - begun < 5


def test_all_names_must_be_allowed_and_one_that_is_denied_is_enough():
    both = {"device": {"hostname": "evil.org", "idn_hostname": "fw.example.com"}}
    assert judge(request(target=both), {**ALLOW, "domains": ["*.example.com"]}) == 403
    denied = {**DENY, "domains": ["*.example.com"]}
    assert judge(request(target=both), denied, default="allow") == 403


def test_nets_or_domains_one_of_them_is_enough():
    rule = {**ALLOW, "nets": ["192.0.2.0/24"], "domains": ["*.example.com"]}
    assert judge(request(target={"domain_name": "a.example.com"}), rule) is None
    assert judge(request(target={"ipv4_net": "192.0.2.9"}), rule) is None
    assert judge(request(target={"ipv4_net": "192.0.3.9"}), rule) == 403


@pytest.mark.parametrize(
    ("moment", "within"),
    [
        ("2026-11-23T07:59:59+01:00", False),
        ("2026-11-23T08:00:00+01:00", True),
        ("2026-11-23T17:59:59+01:00", True),
        ("2026-11-23T18:00:00+01:00", False),
        ("2026-11-22T12:00:00+01:00", False),
        ("2026-07-06T07:30:00+01:00", True),  # daylight saving: it is 08:30 there
    ],
)
def test_hours_are_those_of_the_zone_and_of_the_days(moment, within):
    hours = {"days": ["mon"], "from": "08:00", "to": "18:00"}
    now = datetime.fromisoformat(moment).timestamp()
    rule = {**ALLOW, "when": [hours]}
    assert (judge(request(), rule, now=now, timezone="Europe/Berlin") is None) is within


def test_hours_over_midnight_belong_to_the_day_they_begin_on():
    rule = {**ALLOW, "when": [{"days": ["fri"], "from": "22:00", "to": "06:00"}]}

    def at(text):
        return judge(request(), rule, now=datetime.fromisoformat(text).timestamp())

    assert at("2026-11-27T23:00:00+00:00") is None  # Friday
    assert at("2026-11-28T05:59:00+00:00") is None
    assert at("2026-11-28T22:30:00+00:00") == 403
    assert at("2026-11-27T05:00:00+00:00") == 403


def test_a_moment_opens_a_rule_and_another_closes_it():
    opens, closes = (datetime(2026, 11, 23, hour, tzinfo=timezone.utc) for hour in (11, 13))
    rule = {**ALLOW, "not_before": opens, "not_after": closes}
    assert judge(request(), rule) is None
    assert judge(request(), rule, now=closes.timestamp()) == 403
    assert judge(request(), rule, now=opens.timestamp() - 1) == 403


def test_who_does_not_say_who_asks_is_answered_401_where_it_matters():
    nobody = request(producer=None)
    assert judge(nobody, {**ALLOW, "from": [SOC]}) == 401
    assert judge(nobody, {**ALLOW, "actions": ["scan"]}) == 403


def test_every_mistake_is_told_with_its_place():
    tree = {
        "defualt": "deny",
        "timezone": "Mars/Base",
        "rules": [
            {},
            "allow",
            {
                "effect": "permit",
                "name": 3,
                "from": "soc",
                "actions": ["deny", "block"],
                "targets": ["ipv4_nett"],
                "profiles": ["acme"],
                "nets": ["192.0.2.1/24", 7],
                "domains": ["b*.example", "bü*.example"],
                "when": [{"days": ["monday"], "from": "8", "until": "18:00"}, 3],
                "not_after": "tomorrow",
                "colour": "red",
            },
        ],
    }
    third = [
        "actions[1]",
        "colour",
        "domains[1]",
        "effect",
        "from",
        "name",
        "nets[0]",
        "nets[1]",
        "not_after",
        "profiles[0]",
        "targets[0]",
        "when[0].days[0]",
        "when[0].from",
        "when[0].until",
        "when[1]",
    ]
    expected = ["default", "defualt", "rules[0].effect", "rules[1]", "timezone"]
    assert sorted(places(tree)) == sorted([*expected, *(f"rules[2].{path}" for path in third)])


def test_a_file_that_cannot_be_used_is_told_with_the_key_that_names_it(tmp_path):
    file = tmp_path / "policy.toml"

    def problems(**table):
        with pytest.raises(ConfigError) as caught:
            PolicyPlugin().oc2d_parse_config(table)
        return str(caught.value)

    assert "file: the absolute path" in problems()
    assert "colour: unknown key" in problems(file="relative", colour=1)
    assert "cannot be read: No such file" in problems(file=str(file))
    file.write_text("default = \n")
    assert "is not TOML" in problems(file=str(file))
    file.write_text('default = "deny"\n[[rules]]\neffect = "allow"\nnets = ["x"]\n')
    assert problems(file=str(file)).startswith("file: rules[0].nets[0]: 'x' is no network")
    file.write_text('default = "deny"\n')
    file.chmod(0o666)
    assert "may be changed by everybody" in problems(file=str(file))


def test_without_a_policy_in_force_everything_is_refused():
    assert PolicyPlugin().oc2d_authorise(request()) == "no policy is in force"
    assert PolicyPlugin().oc2d_status() == {}
