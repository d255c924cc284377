"""The nodes that recipes create have the requested ACL."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

import corral
from line_kinds import LineKind, every_kind, is_single
from support import within

MINE = [*corral.acl.digest("me", "secret")]

PATH = "/made/for/it"


@every_kind(is_single)
async def test_nobody_else_stands_in_line(
    connect: Callable[..., corral.Client], other: corral.Client, kind: LineKind
) -> None:
    """With an ACL, the line and its nodes are ours: other clients are refused, and those with the same
    credentials can join."""
    credentials = [("digest", b"me:secret")]
    async with connect(auth=credentials) as zk, connect(auth=credentials) as friend:
        held = await kind.make(zk, PATH, acl=MINE).acquire()
        if isinstance(held, corral.HeldWrite):
            await held.downgrade()
        node = held.node[held.node.index("/made") :]
        for path in ("/made", "/made/for", "/made/for/it", node):
            entries, _ = await zk.get_acl(path)
            assert entries == MINE, path
        with pytest.raises(corral.NoAuth):
            await within(kind.make(other, PATH, acl=MINE).acquire())
        with pytest.raises(corral.NoAuth):
            await other.delete(node)
        if not kind.is_exclusive:
            await (await within(kind.make(friend, PATH, acl=MINE).acquire())).release()
        else:
            assert await kind.make(friend, PATH, acl=MINE).try_acquire() is None
        await held.release()
        await zk.delete("/made", recursive=True)


@every_kind(is_single)
async def test_an_acl_that_cannot_be(zk: corral.Client, kind: LineKind) -> None:
    """An invalid ACL is refused when the recipe is made, before anything is sent."""
    with pytest.raises(corral.UsageValueError, match="acl is empty"):
        kind.make(zk, PATH, acl=[])


async def test_several_locks(connect: Callable[..., corral.Client], other: corral.Client) -> None:
    """Each lock of a multi-lock has it."""
    async with connect(auth=[("digest", b"me:secret")]) as zk, zk.multi_lock(["/a", "/b"], acl=MINE):
        for path in ("/a", "/b"):
            assert (await zk.get_acl(path))[0] == MINE
            with pytest.raises(corral.NoAuth):
                await other.lock(path).contenders()
    async with connect(auth=[("digest", b"me:secret")]) as zk:
        for path in ("/a", "/b"):
            with contextlib.suppress(corral.NoNode):
                await zk.delete(path, recursive=True)
