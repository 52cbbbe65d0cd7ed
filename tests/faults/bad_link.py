"""A link to the broker that is slow, or breaks in the middle of packets."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from tests.consumer import Consumer, Host
from tests.faults.broker_scene import BACK, all_done, ask, back, scene
from tests.faults.scenario import Run
from tests.waiting import wait_until

__all__ = ["Link", "behind", "link_breaks", "link_is_slow"]


class Link:
    """Passes everything on to a broker, in pieces of `size` bytes with `pause` between them."""

    size, pause = 1 << 16, 0.0

    def __init__(self, broker_port: int) -> None:
        self.budget = float("inf")  # bytes until it breaks
        self._broker_port = broker_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _listen(self) -> None:
        threads = []
        with suppress(OSError):
            while True:
                ends = (self._listener.accept()[0], socket.create_connection(self._broker))
                for ways in (ends, ends[::-1]):
                    threads.append(threading.Thread(target=self._pass_on, args=ways, daemon=True))
                    threads[-1].start()
        for thread in threads:
            thread.join(10)

    @property
    def _broker(self) -> tuple[str, int]:
        return "127.0.0.1", self._broker_port

    def _pass_on(self, source: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(self.size):
                time.sleep(self.pause)
                piece = data[: int(min(self.budget, len(data)))]
                self.budget -= len(piece)
                other.sendall(piece)
                if len(piece) < len(data):
                    break
        for end in (source, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()


class _Slow(Link):
    size, pause = 37, 0.005


@contextmanager
def behind(this: Run, host: Host, zulu: Consumer, kind: type[Link]) -> Iterator[Link]:
    """The Consumer starts anew and has no other way to its broker than this link."""
    assert zulu.stop() == 0
    with closing(host.run(kind, host.broker.port)) as way:
        zulu.tables["broker"]["port"] = way.port
        zulu.start(**this.environment())
        yield way
        assert zulu.stop() == 0


def link_is_slow(this: Run, rounds: int, rnd: random.Random) -> None:
    """Seven kilobytes a second in small pieces: late, but nothing is given up."""
    del rnd
    with scene(this) as (host, zulu, soc), behind(this, host, zulu, _Slow):
        for turn in range(rounds):
            all_done(zulu, soc, ask(soc, f"slow{turn}", 30))
        assert zulu.told()["link"]["reconnects"] == 0


def link_breaks(this: Run, rounds: int, rnd: random.Random) -> None:
    """After so many bytes, in the middle of a packet, again and again."""
    with scene(this) as (host, zulu, soc), behind(this, host, zulu, Link) as way:
        for turn in range(3 * rounds):
            before = zulu.told()["link"]["reconnects"]
            way.budget = rnd.randrange(1, 4000)
            asked = ask(soc, f"breaks{turn}", 30)
            wait_until(lambda: way.budget <= 0, 15)
            begun, way.budget = time.monotonic(), float("inf")
            wait_until(lambda before=before: zulu.told()["link"]["reconnects"] > before, BACK)
            back(this, zulu, begun, "")
            all_done(zulu, soc, asked)
