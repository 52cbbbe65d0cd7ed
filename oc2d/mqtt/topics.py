"""Topic names: what a Consumer subscribes to, what came in on what, where responses may go.

Topics are compared exactly; the case of a letter is never changed (AMB-10).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from oc2d.engine.ports import Channel

__all__ = [
    "ReplyMode",
    "classifier",
    "common_topic",
    "device_topic",
    "filters",
    "is_level",
    "matcher",
    "profile_topic",
    "reply_topics",
]

ReplyMode = Literal["general", "producer", "both"]

_LONGEST_PRODUCER = 128  # bytes (AMB-4)


def _prefixed(namespace: str, topic: str) -> str:
    return f"{namespace}/{topic}" if namespace else topic


def is_level(text: str) -> bool:
    """Tell whether `text` can stand as one topic level (MQTT-25).

    Control characters and surrogates are no use to anybody and brokers may close the link on them.
    """
    return bool(text) and not any(c in "/+#" or not c.isprintable() for c in text)


def common_topic(namespace: str) -> str:
    """Return the command topic of all Consumers."""
    return _prefixed(namespace, "oc2/cmd/all")


def profile_topic(namespace: str, nsid: str) -> str:
    """Return the command topic of the Consumers that implement a profile."""
    return _prefixed(namespace, f"oc2/cmd/ap/{nsid}")


def device_topic(namespace: str, device_id: str) -> str:
    """Return the one command topic that a Consumer shares with nobody."""
    return _prefixed(namespace, f"oc2/cmd/device/{device_id}")


def filters(
    namespace: str, profiles: Sequence[str], device_id: str, extra: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the topic filters of a Consumer, each once (MQTT-17 to 19, 27; AMB-2)."""
    found = (
        common_topic(namespace),
        *(profile_topic(namespace, nsid) for nsid in profiles),
        device_topic(namespace, device_id),
        *(_prefixed(namespace, topic) for topic in extra),
    )
    return tuple(dict.fromkeys(found))


def _spelled(topic: str) -> str:
    return topic.replace(".", "/")


def matcher(wanted: Sequence[str], *, dots_are_slashes: bool = False) -> Callable[[str], bool]:
    """Make a function that tells whether a topic matches one of these filters (MQTT 5.0, 4.7).

    `dots_are_slashes` as in `classifier`.
    """
    exact = frozenset(_spelled(text) if dots_are_slashes else text for text in wanted)
    wild = [text.split("/") for text in exact if text.endswith("#") or "+" in text]

    def fits(levels: Sequence[str], pattern: Sequence[str]) -> bool:
        if pattern[-1] == "#":
            pattern = pattern[:-1]
            levels = levels[: len(pattern)]
        return len(levels) == len(pattern) and all(
            want in ("+", level) for level, want in zip(levels, pattern, strict=True)
        )

    def matches(topic: str) -> bool:
        if dots_are_slashes:
            topic = _spelled(topic)
        return topic in exact or any(fits(topic.split("/"), pattern) for pattern in wild)

    return matches


def classifier(
    namespace: str, device_id: str, *, dots_are_slashes: bool = False
) -> Callable[[str], tuple[Channel, str | None]]:
    """Make a function from topic to channel and, on a profile topic, the NSID.

    Whatever is not one of the three kinds of command topic came by an extra subscription: OTHER.
    With `dots_are_slashes` a topic may come back with `/` where its `.` was: RabbitMQ routes MQTT
    by AMQP, whose levels a dot separates (AMB-14).
    """

    def spelled(topic: str) -> str:
        return _spelled(topic) if dots_are_slashes else topic

    everyone = spelled(common_topic(namespace))
    device = spelled(device_topic(namespace, device_id))
    profile = spelled(profile_topic(namespace, ""))

    def classify(topic: str) -> tuple[Channel, str | None]:
        topic = spelled(topic)
        if topic == everyone:
            return Channel.ALL, None
        if topic == device:
            return Channel.DEVICE, None
        nsid = topic[len(profile) :] if topic.startswith(profile) else ""
        return (Channel.PROFILE, nsid) if is_level(nsid) else (Channel.OTHER, None)

    return classify


def reply_topics(namespace: str, mode: ReplyMode, producer: str | None) -> tuple[str, ...]:
    """Say where a response to `producer` (`headers.from`) goes (AMB-3, AMB-4, MQTT-23).

    Never anything but `oc2/rsp` and `oc2/rsp/<one legal level>`, whatever the message says. A
    Producer that names its own response topic as `from` is understood; one whose name is no legal
    level gets its response on `oc2/rsp`.
    """
    general = _prefixed(namespace, "oc2/rsp")
    if mode == "general" or producer is None:
        return (general,)
    level = producer
    for topic in (f"{general}/", "oc2/rsp/"):
        if producer.startswith(topic):
            level = producer[len(topic) :]
            break
    if not is_level(level) or len(level.encode()) > _LONGEST_PRODUCER:
        return (general,)
    own = f"{general}/{level}"
    return (own,) if mode == "producer" else (general, own)
