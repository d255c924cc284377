"""A watch's own request that breaks each connection ends in an error, after a few connections (K2 of issue
12)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from watching import KINDS, begin, first_of, grow, next_of, registered

import corral
from client_support import asks_for
from corral.testing import FaultProxy, Message, MessageKind, before
from corral.wire import messages
from support import PATIENCE, until

FOR_EVER = 10_000
"""More connections than any of these may break."""

OWN = {
    "node": [messages.GET],
    "children": [messages.CHILDREN2],
    "tree": [messages.MULTI_READ, messages.ADD_WATCH],
    "raw": [messages.ADD_WATCH],
}
by_request = pytest.mark.parametrize(
    ("name", "op"), [pytest.param(name, op, id=f"{name}, {op.name}") for name in OWN for op in OWN[name]]
)


def reads_bad(message: Message) -> bool:
    """A read of a tree that includes the bad node."""
    return asks_for(messages.MULTI_READ)(message) and b"/bad" in message.body


def is_connect(message: Message) -> bool:
    """A connect request."""
    return message.kind is MessageKind.REQUEST and message.operation == "connect"


async def fails_hopelessly(reading: Any) -> corral.ConnectionLoss:
    """Checks that it raises because one connection after another broke."""
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(corral.ConnectionLoss) as raised:
            await reading
    assert raised.value.is_hopeless
    return raised.value


@by_request
async def test_watch_whose_request_breaks_each_connection(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, name: str, op: messages.Operation
) -> None:
    """W3: a watch raises `ConnectionLoss` after a few connections, and the next `anext` tries again."""
    await other.create("/node")
    kind = KINDS[name]
    async with kind.make(proxied) as events:
        async with proxy.record(is_connect) as connects:
            async with proxy.cut_at(before(match=asks_for(op)), times=FOR_EVER):
                error = await fails_hopelessly(anext(events))
        assert error.path == "/node"
        assert op is not messages.ADD_WATCH or error.operation == kind.verb
        assert len(connects) <= corral.ConnectionLoss.MOST_LOSSES
        await begin(events)
        await kind.change(other, 1)
        assert kind.shows(await next_of(events), 1)
    assert registered(proxied) == (0, 0)


@pytest.mark.parametrize("size", [3, 40, 700])
async def test_one_node_of_many_breaks_each_connection(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, size: int
) -> None:
    """W3: of a tree's reads, the one that breaks connections is isolated in a few steps."""
    await other.create("/tree")
    await asyncio.gather(*(other.create(f"/tree/{n}") for n in range(size)))
    await other.create("/tree/bad")
    async with proxy.record(is_connect) as connects:
        async with proxy.cut_at(before(match=reads_bad), times=FOR_EVER):
            await fails_hopelessly(proxied.cache("/tree").__aenter__())
    assert len(connects) <= 3 * 3 + corral.ConnectionLoss.MOST_LOSSES
    assert registered(proxied) == (0, 0)
    async with proxied.cache("/tree") as cache:
        assert len(cache) == size + 2


async def test_cache_comes_back_when_its_request_does_no_harm_any_more(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client
) -> None:
    """W3: an open cache raises it to its readers, and recovers by itself."""
    await grow(other, "/tree", "/tree/bad")
    async with proxied.cache("/tree") as cache:
        async with proxy.cut_at(before(match=reads_bad), times=FOR_EVER):
            await other.set("/tree/bad", b"2")

            async def hopeless() -> bool:
                try:
                    len(cache)
                except corral.ConnectionLoss as error:
                    return error.is_hopeless
                return False

            await until(hopeless, "reading raises")

        async def mended() -> bool:
            try:
                return cache["/tree/bad"].data == b"2"
            except corral.ConnectionLoss:
                return False

        await until(mended, "the cache follows again")
    assert registered(proxied) == (0, 0)


async def test_two_losses_are_no_reason_to_give_up(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client
) -> None:
    """W3: connections that break on a read a few times by chance cause no error."""
    await grow(other, "/tree", "/tree/bad", "/tree/a")
    async with proxy.cut_at(before(match=reads_bad), times=3), proxied.watch_tree("/tree") as events:
        assert sorted(event.path for event in await first_of(events)) == ["/tree", "/tree/a", "/tree/bad"]


async def test_bystanders_are_not_drawn_in(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, connect: Callable[..., corral.Client]
) -> None:
    """W4: many readers of a node that breaks connections cost as many connections as one reader, and each
    gets its own exception object."""
    await other.create("/node")
    async with proxy.record(is_connect) as connects:
        async with proxy.cut_at(before(match=asks_for(messages.GET)), times=FOR_EVER):
            waiting = [asyncio.create_task(proxied.wait_until("/node", bool)) for _ in range(50)]
            async with asyncio.timeout(PATIENCE):
                raised = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(error) for error in raised} == {corral.ConnectionLoss}
    assert len({id(error) for error in raised}) == 50
    assert len(connects) <= corral.ConnectionLoss.MOST_LOSSES
