"""The comparisons: answer every request with a fixed 200, checking and storing nothing.

python bench/echo.py paho PORT   what a plain paho-mqtt client reaches
python bench/echo.py wire PORT   the control: what the load generator itself can drive
"""

from __future__ import annotations

import socket
import sys

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from wire import PUBACK, PUBLISH, Wire, packet

ANSWER = b'{"headers":{"from":"echo"},"body":{"openc2":{"response":{"status":200}}}}'


def with_paho(port: int) -> None:
    properties = Properties(PacketTypes.PUBLISH)
    properties.PayloadFormatIndicator = 1
    properties.ContentType = "application/openc2"
    properties.UserProperty = [("msgType", "rsp"), ("encoding", "json")]
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5, client_id="echo-paho")

    def opened(_client, _data, sock) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    client.on_socket_open = opened
    client.on_connect = lambda *_: client.subscribe("oc2/cmd/device/paho", qos=1)
    client.on_message = lambda *_: client.publish("oc2/rsp", ANSWER, qos=1, properties=properties)
    client.connect("127.0.0.1", port)
    client.loop_forever()


def on_the_wire(port: int) -> None:
    wire = Wire(port, "echo-wire", "oc2/cmd/device/wire")
    wire.socket.settimeout(None)
    while True:
        out = bytearray()
        for kind, body in wire.packets():
            if kind & 0xF0 == PUBLISH & 0xF0:
                after = 2 + int.from_bytes(body[:2], "big")
                out += packet(PUBACK, body[after : after + 2])
                out += wire.publication("oc2/rsp", "rsp", ANSWER)
        if out:
            wire.socket.sendall(out)


if __name__ == "__main__":
    {"paho": with_paho, "wire": on_the_wire}[sys.argv[1]](int(sys.argv[2]))
