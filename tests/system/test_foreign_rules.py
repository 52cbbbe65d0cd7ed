"""What others put into the packet filter stays as it is, to the byte, whatever the daemon does."""

from __future__ import annotations

import re

import pytest

from tests.consumer import allow, delete, deny

pytestmark = pytest.mark.root

FOREIGN = """
table inet theirs {
  set s { type ipv4_addr; flags interval; elements = { 10.1.1.0/24, 192.0.2.1 }
  }
  map m { type inet_service : verdict; elements = { 22 : accept, 23 : drop }
  }
  counter c { packets 7 bytes 700
  }
  chain early { type filter hook prerouting priority -310; policy accept;
    ip saddr @s counter packets 3 bytes 300 drop
  }
  chain forward { type filter hook forward priority 0; policy drop;
    tcp dport vmap @m
  }
}
table ip oc2d { chain input { ip saddr 10.0.0.1 drop
  }
}
table ip6 filter { chain INPUT { type filter hook input priority 0; policy accept;
    ip6 saddr 2001:db8::/32 reject
  }
}
table bridge oc2d { chain c { ether saddr 02:00:00:00:00:01 drop
  }
}
table netdev empty { }
"""


@pytest.mark.req("SLPF-38")
def test_no_byte_of_other_tables_changes_over_a_life_of_the_daemon(make_broker_host):
    host = make_broker_host()
    host.nft("-f", "-", text=FOREIGN)

    def foreign():
        listed = host.nft("-a", "list", "ruleset")
        return re.sub(r"^table inet oc2d \{.*?^\}\n", "", listed, flags=re.MULTILINE | re.DOTALL)

    before = foreign()
    assert before.count("table ") == 5
    zulu = host.consumer(actuators_slpf={"never_block": ["10.9.0.0/16"]}).start()
    assert foreign() == before
    soc = host.producer()
    numbers = []
    for index in range(30):
        make = deny if index % 3 else allow
        text = f"10.{index}.0.0/{8 + index % 25}" if index % 2 else f"2001:db8:{index:x}::/48"
        reply = soc.ask(make(text))
        if reply.status == 200:
            numbers.append(reply.number)
    assert len(numbers) > 20
    assert soc.ask(deny("0.0.0.0/0", drop_process="reject")).status == 200
    for number in numbers[::2]:
        assert soc.ask(delete(number)).status == 200
    assert foreign() == before
    zulu.restart()
    assert foreign() == before
    zulu.kill()
    assert foreign() == before
    zulu.start()
    assert soc.ask(delete(numbers[1])).status == 200
    assert foreign() == before
    zulu.tables["actuators.slpf"]["at_stop"] = "remove"
    zulu.restart()
    assert "table inet oc2d" in host.nft("list", "tables")
    assert zulu.stop() == 0
    assert host.nft("-a", "list", "ruleset") == before
