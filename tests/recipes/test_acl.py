"""The nodes that recipes make have the ACL that is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import corral
from support import within

MINE = [corral.Acl.digest("me", "secret")]

MAKE: dict[str, Callable[[corral.Client, Sequence[corral.Acl]], Any]] = {
    "lock": lambda zk, acl: zk.lock("/made/for/it", acl=acl),
    "read lock": lambda zk, acl: zk.rwlock("/made/for/it", acl=acl).read(),
    "write lock": lambda zk, acl: zk.rwlock("/made/for/it", acl=acl).write(),
    "semaphore": lambda zk, acl: zk.semaphore("/made/for/it", 2, acl=acl),
    "election": lambda zk, acl: zk.election("/made/for/it", acl=acl),
}


@pytest.mark.parametrize("what", MAKE)
async def test_nobody_else_stands_in_line(
    connect: Callable[..., corral.Client], other: corral.Client, what: str
) -> None:
    """With an ACL of our own, the line and what stands in it are ours: others are refused, and those who have the
    same credentials stand in it."""
    credentials = [("digest", b"me:secret")]
    async with connect(auth=credentials) as zk, connect(auth=credentials) as friend:
        held = await MAKE[what](zk, MINE).acquire()
        if isinstance(held, corral.HeldWrite):
            await held.downgrade()
        node = held.node[held.node.index("/made") :]
        for path in ("/made", "/made/for", "/made/for/it", node):
            entries, _ = await zk.get_acl(path)
            assert entries == MINE, path
        with pytest.raises(corral.NoAuth):
            await within(MAKE[what](other, MINE).acquire())
        with pytest.raises(corral.NoAuth):
            await other.delete(node)
        if what in ("read lock", "semaphore"):
            await (await within(MAKE[what](friend, MINE).acquire())).release()
        else:
            assert await MAKE[what](friend, MINE).try_acquire() is None
        await held.release()
        await zk.delete("/made", recursive=True)


@pytest.mark.parametrize("what", MAKE)
async def test_an_acl_that_cannot_be(zk: corral.Client, what: str) -> None:
    """It is refused when the recipe is made, before anything is sent."""
    with pytest.raises(corral.UsageValueError, match="acl is empty"):
        MAKE[what](zk, [])


async def test_several_locks(connect: Callable[..., corral.Client], other: corral.Client) -> None:
    """Each of several locks has it."""
    async with connect(auth=[("digest", b"me:secret")]) as zk, zk.multi_lock(["/a", "/b"], acl=MINE):
        for path in ("/a", "/b"):
            assert (await zk.get_acl(path))[0] == MINE
            with pytest.raises(corral.NoAuth):
                await other.lock(path).contenders()
    async with connect(auth=[("digest", b"me:secret")]) as zk:
        for path in ("/a", "/b"):
            with contextlib.suppress(corral.NoNode):
                await zk.delete(path, recursive=True)
