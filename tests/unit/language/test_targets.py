"""Every target and value type of the tables in part 6: good values and canonical forms."""

from __future__ import annotations

import copy

import pytest

from oc2d.language.codec import Encoding
from oc2d.language.command import command_tree
from oc2d.language.targets import IPv4Connection, IPv6Connection
from oc2d.language.values import IPv4Net
from oc2d.language.vocabulary import L4Protocol
from tests.unit.language.encoded import read

MD5 = "0313fd399b143fc40cd52a1679018305"
SHA1 = "f46ed7e88334a4d3debaa8cfa842727cb66e997f"
SHA256 = "5c2d6daaf85a710605678f8e7ef0b725b33303f3234197b9dc4b46196734a4f0"


def written(name, value, encoding=Encoding.JSON, out=None):
    return command_tree(read(name, value, encoding), out or encoding)["target"][name]


# target, what comes in, what goes out
GOOD = [
    ("artifact", {"mime_type": "text/plain"}, None),
    ("artifact", {"payload": {"url": "https://e.com/a"}, "hashes": {"md5": MD5.upper()}}, None),
    ("artifact", {"payload": {"bin": "AAH_"}}, None),
    ("artifact", {"payload": {"bin": "AAH/"}}, {"payload": {"bin": "AAH_"}}),
    ("artifact", {"payload": {"bin": "AA=="}}, {"payload": {"bin": "AA"}}),
    ("artifact", {"payload": {"bin": "AA"}}, None),
    ("artifact", {"payload": {"bin": ""}}, None),
    ("command", "CB1BCDEE-C7B4-40B7-9128-64DB2B877C32", None),
    (
        "device",
        {"hostname": "a.example", "idn_hostname": "bücher.example", "device_id": "x y"},
        None,
    ),
    ("device", {"hostname": "a" * 63 + ".1"}, None),
    ("domain_name", "example.com", None),
    ("domain_name", "example.com.", None),
    ("domain_name", "xn--bcher-kva.example", None),
    ("email_addr", "a.b+c@example.com", None),
    ("email_addr", '"a b"@example.com', None),
    ("features", [], None),
    ("features", ["rate_limit", "versions"], None),
    ("features", ["versions"] * 40, ["versions"]),
    ("file", {"name": "a", "path": "\\\\b\\c", "hashes": {"sha1": SHA1.upper()}}, None),
    ("file", {"hashes": {"sha256": SHA256}}, {"hashes": {"sha256": SHA256.upper()}}),
    ("idn_domain_name", "bücher.example", None),
    ("idn_domain_name", "日本語.example.", None),
    ("idn_email_addr", "jürgen@bücher.example", None),
    ("idn_email_addr", "a@example.com", None),
    ("ipv4_net", "1.2.3.4", None),
    ("ipv4_net", "1.2.3.4/32", "1.2.3.4"),
    ("ipv4_net", "0.0.0.0/0", None),
    ("ipv4_net", "127.0.0.1/8", "127.0.0.0/8"),
    ("ipv6_net", "2001:0DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
    ("ipv6_net", "2001:db8:0:1:1:1:1:1", None),
    ("ipv6_net", "::/0", None),
    ("ipv6_net", "::", None),
    ("ipv6_net", "::1/128", "::1"),
    ("ipv6_net", "::ffff:c000:0280", "::ffff:192.0.2.128"),
    ("ipv6_net", "::ffff:0:0/96", "::ffff:0.0.0.0/96"),
    ("ipv6_net", "2001:db8:a::123/64", "2001:db8:a::/64"),
    ("ipv4_connection", {"protocol": "tcp"}, None),
    ("ipv4_connection", {"src_port": 0}, None),
    ("ipv4_connection", {"dst_port": 65535}, None),
    (
        "ipv4_connection",
        {
            "src_addr": "1.2.3.4",
            "src_port": 10996,
            "dst_addr": "198.2.3.0/24",
            "dst_port": 80,
            "protocol": "sctp",
        },
        None,
    ),
    ("ipv4_connection", {"protocol": "icmp", "src_port": 1}, None),  # the profile's to refuse
    (
        "ipv6_connection",
        {"dst_addr": "3ffe:1900:4545:3::f8ff:fe21:67cf", "protocol": "icmp"},
        {"dst_addr": "3ffe:1900:4545:3:0:f8ff:fe21:67cf", "protocol": "icmp"},
    ),
    ("mac_addr", "8c:85:90:72:31:af", None),
    ("mac_addr", "8C:85:90:72:31:AF:00:01", "8c:85:90:72:31:af:00:01"),
    ("process", {"pid": 0}, None),
    (
        "process",
        {
            "name": "n",
            "cwd": "/",
            "executable": {"name": "f"},
            "command_line": "n -x",
            "parent": {"parent": {"pid": 1}},
        },
        None,
    ),
    ("uri", "https://example.com:80/a?b=c#d", None),
    ("uri", "urn:isbn:1", None),
    ("uri", "http://[::1]/%20", None),
    ("iri", "https://bücher.example/ü", None),
    ("properties", ["battery", "ü"], None),
]


@pytest.mark.req(
    "LANG-62",
    "LANG-63",
    "LANG-64",
    "LANG-65",
    "LANG-66",
    "LANG-67",
    "LANG-68",
    "LANG-69",
    "LANG-70",
    "LANG-71",
    "LANG-80",
    "LANG-6",
    "LANG-56",
    "AMB-32",
    "AMB-31",
)
@pytest.mark.parametrize(("name", "given", "canonical"), GOOD)
def test_good_values_are_read_and_written_canonically(name, given, canonical):
    canonical = given if canonical is None else canonical
    assert written(name, given) == canonical
    assert written(name, canonical) == canonical


@pytest.mark.req("AMB-52", "LANG-80")
@pytest.mark.parametrize("form", [Encoding.CBOR, Encoding.CONCISE])
@pytest.mark.parametrize(("name", "given", "canonical"), GOOD)
def test_cbor_holds_the_same_values_as_json(name, given, canonical, form):
    del canonical
    binary = written(name, given, out=form)
    assert read(name, binary, form).target == read(name, given).target
    assert written(name, binary, form) == binary
    assert read(name, given, form).target == read(name, given).target


@pytest.mark.req("AMB-52", "LANG-65", "LANG-66", "LANG-80")
@pytest.mark.parametrize(
    ("name", "given", "text"),
    [
        ("ipv4_net", [b"\x0a\0\0\0", 8], "10.0.0.0/8"),
        ("ipv4_net", [b"\x0a\0\0\1", 8], "10.0.0.0/8"),
        ("ipv4_net", [b"\x0a\0\0\1"], "10.0.0.1"),
        ("ipv4_net", b"\x0a\0\0\1", "10.0.0.1"),
        ("ipv4_net", [b"\0\0\0\0", 0], "0.0.0.0/0"),
        ("ipv6_net", [b"\x20\x01\x0d\xb8" + b"\0" * 12, 32], "2001:db8::/32"),
        ("ipv6_net", b"\0" * 15 + b"\1", "::1"),
        ("mac_addr", b"\x8c\x85\x90\x72\x31\xaf", "8c:85:90:72:31:af"),
        ("ipv4_connection", {"protocol": 6}, {"protocol": "tcp"}),
        ("ipv4_connection", {"src_addr": [b"\x0a\0\0\1", 32]}, {"src_addr": "10.0.0.1"}),
        ("ipv6_connection", {"protocol": 132}, {"protocol": "sctp"}),
        ("file", {"hashes": {"md5": bytes.fromhex(MD5)}}, {"hashes": {"md5": MD5.upper()}}),
        ("artifact", {"payload": {"bin": b"\0\1\xff"}}, {"payload": {"bin": "AAH_"}}),
    ],
)
def test_binary_forms_of_cbor_are_read(name, given, text):
    assert written(name, given, Encoding.CBOR, Encoding.JSON) == text


def test_a_connection_is_typed():
    connection = read(
        "ipv4_connection", {"src_addr": "10.1.0.0/16", "dst_port": 80, "protocol": "tcp"}
    ).target.value
    assert isinstance(connection, IPv4Connection)
    assert str(connection.src_addr.network) == "10.1.0.0/16"
    assert (connection.dst_port, connection.protocol, connection.dst_addr) == (
        80,
        L4Protocol.TCP,
        None,
    )
    assert isinstance(read("ipv6_connection", {"dst_port": 1}).target.value, IPv6Connection)
    with pytest.raises(AttributeError):
        connection.dst_port = 1


def test_ranges_compare_hash_and_copy_by_value():
    one, other = (read("ipv4_net", text).target.value for text in ("10.0.0.1", "10.0.0.1/32"))
    assert one == other == copy.deepcopy(one)
    assert len({one, other}) == 1
    assert one != IPv4Net(read("ipv4_net", "10.0.0.2").target.value.network)
    assert one != read("ipv6_net", "::10.0.0.1").target.value
    assert repr(one) == "IPv4Net('10.0.0.1')"
