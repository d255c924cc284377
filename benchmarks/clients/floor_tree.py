"""The floor's copy of a subtree: one persistent recursive watch, then every node by `multiRead` in hundreds.

It reads level by level, each in one write: the nodes, and then the names of the children of those that have
any. Each list of children is a separate request, since a hundred of them may exceed the floor's buffer. The
copy is a dict from paths to data and Stat. The watch is set, but the floor ignores its events: nothing
changes while it is measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from clients.floor_wire import (
    ADD_WATCH,
    CHILDREN,
    GET_IN_MULTI,
    INT,
    MULTI_END,
    MULTI_READ,
    RECURSIVE,
    Stat,
    decode_gets,
    decode_names,
)

AT_ONCE = 100

Ask = Callable[[int, bytes], asyncio.Future[bytes]]
"""Sends a request with that opcode and body; the future has the reply's body."""


async def load_tree(ask: Ask, root: str) -> dict[str, tuple[bytes, Stat]]:
    """The whole subtree, read after the watch was set."""
    watched = ask(ADD_WATCH, _string(root) + RECURSIVE)
    nodes: dict[str, tuple[bytes, Stat]] = {}
    level = [root]
    while level:
        hundreds = [level[at : at + AT_ONCE] for at in range(0, len(level), AT_ONCE)]
        answers = [ask(MULTI_READ, _gets(paths)) for paths in hundreds]
        parents = []
        for paths, answer in zip(hundreds, answers, strict=True):
            for path, node in zip(paths, decode_gets(await answer), strict=True):
                nodes[path] = node
                if node[1].children:
                    parents.append(path)
        listings = [ask(CHILDREN, _string(path) + b"\0") for path in parents]
        level = []
        for parent, listing in zip(parents, listings, strict=True):
            level += [f"{parent}/{name.decode()}" for name in decode_names(await listing)]
    await watched
    return nodes


def _string(path: str) -> bytes:
    name = path.encode()
    return INT.pack(len(name)) + name


def _gets(paths: Sequence[str]) -> bytes:
    return b"".join([*(GET_IN_MULTI + _string(path) + b"\0" for path in paths), MULTI_END])
