"""The intended differences of the embedded server from a real one, each with the reason. The list should be
short."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from replies import Message, Reply


class Difference(NamedTuple):
    """What the embedded server sends where a real one sends something else."""

    reason: str
    instead: Callable[[Message], Message]


def _one_character(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    if isinstance(value, list):
        return list(map(_one_character, value))
    if isinstance(value, tuple):
        items = map(_one_character, value)
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


def _known_bits(message: Message) -> Message:
    if not isinstance(message, Reply) or message.to != "getACL" or message.error:
        return message
    entries, node = message.body
    return message._replace(body=([(perms & 31, scheme, name) for perms, scheme, name in entries], node))


ACCEPTED: tuple[Difference, ...] = (
    Difference(
        "what is beyond U+FFFF is written as UTF-8; Java writes each of two surrogates. The wire layer, which the "
        "server is built on, reads both",
        _one_character,
    ),
    Difference(
        "of the permissions in an ACL the five bits are kept that mean something: the wire layer has no others",
        _known_bits,
    ),
)

NOT_COMPARED = (
    "a null path, null in a list of paths, a null list of paths: the wire layer reads null as empty, where a real "
    "server fails with a marshalling error",
    "strings in requests that are not UTF-8: the wire layer refuses them, Java puts U+FFFD",
    "a createTTL whose flags are not those of a node with a time to live, and whose time is below zero: it ends a "
    "real server, which does not serve anybody any more",
    "what is beyond U+FFFF, in an ACL that is set in a transaction: a real server mangles it, since it writes the "
    "operation down and reads it again before it applies it",
    "requests behind a close in one write: whether a real server answers them before the connection ends differs "
    "from run to run",
    "what is sent right behind a setACL: a real server goes by the old list until the new one is applied, which may "
    "be earlier or later",
    "what is sent right behind a transaction with a create that has the flags of a time to live: a real server fails "
    "at it without undoing what it has prepared, and the next requests see that until the transaction is through",
    "a null ACL in a transaction: up to 3.8 it is as refused as an empty one, and in 3.9 the whole transaction fails, "
    "without a zxid",
    "an IPv6 address in an ACL: 3.9.4 is the first to accept one, and so does the embedded server as 3.9",
    "the root of all, but for watches on it: it is not the program's alone",
)
"""What programs leave out, listed so that it is not forgotten."""


def agree(real: Message | None, embedded: Message | None) -> bool:
    """Whether the two are equal, or differ as intended."""
    if real == embedded:
        return True
    if real is None or embedded is None:
        return False
    for difference in ACCEPTED:
        real = difference.instead(real)
    return real == embedded
