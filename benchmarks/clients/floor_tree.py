"""The floor's copy of a subtree: one persistent recursive watch, then every node by `multiRead` in hundreds.

Level by level, each whole in one write: the nodes, and then the names below those that say that they have
children. A listing is a request of its own, since a hundred of them may be more than the floor's buffer
holds. What is kept is a dict from paths to data and Stat. The watch is set, but the floor would not act on
it: where it is measured nothing changes.
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
"""Sends a request of that opcode and body; the future has the reply's body."""


async def load_tree(ask: Ask, root: str) -> dict[str, tuple[bytes, Stat]]:
    """All of it, as it is once the watch is set."""
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
