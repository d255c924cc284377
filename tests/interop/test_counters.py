"""X1, L8: counters and values together with Curator's and kazoo's, on an embedded server as on a real one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from curator_peer import Curator
from interop_support import within

import corral
from support import until

SHARED = {"long": "curator", "int": "curator-int", "count": "curator-int"}
"""Curator's counters, and our layout for each."""
TIMES = 20


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("first", ["ours", "theirs"])
async def test_a_counter_of_curators(
    zk: corral.Client, curator: Curator, place: str, kind: str, first: str
) -> None:
    """Whoever creates it, both read and add to the same number, negative ones too."""
    path = f"{place}/counter"
    ours = zk.counter(path, layout=SHARED[kind])  # type: ignore[arg-type]
    if first == "ours":
        assert await ours.add(-258) == -258
        theirs = await curator.shared(kind, path)
    else:
        theirs = await curator.shared(kind, path)
        assert await theirs.change("-258") == "-258"
    assert await ours.add(300) == 42

    async def seen() -> bool:
        return await theirs.get() == "42"

    await until(seen, "Curator sees our number")
    assert await theirs.change("-2") == "40"
    assert await ours.get() == 40


@pytest.mark.parametrize("kind", SHARED)
async def test_adding_at_once_with_curator(
    zk: corral.Client, curator: Curator, place: str, kind: str
) -> None:
    """X1: adds of both sides at once are all counted."""
    path = f"{place}/counter"
    ours = zk.counter(path, layout=SHARED[kind])  # type: ignore[arg-type]
    await ours.set(0)
    theirs = await curator.shared(kind, path)

    async def we_add() -> None:
        for _ in range(TIMES):
            await ours.add(1)

    async def they_add() -> None:
        for _ in range(TIMES):
            await theirs.change("100")

    await within(asyncio.gather(we_add(), they_add()))
    assert await ours.get() == TIMES * 101


async def test_curators_value(zk: corral.Client, curator: Curator, place: str) -> None:
    """What one side sets, the other reads and sees change."""
    path = f"{place}/value"
    ours = zk.value(path, codec=corral.TEXT, default="none")
    async with ours.watch() as values:
        assert (await within(anext(values))).value == "none"
        theirs = await curator.shared("text", path)
        await theirs.change("from Curator")
        while (current := await within(anext(values))).value != "from Curator":
            pass  # Curator creates it empty
        await ours.set("from us", version=current.version)

        async def seen() -> bool:
            return await theirs.get() == "from us"

        await until(seen, "Curator sees our text")


@pytest.fixture
def kazoo(server: str) -> Iterator[Any]:
    """A client of kazoo's."""
    client = pytest.importorskip("kazoo.client").KazooClient(server)
    client.start(timeout=30)
    yield client
    client.stop()
    client.close()


KAZOO: dict[str, Callable[[Any, str], Any]] = {
    "kazoo": lambda client, path: client.Counter(path),
    "curator-int": lambda client, path: client.Counter(path, support_curator=True),
}


@pytest.mark.parametrize("layout", KAZOO)
@pytest.mark.parametrize("first", ["ours", "theirs"])
async def test_a_counter_of_kazoos(
    zk: corral.Client, kazoo: Any, place: str, layout: Any, first: str
) -> None:
    """Whoever creates it, both read and add to the same number, also an empty one of kazoo's."""
    path = f"{place}/counter"
    ours, theirs = zk.counter(path, layout=layout), KAZOO[layout](kazoo, path)
    if first == "ours":
        assert await ours.add(-5) == -5
    else:
        assert await asyncio.to_thread(lambda: theirs.value) == 0
        assert (await zk.get(path))[0] == b""
        assert await ours.get() == 0
        assert await ours.add(-5) == -5

    def they_add() -> int:
        nonlocal theirs
        theirs += 47
        return int(theirs.value)

    assert await asyncio.to_thread(they_add) == 42
    assert await ours.add(1) == 43


@pytest.mark.parametrize("layout", KAZOO)
async def test_adding_at_once_with_kazoo(zk: corral.Client, kazoo: Any, place: str, layout: Any) -> None:
    """X1: adds of both sides at once are all counted."""
    path = f"{place}/counter"
    ours, theirs = zk.counter(path, layout=layout), KAZOO[layout](kazoo, path)
    await ours.set(0)

    async def we_add() -> None:
        for _ in range(TIMES):
            await ours.add(1)

    def they_add() -> None:
        counter = theirs
        for _ in range(TIMES):
            counter += 100

    await within(asyncio.gather(we_add(), asyncio.to_thread(they_add)))
    assert await ours.get() == TIMES * 101
