"""Messages between the harness and the process of a submission's code: JSON, then plain float32 numbers.

Neither side reads a pickle, and whatever announces more than was agreed on is refused before it is held.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any, NamedTuple

__all__ = ["HEAD", "LONGEST", "Message", "head_of", "packed", "parse_head", "parse_words", "receive", "send"]

HEAD = struct.Struct("<4sIQ")
"""The mark of a message, the bytes of its JSON, and those of its numbers."""
LONGEST = 1 << 16
"""The most bytes of JSON in an answer."""
_MARK = b"RMD1"


class Message(NamedTuple):
    """A message, as it was received."""

    words: dict[str, Any]
    numbers: bytearray


def head_of(words: bytes, numbers: int) -> bytes:
    """The first bytes of a message."""
    return HEAD.pack(_MARK, len(words), numbers)


def packed(words: dict[str, Any]) -> bytes:
    """The words of a message as JSON."""
    return json.dumps(words).encode()


def parse_head(head: bytes | bytearray) -> tuple[int, int]:
    """The bytes of JSON and of numbers that follow.

    Raises:
        ValueError: these are not the first bytes of a message.
    """
    mark, words, numbers = HEAD.unpack(head)
    if mark != _MARK:
        raise ValueError("it is no message")
    return words, numbers


def parse_words(text: bytes | bytearray) -> dict[str, Any]:
    """The words of a message.

    Raises:
        ValueError: they are not JSON of one object.
    """
    try:
        words = json.loads(text)
    except RecursionError:
        words = None
    if not isinstance(words, dict):
        raise ValueError("its words are no object")
    return words


def send(channel: socket.socket, words: dict[str, Any], numbers: memoryview | bytes = b"") -> None:
    """Send a message, and wait until it is taken."""
    text = packed(words)
    channel.sendall(head_of(text, len(numbers)) + text)
    channel.sendall(numbers)


def receive(channel: socket.socket) -> Message | None:
    """Wait for a message from the harness; None once it has closed the channel."""
    head = _exactly(channel, HEAD.size)
    if head is None:
        return None
    words, numbers = parse_head(head)
    text, data = _exactly(channel, words), _exactly(channel, numbers)
    return None if text is None or data is None else Message(parse_words(text), data)


def _exactly(channel: socket.socket, size: int) -> bytearray | None:
    found = bytearray(size)
    view, filled = memoryview(found), 0
    while filled < size:
        count = channel.recv_into(view[filled:])
        if not count:
            return None
        filled += count
    return found
