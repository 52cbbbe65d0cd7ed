"""Take out of the packet filter what a stopped daemon has left: `python -m oc2d_slpf remove`.

For the removal of the package, and whoever else does away with oc2d: by itself it leaves its rules
in force when it stops. Needs CAP_NET_ADMIN.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from oc2d.errors import StateError
from oc2d_slpf.backend import BackendError
from oc2d_slpf.iptables import Iptables
from oc2d_slpf.nftables import Nftables

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Remove what is ours; exit code 0, 1 when something could not be removed, 2 usage."""
    if list(argv) != ["remove"]:
        sys.stderr.write("usage: python -m oc2d_slpf remove\n")
        return 2
    code = 0
    for backend in (Nftables(), Iptables()):
        try:
            backend.check()
            backend.remove()
        except (StateError, BackendError) as error:
            # Without the programs of iptables there is nothing of ours in it.
            if isinstance(backend, Iptables) and isinstance(error, StateError):
                continue
            sys.stderr.write(f"oc2d_slpf: the rules stay in force: {error}\n")
            code = 1
        finally:
            backend.close()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
