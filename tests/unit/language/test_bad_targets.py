"""What no target or value type of the tables in part 6 may be."""

from __future__ import annotations

import cbor2
import pytest

from oc2d.errors import BadRequest, NotSupported
from oc2d.language.codec import Encoding, encode
from oc2d.language.message import Headers, wrap_request
from oc2d.language.vocabulary import CORE_TARGETS
from tests.unit.language.encoded import read, received

MD5 = "0313fd399b143fc40cd52a1679018305"
SHA1 = "f46ed7e88334a4d3debaa8cfa842727cb66e997f"

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
