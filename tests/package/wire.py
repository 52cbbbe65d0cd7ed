"""A way into a machine from outside, and packets on it."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager

from tests.namespace import Namespace

HERE, OUTSIDE = "192.0.2.1", "203.0.113.7"


class Wire:
    """A link from the machine to an outside that sends packets all the time."""

    SOCKET = (
        "import select, signal, socket, sys\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 9999)); n = 0\n"
    )
    # nsenter hands no signal on, so the end of the input is the end
    RECEIVER = SOCKET + (
        "while 0 not in (ready := select.select([s, 0], [], [])[0]): n += len(s.recv(9))\n"
        "print(n)\n"
    )
    SERVICE = (
        "def end(*_):\n"
        " with open('/var/early', 'w') as out: out.write(str(n))\n"
        " sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "while s.recv(9): n += 1\n"
    )

    def __init__(self, machine):
        self.machine = machine
        self.space = Namespace()

    def plug(self):
        """Put the machine's end, `host0`, into it; it is down."""
        pid = str(self.machine.init)
        self.space.ip("link", "add", "outside", "type", "veth", "peer", "name", "host0")
        self.space.ip("link", "set", "host0", "netns", pid)
        self.space.ip("address", "add", f"{OUTSIDE}/32", "peer", f"{HERE}/32", "dev", "outside")
        self.space.ip("link", "set", "outside", "up")

    def connect(self):
        self.plug()
        self.machine.run("ip", "address", "add", f"{HERE}/32", "peer", OUTSIDE, "dev", "host0")
        self.machine.run("ip", "link", "set", "host0", "up")

    @contextmanager
    def sending(self):
        """Packets to HERE from outside, about one a millisecond."""
        program = (
            "import socket, time\n"
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            "while True:\n"
            f" try: s.sendto(b'x', ('{HERE}', 9999))\n"
            " except OSError: pass\n"
            " time.sleep(0.001)\n"
        )
        sender = self.space.run(subprocess.Popen, ["/usr/bin/python3", "-c", program])
        try:
            yield
        finally:
            sender.kill()
            sender.wait(10)

    @contextmanager
    def counting(self):
        """How many packets came to a program on the machine, in the list's one element."""
        came = []
        receiver = subprocess.Popen(
            self.machine.command("/usr/bin/python3", "-c", self.RECEIVER),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        listening = lambda: ":9999" in self.machine.run("ss", "-Hlun").stdout  # noqa: E731
        self.machine.until(listening, 10, "the receiver listens")
        try:
            yield came
        finally:
            came.append(int(receiver.communicate(timeout=20)[0]))

    def close(self):
        self.space.close()
