"""Responses as they leave: wrapped, encoded, addressed, each under a handle of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import msgspec

from oc2d.engine.ports import Outgoing, kept
from oc2d.errors import BadRequest, Refusal
from oc2d.language.codec import Encoding, InputLimits, decode, encode
from oc2d.language.ids import Names
from oc2d.language.message import Headers, open_envelope, wrap_response
from oc2d.language.response import OpenC2Response, response_tree
from oc2d.language.vocabulary import StatusCode

__all__ = ["Answers", "Handles", "ReplyTo", "Written", "refused"]

_MOST_HANDLES = 60_000
_ONE_BATCH = 1024
_MOST_UNSENT = 160 << 20  # bytes of responses on their way; more than comes ahead of their PUBACK
_LONGEST_TEXT = 1000  # characters of a refusal: it may quote the command, and is remembered
_OWN = InputLimits(payload=1 << 30, items=1 << 30)  # what we wrote ourselves has no limits
_WITHIN = replace(_OWN, depth=_OWN.depth - 3)  # likewise, of a response that is to be wrapped


class ReplyTo(msgspec.Struct, frozen=True):
    """What an answer takes from its request (LANG-4, MQTT-39, AMB-52)."""

    request_id: str | None
    producer: str | None
    encoding: Encoding
    correlation: bytes | None


class Handles:
    """Numbers for responses on their way; one is used again only after it was given back.

    `used` are those of an earlier process, with the bytes of the responses.
    """

    def __init__(self, used: Mapping[int, int]) -> None:
        self._used = dict(used)
        self._held = sum(used.values())
        self._last = max(used, default=0)

    def __len__(self) -> int:
        return len(self._used)

    def scarce(self, open_requests: int) -> bool:
        """Tell whether what is open could use them up: an interim and a final, on two topics.

        They are as scarce when the responses on their way take too much memory.
        """
        few = len(self._used) + 4 * (open_requests + _ONE_BATCH) > _MOST_HANDLES
        return few or self._held > _MOST_UNSENT

    def take(self, size: int) -> int:
        """Return a free one, for a response of `size` bytes."""
        handle = self._last
        while True:
            handle = handle % _MOST_HANDLES + 1
            if handle not in self._used:
                break
        self._last = handle
        self._used[handle] = size
        self._held += size
        return handle

    def give_back(self, handle: int) -> None:
        """The broker is responsible for it, or it was never sent."""
        self._held -= self._used.pop(handle, 0)


class Written(msgspec.Struct, frozen=True):
    """A response, and the JSON of it: what the journal keeps and most Producers are sent."""

    response: OpenC2Response
    json: bytes

    @property
    def status(self) -> StatusCode:
        """The outcome."""
        return self.response.status

    @property
    def refusal(self) -> str | None:
        """Its text, when it is a refusal."""
        return self.response.status_text if self.status >= StatusCode.BAD_REQUEST else None


def refused(refusal: Refusal) -> OpenC2Response:
    """Turn a refusal into the response that tells it."""
    # a plugin may name a file whose name is no text
    text = refusal.text[:_LONGEST_TEXT].encode(errors="replace").decode()
    return OpenC2Response(status=StatusCode(refusal.status), status_text=text)


class Answers:
    """Builds what is published, from a response and its `ReplyTo`."""

    def __init__(
        self,
        sender: str,
        topics: Callable[[str | None], Sequence[str]],
        wall: Callable[[], int],
        handles: Handles,
        names: Names,
    ) -> None:
        self._sender = sender
        self._topics = topics
        self._wall = wall
        self._handles = handles
        self._names = names
        self._last: Written | None = None

    @staticmethod
    def write(response: OpenC2Response) -> Written:
        """Make a response ready to be kept and sent; raises whatever would prevent that in JSON."""
        return Written(response, encode(response_tree(response, Encoding.JSON), Encoding.JSON))

    def write_own(self, response: OpenC2Response) -> Written:
        """Do that with a response of the core, which many in a row may ask for."""
        if self._last is None or self._last.response is not response:
            self._last = self.write(response)
        return self._last

    def build(self, written: Written, to: ReplyTo, *, durable: bool) -> list[Outgoing]:
        """Wrap a response for each topic it goes to (AMB-3)."""
        if to.encoding is Encoding.JSON:
            return self._wrapped(msgspec.Raw(written.json), to, durable=durable)
        return self._wrapped(response_tree(written.response, to.encoding), to, durable=durable)

    def repeat(self, stored: bytes, to: ReplyTo) -> list[Outgoing]:
        """Wrap a stored response once more, for a duplicate in whatever encoding (AMB-21)."""
        if to.encoding is Encoding.JSON:
            return self._wrapped(msgspec.Raw(stored), to, durable=True)
        return self._wrapped(decode(stored, Encoding.JSON, _OWN), to, durable=True)

    def try_out(self, written: Written, encoding: Encoding) -> None:
        """Raise whatever would keep a response from being sent, or read: by us for a duplicate.

        A plugin may put into its results what no message may hold (LANG-74 to 77).
        """
        response = written.response
        if response.results is not None:
            decode(written.json, Encoding.JSON, _WITHIN)
        if encoding is not Encoding.JSON:
            tree = wrap_response(response_tree(response, encoding), Headers())
            payload = encode(tree, encoding, self._names)
            if response.results is not None:
                decode(payload, encoding, _OWN, self._names)

    def _wrapped(self, tree: object, to: ReplyTo, *, durable: bool) -> list[Outgoing]:
        headers = Headers(
            request_id=to.request_id,
            created=self._wall(),
            sender=self._sender,
            to=(to.producer,) if to.producer else (),
        )
        payload = encode(wrap_response(tree, headers), to.encoding, self._names)
        return [
            Outgoing(
                self._handles.take(kept(topic, payload, to.correlation)),
                topic,
                payload,
                to.encoding,
                to.correlation,
                durable=durable,
            )
            for topic in self._topics(to.producer)
        ]

    @staticmethod
    def shorten(message: Outgoing, limit: int) -> Outgoing | None:
        """Replace a response over the broker's packet size by a short 500 (MQTT-12).

        None: not even that fits in `limit` bytes of payload.
        """
        try:
            headers = open_envelope(decode(message.payload, message.encoding, _OWN)).headers
        except BadRequest:  # of a journal that took what nobody can read
            return None
        short = OpenC2Response(
            status=StatusCode.INTERNAL_ERROR, status_text="response exceeds the broker's limit"
        )
        tree = wrap_response(response_tree(short, message.encoding), headers)
        payload = encode(tree, message.encoding)
        return msgspec.structs.replace(message, payload=payload) if len(payload) <= limit else None
