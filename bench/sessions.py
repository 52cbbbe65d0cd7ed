"""Many MQTT sessions in one process, each subscribed to `oc2/cmd/all` and answering a fixed 200.

python bench/sessions.py PORT COUNT

For what a fleet asks of a broker. Says `ready` once all are subscribed; a line `ping` on stdin lets
every session send a PINGREQ and is answered with `pinged` after the last PINGRESP.
"""

from __future__ import annotations

import json
import select
import sys

from wire import PUBACK, PUBLISH, Wire, packet

TOPIC = "oc2/cmd/all"
PINGREQ, PINGRESP = 0xC0, 0xD0


def answer(number: int) -> bytes:
    headers = {"from": f"session-{number}"}
    body = {"openc2": {"response": {"status": 200}}}
    return json.dumps({"headers": headers, "body": body}).encode()


def serve(sessions: list[Wire]) -> None:
    poll = select.epoll()
    numbers = {session.socket.fileno(): number for number, session in enumerate(sessions)}
    for place in (0, *numbers):
        poll.register(place, select.EPOLLIN)
    pinged = 0
    while True:
        for place, _ in poll.poll():
            if place:
                number = numbers[place]
                pinged += take(sessions[number], number)
            elif sys.stdin.readline():
                for session in sessions:
                    session.socket.sendall(packet(PINGREQ, b""))
            else:
                return
        if pinged == len(sessions):
            print("pinged", flush=True)
            pinged = 0


def take(session: Wire, number: int) -> int:
    """Answer what has come; returns how many PINGRESP were there."""
    pinged = 0
    for kind, body in session.packets():
        pinged += kind == PINGRESP
        if kind & 0xF0 == PUBLISH & 0xF0:
            after = 2 + int.from_bytes(body[:2], "big")
            out = session.publication("oc2/rsp", "rsp", answer(number))
            session.socket.sendall(packet(PUBACK, body[after : after + 2]) + out)
    return pinged


def main() -> None:
    port, count = int(sys.argv[1]), int(sys.argv[2])
    sessions = [Wire(port, f"session-{number}", TOPIC) for number in range(count)]
    print("ready", flush=True)
    serve(sessions)


if __name__ == "__main__":
    main()
