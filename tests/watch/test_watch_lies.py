"""Answers and events that cannot be right: no reader sees an older state after a newer one (W1), no request
is repeated without end, and invented events are ignored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from lying import Liar, lying
from watching import KINDS, STATES, begin, first_of, grow, next_of, tells_nothing

import corral
from corral import EventKind
from corral.session.watchers import WatchEvent
from corral.wire import messages
from support import PATIENCE, turns, until

MANY = 60
"""More reads than any of these may cause."""


@pytest.fixture
async def liar(server_address: str) -> AsyncIterator[Liar]:
    """A relay in front of the server."""
    async with lying(server_address) as liar:
        yield liar


@pytest.fixture
async def lied_to(connect: Callable[..., corral.Client], liar: Liar) -> AsyncIterator[corral.Client]:
    """A client of the relay."""
    async with connect(to=liar.address) as client:
        yield client


class Replay:
    """Answers the reads of one kind as they were answered before."""

    def __init__(self, *operations: messages.Operation) -> None:
        self._opcodes = {op.opcode for op in operations}
        self.known: dict[tuple[int, bytes], tuple[int, bytes]] = {}
        """The last answer to each request."""
        self.times = 0
        """How many false answers it is still to give."""

    def __call__(self, opcode: int, request: bytes, code: int, body: bytes) -> tuple[int, bytes]:
        if opcode not in self._opcodes:
            return code, body
        if self.times > 0:
            self.times -= 1
            return self.known[opcode, request]
        self.known[opcode, request] = code, body
        return code, body


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("times", [1, 4, MANY])
async def test_state_that_goes_back(
    lied_to: corral.Client, liar: Liar, other: corral.Client, name: str, times: int
) -> None:
    """W1: an answer that is older than an earlier one is dropped, and the read is repeated. A server that
    continues to give such answers is not asked without end: the reader raises an error, and the next `anext`
    tries again."""
    kind = KINDS[name]
    assert kind.read is not None
    liar.lie = replay = Replay(kind.read)
    await other.create("/node")
    async with kind.make(lied_to) as events:
        await begin(events)
        await kind.change(other, 1)  # the first read of a tree is another request than all later ones
        assert kind.shows(await next_of(events), 1)
        outdated = dict(replay.known)
        await kind.change(other, 2)
        assert kind.shows(await next_of(events), 2)
        replay.known, replay.times = outdated, times
        liar.asked = 0
        await kind.change(other, 3)
        if times == MANY:
            with pytest.raises(corral.ReplyError, match=r"'/node'.*older state.*times in a row"):
                await next_of(events)
            assert liar.asked < 20
            replay.times = 0
        assert kind.shows(await next_of(events), 3)
        assert replay.times == 0


async def test_node_that_was_deleted_does_not_come_back(
    lied_to: corral.Client, liar: Liar, other: corral.Client
) -> None:
    """W1: a node that is known to be deleted is not reported with its previous state: a node that is created
    again is another one."""
    await grow(other, "/tree", "/tree/a")
    liar.lie = replay = Replay(messages.MULTI_READ)
    async with lied_to.watch_tree("/tree") as events:
        await first_of(events)
        await other.set("/tree/a", b"1")
        assert (await next_of(events)).data == b"1"
        known = dict(replay.known)
        await other.delete("/tree/a")
        assert (await next_of(events)).kind is EventKind.DELETED
        replay.known, replay.times = known, 2
        liar.tell(WatchEvent.CREATED, _full(lied_to, "/tree/a"))
        await tells_nothing(lied_to, events)


async def test_node_that_is_there_and_is_not(
    lied_to: corral.Client, liar: Liar, other: corral.Client
) -> None:
    """W1: a node that exists for `exists` and not for `get` is not requested without end."""
    await other.create("/node")

    def contradict(opcode: int, request: bytes, code: int, body: bytes) -> tuple[int, bytes]:
        return (corral.NoNode.code, b"") if opcode == messages.GET.opcode else (code, body)

    liar.lie = contradict
    for wait in (lied_to.wait_until("/node", lambda _: True), lied_to.wait_present("/node")):
        liar.asked = 0
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(corral.ReplyError, match=r"'/node'.*alternates"):
                await wait
        assert liar.asked < MANY


async def test_child_without_a_parent(lied_to: corral.Client, liar: Liar, other: corral.Client) -> None:
    """W1: a tree whose server shows a node and hides its parent is not read without end: its readers get an
    error."""
    await grow(other, "/tree", "/tree/a", "/tree/a/b")
    hide = _full(lied_to, "/tree/a").encode()

    def without(opcode: int, request: bytes, code: int, body: bytes) -> tuple[int, bytes]:
        if opcode != messages.MULTI_READ.opcode or code:
            return code, body
        asked = messages.decode_multi(request, 0, len(request))
        results = messages.MULTI_READ.decode_reply(memoryview(body), 0, len(body))
        hidden = [fields[0].encode() == hide for _, fields in asked]
        return code, messages.encode_multi_reply(
            [
                (-1, -101, b"")
                if gone
                else (each.opcode, each.error, op.reply.encode(*_fields(op, result.value)))
                for gone, (op, _), result, each in zip(hidden, asked, results, results, strict=True)
            ]
        )

    async with lied_to.cache("/tree") as cache:
        assert len(cache) == 3
        liar.lie = without
        liar.asked = 0
        liar.tell(WatchEvent.DATA_CHANGED, _full(lied_to, "/tree/a"))
        liar.tell(WatchEvent.CREATED, _full(lied_to, "/tree/a/b"))
        await until(_is_settled(lied_to, cache), "the cache is at rest")
        assert liar.asked < 2 * MANY


def _fields(op: messages.Operation, value: object) -> tuple[object, ...]:
    return tuple(value) if op is messages.GET else (value,)  # type: ignore[arg-type]


def _is_settled(zk: corral.Client, cache: corral.Cache) -> Callable[[], object]:
    async def settled() -> bool:
        for _ in range(4):
            await zk.sync()
        try:
            len(cache)
        except corral.ReplyError:
            return True
        return cache.is_current

    return settled


def _full(zk: corral.Client, path: str) -> str:
    return zk._full(path)


@pytest.mark.parametrize(
    "path",
    ["/tree/none", "/tree/none/below/none", "/elsewhere", "/tree/a/a/a", "/tree" + "/x" * 4000, "/treetop"],
)
@pytest.mark.parametrize("change", [1, 2, 3, 4, 99])
async def test_events_that_never_were(
    lied_to: corral.Client, liar: Liar, other: corral.Client, path: str, change: int
) -> None:
    """W1: events of nodes that never existed, repeated and in any order, change nothing, and leave nothing in
    memory."""
    await grow(other, "/tree", "/tree/a")
    async with lied_to.cache("/tree") as cache, lied_to.watch("/tree/a") as node:
        await next_of(node)
        before = dict(cache)
        for _ in range(3):
            for each in (path, "/tree/a", path):
                liar.tell(change, _full(lied_to, each))
        await tells_nothing(lied_to, node)
        assert dict(cache) == before
        assert cache.is_current
        feed = cache._kept.feed
        assert feed is not None
        assert not feed.reads
        assert not feed.reads.recreated
        await other.set("/tree/a", b"2")
        assert (await next_of(node)).data == b"2"


WAYS: dict[str, Callable[[corral.Client], Awaitable[object]]] = {
    "watch_raw": lambda zk: anext(zk.watch_raw("/node")),
    "watch_tree": lambda zk: anext(zk.watch_tree("/node")),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_persistent_watch_that_is_refused(lied_to: corral.Client, liar: Liar, way: str) -> None:
    """W6: the error names what the reader called, and its path below the chroot, not the request behind it."""

    def refuse(opcode: int, request: bytes, code: int, body: bytes) -> tuple[int, bytes]:
        if opcode == messages.ADD_WATCH.opcode:
            return corral.NoAuth.code, b""
        return code, body

    await lied_to.create("/node")
    liar.lie = refuse
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(corral.NoAuth, match=f"{way} '/node'") as refused:
            await WAYS[way](lied_to)
    assert (refused.value.operation, refused.value.path) == (way, "/node")


async def test_only_is_asked_once_for_each_node(zk: corral.Client, other: corral.Client) -> None:
    """W6: the filter is called for each node that an event names, but not for its ancestors, nor below one
    that it has refused, however deep."""
    deep = ["/tree" + "/a" * n for n in range(30)]
    await grow(other, *deep, "/tree/no")
    asked: list[str] = []

    def only(path: str) -> bool:
        asked.append(path)
        return "no" not in path

    async with zk.cache("/tree", only=only) as cache:
        assert len(cache) == len(deep)
        assert sorted(asked) == sorted([*deep[1:], "/tree/no"])
        asked.clear()
        await other.create("/tree/no/a")
        await other.create("/tree/no/a/b")
        await other.set(deep[-1], b"2")
        await zk.exists("/")
        await turns()
        assert asked == [deep[-1]]


async def test_below_what_we_may_not_read(
    connect: Callable[..., corral.Client], liar: Liar, other: corral.Client
) -> None:
    """W6: events far below a node that we may not read are ignored; it is not read without end."""
    await grow(other, "/tree")
    other.add_auth("digest", b"user:secret")
    await other.create("/tree/secret", acl=corral.acl.digest("user", "secret"))
    async with connect(to=liar.address) as zk, zk.cache("/tree") as cache:
        liar.asked = 0
        await grow(other, "/tree/secret/a", "/tree/secret/a/b", "/tree/secret/a/b/c")
        await other.set("/tree/secret/a/b/c", b"2")
        for _ in range(20):
            await zk.sync()
        assert liar.asked < 20
        assert list(cache) == ["/tree"]
        assert cache.is_current
        await other.set_acl("/tree/secret", corral.acl.OPEN)
        await other.set("/tree/secret", b"2")

        async def complete() -> bool:
            return cache.get("/tree/secret/a/b/c") is not None

        await until(complete, "what is below is known once it may be read")
    await other.delete("/tree", recursive=True)
