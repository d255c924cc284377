"""Unread changes do not pile up: memory is bounded by the tree, whatever happens to it (W2)."""

from __future__ import annotations

import pytest
from watching import first_of, grow, next_of

import corral
from corral import EventKind, RawKind
from corral.session.watchers import WatchEvent
from corral.watch import raw
from corral.watch.tree import follow, merge
from support import turns


async def come_and_go(other: corral.Client, count: int) -> None:
    """Create nodes and delete them again, each with another name."""
    for number in range(count):
        await other.create(f"/tree/{number}")
        await other.delete(f"/tree/{number}")


async def test_reader_of_a_tree_that_is_slow(
    zk: corral.Client, other: corral.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W2, W3: nodes that are created and deleted while a reader is busy are not all remembered; the reader
    then gets what exists."""
    monkeypatch.setattr(follow, "BACKLOG", 20)
    await grow(other, "/tree", "/tree/a")
    async with zk.watch_tree("/tree") as events:
        await first_of(events)
        feed = events._feed
        assert feed is not None
        most = 0
        for _ in range(10):
            await come_and_go(other, 30)
            await zk.exists("/")
            await turns()
            most = max(most, feed.reads.waiting, len(feed.reads.recreated))
        assert most <= 21
        await other.set("/tree/a", b"2")
        while (event := await next_of(events)).path != "/tree/a":
            pass  # the tree may have been read while one of the others existed
        assert (event.kind, event.data) == (EventKind.CHANGED, b"2")


async def test_deletions_are_not_remembered_for_ever(
    zk: corral.Client, other: corral.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W2: of nodes that were created and deleted a cache remembers a bounded number."""
    monkeypatch.setattr(merge, "MOST_DELETED", 10)
    await grow(other, "/tree")
    async with zk.cache("/tree") as cache:
        for number in range(30):
            await zk.create(f"/tree/{number}")
            await zk.delete(f"/tree/{number}")
        assert list(cache) == ["/tree"]
        assert cache._kept.feed is not None
        assert len(cache._kept.feed._merger._deleted) <= 10


async def test_nodes_that_could_not_be_read_and_are_gone(zk: corral.Client, other: corral.Client) -> None:
    """W2: the same holds for nodes that it could not read, once it has seen that they are gone."""
    await grow(other, "/tree")
    other.add_auth("digest", b"user:secret")
    for number in range(5):
        await other.create(f"/tree/{number}", acl=corral.acl.digest("user", "secret"))
    async with zk.cache("/tree") as cache:
        feed = cache._kept.feed
        assert feed is not None
        assert len(feed._merger._unreadable) == 5
        for number in range(5):
            await other.delete(f"/tree/{number}")
        feed.fire(WatchEvent.UNKNOWN, feed.full, -1)  # as after a reconnect
        await zk.sync()
        assert not feed._merger._unreadable


@pytest.mark.parametrize("by", ["BACKLOG", "BACKLOG_SIZE"])
async def test_raw_events_that_nobody_takes(
    zk: corral.Client, other: corral.Client, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """W2: too many events, or too large ones, are replaced by one that says that some were missed."""
    await other.create("/tree")
    monkeypatch.setattr(raw, by, 20)
    async with zk.watch_raw("/tree", recursive=True) as events:
        assert (await next_of(events)).kind is RawKind.MISSED
        await come_and_go(other, 30)
        await zk.sync()
        kinds: list[RawKind] = []
        while (event := await next_of(events)).path != "/tree/29":
            kinds.append(event.kind)
        assert kinds[0] is RawKind.MISSED
        assert len(kinds) <= 21
