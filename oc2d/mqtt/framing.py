"""Where one packet ends and the next begins (MQTT 5.0 section 2.1.4)."""

from __future__ import annotations

__all__ = ["whole"]

_MORE = 0x80


def whole(buffer: bytes, at: int, most: int) -> tuple[int, int] | None:
    """Return where the body of the packet at `at` begins and ends.

    None: it is not here as a whole, has more than 16 383 bytes or than `most`; then a closer look
    is due. paho reads byte by byte, which costs as much as all that follows for a small packet.
    """
    if len(buffer) < at + 3:
        return None
    length, start = buffer[at + 1], at + 2
    if length & _MORE:
        length, start = length & 0x7F | buffer[start] << 7, start + 1
    end = start + length
    if buffer[start - 1] & _MORE or end > len(buffer) or end - at > most:
        return None
    return start, end
