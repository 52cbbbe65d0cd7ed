"""Every target and value type of the tables in part 6: good values, bad values, canonical forms."""

from __future__ import annotations

import copy

import cbor2
import pytest

from oc2d.errors import BadRequest, NotSupported
from oc2d.language.codec import Encoding, InputLimits, decode, encode
from oc2d.language.command import command_tree, parse_command
from oc2d.language.message import Headers, open_envelope, wrap_request
from oc2d.language.targets import IPv4Connection, IPv6Connection
from oc2d.language.values import IPv4Net
from oc2d.language.vocabulary import CORE_TARGETS, L4Protocol

MD5 = "0313fd399b143fc40cd52a1679018305"
SHA1 = "f46ed7e88334a4d3debaa8cfa842727cb66e997f"
SHA256 = "5c2d6daaf85a710605678f8e7ef0b725b33303f3234197b9dc4b46196734a4f0"


def read(name, value, encoding=Encoding.JSON):
    message = wrap_request({"action": "deny", "target": {name: value}}, Headers())
    return received(encode(message, encoding), encoding)


def received(payload, encoding):
    return parse_command(open_envelope(decode(payload, encoding, InputLimits())).content, encoding)


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

BAD = [
    ("artifact", {}),
    ("artifact", []),
    ("artifact", {"payload": {}}),
    ("artifact", {"x": 1}),
    ("artifact", {"payload": {"bin": "AA", "url": "a:b"}}),
    ("artifact", {"mime_type": 1}),
    ("artifact", {"payload": {"bin": "A"}}),
    ("artifact", {"payload": {"bin": "A*AA"}}),
    ("artifact", {"payload": {"bin": 5}}),
    ("artifact", {"payload": {"bin": "ü"}}),
    ("artifact", {"payload": {"url": "no scheme"}}),
    ("artifact", {"hashes": {}}),
    ("command", "x" * 37),
    ("command", "a b"),
    ("command", 5),
    ("device", {}),
    ("device", {"hostname": "a_b"}),
    ("device", {"hostname": "-a"}),
    ("device", {"hostname": "a" * 64}),
    ("device", {"hostname": ""}),
    ("device", {"device_id": 1}),
    ("device", {"hostname": "a..b"}),
    ("device", {"hostname": "bücher"}),
    ("device", {"hostname": "a."}),
    ("device", {"idn_hostname": "a b"}),
    ("device", {"hostname": ".".join(["a" * 60] * 5)}),
    ("domain_name", "a b"),
    ("domain_name", ""),
    ("domain_name", "."),
    ("domain_name", 1),
    ("domain_name", "bücher.example"),
    ("domain_name", "a..b"),
    ("domain_name", "a\n"),
    ("email_addr", "a"),
    ("email_addr", "@b"),
    ("email_addr", "a@"),
    ("email_addr", "a b@c"),
    ("email_addr", ".a@b"),
    ("email_addr", "x" * 65 + "@b"),
    ("email_addr", "ü@b"),
    ("email_addr", None),
    ("features", ["foo"]),
    ("features", "versions"),
    ("features", {}),
    ("features", [1]),
    ("features", [["versions"]]),
    ("features", None),
    ("features", ["Versions"]),
    ("features", [{}]),
    ("file", {}),
    ("file", {"hashes": {}}),
    ("file", {"hashes": {"sha512": "00"}}),
    ("file", "x"),
    ("file", {"hashes": {"md5": MD5[1:]}}),
    ("file", {"hashes": {"md5": SHA1}}),
    ("file", {"name": 1}),
    ("file", {"hashes": {"md5": MD5[:-2] + "zz"}}),
    ("file", {"hashes": {"md5": " " + MD5[1:]}}),
    ("file", {"name": None}),
    ("file", {"name": "a", "size": 1}),
    ("idn_domain_name", "a b.c"),
    ("idn_domain_name", "ü" * 64),
    ("idn_domain_name", "a\u2028b"),
    ("idn_email_addr", "ü ü@b"),
    ("idn_email_addr", "ü"),
    ("idn_email_addr", "ü@"),
    ("ipv4_net", "1.2.3.4/33"),
    ("ipv4_net", "1.2.3.300"),
    ("ipv4_net", "010.0.0.1"),
    ("ipv4_net", "1.2.3"),
    ("ipv4_net", "1.2.3.4/255.0.0.0"),
    ("ipv4_net", "1.2.3.4/08"),
    ("ipv4_net", "1.2.3.4/"),
    ("ipv4_net", "1.2.3.4/-1"),
    ("ipv4_net", " 1.2.3.4"),
    ("ipv4_net", "1.2.3.4\n"),
    ("ipv4_net", ""),
    ("ipv4_net", "AQIDBA"),
    ("ipv4_net", ["1.2.3.4", 8]),
    ("ipv4_net", 16909060),
    ("ipv4_net", None),
    ("ipv4_net", "::1"),
    ("ipv4_net", "1.2.3.4/8/8"),
    ("ipv4_net", "\u0661.2.3.4"),
    ("ipv4_net", "0x1.2.3.4"),
    ("ipv4_net", {"addr": "1.2.3.4"}),
    ("ipv4_net", True),
    ("ipv4_net", "1.2.3.4/1_0"),
    ("ipv4_net", "1.2.3.4/+8"),
    ("ipv6_net", "2001::85a3::1"),
    ("ipv6_net", "fe80::1%eth0"),
    ("ipv6_net", "fe80::1%eth0/64"),
    ("ipv6_net", "::1/129"),
    ("ipv6_net", "::1/ffff::"),
    ("ipv6_net", "1.2.3.4"),
    ("ipv6_net", "[::1]"),
    ("ipv6_net", ":::1"),
    ("ipv6_net", "::1/064"),
    ("ipv6_net", "12345::"),
    ("ipv6_net", 1),
    ("ipv4_connection", {}),
    ("ipv4_connection", []),
    ("ipv4_connection", None),
    ("ipv4_connection", {"dst_prot": 80}),
    ("ipv4_connection", {"protocol": "tcp", "icmp_type": 8}),
    ("ipv4_connection", {"dst_port": True}),
    ("ipv4_connection", {"dst_port": 65536}),
    ("ipv4_connection", {"dst_port": -1}),
    ("ipv4_connection", {"dst_port": "80"}),
    ("ipv4_connection", {"dst_port": 80.0}),
    ("ipv4_connection", {"dst_port": None}),
    ("ipv4_connection", {"src_addr": "::1"}),
    ("ipv4_connection", {"protocol": 6.0}),
    ("ipv4_connection", {"protocol": None}),
    ("ipv4_connection", {"protocol": ["tcp"]}),
    ("ipv4_connection", {"protocol": True}),
    ("ipv6_connection", {}),
    ("ipv6_connection", {"src_addr": "1.2.3.4"}),
    ("ipv6_connection", {"dst_port": 70000}),
    ("mac_addr", "8c:85:90:72:31"),
    ("mac_addr", "8c-85-90-72-31-af"),
    ("mac_addr", "8c:85:90:72:31:ag"),
    ("mac_addr", "8c:85:90:72:31:af:00"),
    ("mac_addr", 5),
    ("mac_addr", ""),
    ("mac_addr", "8c85907231af"),
    ("process", {}),
    ("process", {"pid": -1}),
    ("process", {"pid": True}),
    ("process", {"pid": "1"}),
    ("process", {"executable": {}}),
    ("process", {"parent": {}}),
    ("process", {"parent": {"parent": {"x": 1}}}),
    ("uri", "example.com"),
    ("uri", "http://a b"),
    ("uri", "1http://a"),
    ("uri", "http://%zz"),
    ("uri", "http://ü"),
    ("uri", ""),
    ("uri", 1),
    ("uri", "a:#b#c"),
    ("uri", "a:\n"),
    ("iri", "ü"),
    ("iri", "http://a b"),
    ("iri", "http://\u2028"),
    ("iri", 1),
    ("properties", []),
    ("properties", ["a", "a"]),
    ("properties", "a"),
    ("properties", [1]),
    ("properties", {}),
    ("properties", None),
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


@pytest.mark.req(
    "LANG-17",
    "LANG-18",
    "LANG-60",
    "LANG-62",
    "LANG-63",
    "LANG-64",
    "LANG-65",
    "LANG-66",
    "LANG-67",
    "LANG-69",
    "LANG-71",
    "AMB-34",
    "AMB-41",
)
@pytest.mark.parametrize("encoding", [Encoding.JSON, Encoding.CBOR])
@pytest.mark.parametrize(("name", "given"), BAD)
def test_bad_values_are_refused_with_their_place(name, given, encoding):
    with pytest.raises(BadRequest) as caught:
        read(name, given, encoding)
    assert caught.value.path.startswith(f"$.body.openc2.request.target.{name}")


@pytest.mark.req("AMB-52", "LANG-17", "LANG-18")
@pytest.mark.parametrize(("name", "given"), [bad for bad in BAD if bad != ("features", [1])])
def test_bad_values_are_refused_in_concise_cbor_at_the_same_place(name, given):
    def refused(payload, encoding):
        with pytest.raises(BadRequest) as caught:
            received(payload, encoding)
        return caught.value.path

    message = wrap_request({"action": "deny", "target": {name: given}}, Headers())
    concise = cbor2.dumps([None, {1: {1: [6, {CORE_TARGETS[name]: given}]}}])
    assert refused(concise, Encoding.CONCISE) == refused(
        encode(message, Encoding.CBOR), Encoding.CBOR
    )


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


@pytest.mark.req("AMB-52", "LANG-18")
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("ipv4_net", []),
        ("ipv4_net", [b"\x0a\0\0\0", 33]),
        ("ipv4_net", [b"\x0a\0\0\0", -1]),
        ("ipv4_net", [b"\x0a\0\0\0", True]),
        ("ipv4_net", [b"\x0a\0\0\0", 8.0]),
        ("ipv4_net", [b"\x0a\0\0\0", "8"]),
        ("ipv4_net", [b"\x0a\0\0\0", None]),
        ("ipv4_net", [b"\x0a\0\0\0", 8, 8]),
        ("ipv4_net", [b"\x0a\0\0", 8]),
        ("ipv4_net", ["10.0.0.0", 8]),
        ("ipv4_net", b"\0" * 16),
        ("ipv4_net", b"1.2.3.4"),
        ("ipv6_net", [b"\0" * 4, 8]),
        ("mac_addr", b"\0" * 7),
        ("file", {"hashes": {"md5": b"\0" * 20}}),
        ("uri", b"a:b"),
        ("command", b"x"),
        ("ipv4_connection", {"protocol": b"tcp"}),
        ("ipv4_connection", {"protocol": True}),
    ],
)
def test_wrong_binary_forms_are_refused(name, given):
    with pytest.raises(BadRequest):
        read(name, given, Encoding.CBOR)


@pytest.mark.req("AMB-33", "LANG-68")
@pytest.mark.parametrize("name", ["ipv4_connection", "ipv6_connection"])
def test_other_protocols_are_legal_but_not_supported(name):
    for protocol in ("gre", "ipv6_icmp", "TCP", "", "x" * 1000):
        with pytest.raises(NotSupported) as caught:
            read(name, {"protocol": protocol})
        assert caught.value.path.endswith(f"{name}.protocol")
        assert len(caught.value.text) < 300
    with pytest.raises(BadRequest):
        read(name, {"protocol": "gre", "dst_port": True})
    for number in (0, 2, 58, 255, 2**40, -6):
        with pytest.raises(NotSupported):
            read(name, {"protocol": number}, Encoding.CBOR)


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
