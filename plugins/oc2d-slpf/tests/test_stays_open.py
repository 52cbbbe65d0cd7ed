"""What a deny leaves open is told the same whether or not the quick look settles it."""

from __future__ import annotations

from ipaddress import ip_network
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oc2d_slpf.backend import Permit
from oc2d_slpf.guard import Guard
from oc2d_slpf.rules import Match

ADDRESSES = {
    4: ("127.0.0.1", "10.1.2.3", "10.1.2.4", "192.0.2.53", "198.51.100.9", "255.255.255.255"),
    6: ("::1", "2001:db8::1", "2001:db8::2", "fd00::53", "ff02::1:2", "2001:db8:f::9"),
}
GUARD = Guard(
    never_block=(ip_network("192.0.2.0/28"), ip_network("2001:db8:f::/48")),
    local=(ip_network("10.1.2.3"), ip_network("2001:db8::1")),
    permits=(Permit("198.51.100.9", 6, 8883), Permit("2001:db8:1::9", 6, 8883)),
    resolvers=(Permit("192.0.2.53", 17, 53), Permit("fd00::53", 17, 53)),
)


@st.composite
def matches(draw):
    version = draw(st.sampled_from((4, 6)))
    bits = 32 if version == 4 else 128
    near = st.builds(
        lambda address, prefix: ip_network(f"{address}/{prefix}", strict=False),
        st.sampled_from(ADDRESSES[version]),
        st.sampled_from((0, 1, 8, 24, bits - 1, bits)),
    )
    far = st.integers(0, 2**bits - 1).map(lambda number: ip_network((number, bits)))
    network = near | far.filter(lambda net: net.version == version)
    if draw(st.booleans()):
        return Match(version, either=draw(network))
    return Match(
        version,
        source=draw(st.none() | network),
        destination=draw(st.none() | network),
        protocol=draw(st.sampled_from((None, 6, 17, 58 if version == 6 else 1))),
        source_port=draw(st.sampled_from((None, 53, 67, 547, 8883))),
        destination_port=draw(st.sampled_from((None, 53, 68, 546, 8883))),
    )


@pytest.mark.req("AMB-57")
@given(match=matches())
@example(match=Match(4, either=ip_network("203.0.113.7")))
@example(match=Match(6, either=ip_network("2001:db8:bad::/48")))
def test_the_quick_look_never_changes_what_is_told(match):
    told = GUARD.stays_open(match)
    with patch.object(Guard, "_is_elsewhere", return_value=False):
        assert told == GUARD.stays_open(match)


@pytest.mark.req("AMB-57")
def test_of_an_address_elsewhere_only_neighbour_discovery_is_told():
    assert GUARD.stays_open(Match(4, either=ip_network("203.0.113.7"))) == []
    told = GUARD.stays_open(Match(6, either=ip_network("2001:db8:bad::7")))
    assert told == ["IPv6 neighbour and router discovery"]
