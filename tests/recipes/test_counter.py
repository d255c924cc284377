"""Counters, and the forms that their numbers have."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import corral
from client_support import requests_seen
from corral.testing import FaultProxy
from corral.wire.messages import MULTI
from support import within

DATA = {
    "curator": ("00000000000000ff", "fffffffffffffff0"),
    "curator-int": ("000000ff", "fffffff0"),
    "kazoo": (b"255".hex(), b"-16".hex()),
}
RANGES = {"curator": 2**63, "curator-int": 2**31}


@pytest.mark.parametrize("layout", DATA)
async def test_what_is_written(zk: corral.Client, layout: Any) -> None:
    """The number has the form of the layout from its creation on; it is 0 before, and may be negative."""
    counter = zk.counter("/jobs/done", layout=layout)
    assert await counter.get() == 0
    assert await zk.exists("/jobs") is None
    assert await counter.add(255) == 255
    data, stat = await zk.get("/jobs/done")
    assert (data.hex(), stat.version) == (DATA[layout][0], 0)
    assert await counter.add(-271) == -16
    assert (await zk.get("/jobs/done"))[0].hex() == DATA[layout][1]
    assert await counter.add() == -15
    await counter.set(7)
    assert await counter.get() == 7


async def test_adds_of_many(zk: corral.Client, other: corral.Client) -> None:
    """X1: each add is counted, and each returns a number of its own."""

    async def add(client: corral.Client) -> list[int]:
        return [await client.counter("/n").add() for _ in range(10)]

    results = await within(asyncio.gather(*(add(client) for client in (zk, other, zk, other))))
    assert sorted(number for numbers in results for number in numbers) == list(range(1, 41))
    assert await other.counter("/n").get() == 40


@pytest.mark.parametrize("layout", RANGES)
async def test_overflow(connect: Any, proxy: FaultProxy, zk: corral.Client, layout: Any) -> None:
    """A number that would not fit is an error that says so, and nothing is written."""
    limit = RANGES[layout]
    async with connect(proxy.address) as client:
        counter = client.counter("/n", layout=layout)
        assert await counter.add(limit - 1) == limit - 1
        async with requests_seen(proxy) as seen:
            for call in (lambda: counter.add(1), lambda: counter.add(-2 * limit), lambda: counter.set(limit)):
                with pytest.raises(
                    corral.UsageValueError, match=r"counter '/n'.*out of the range of .. bits"
                ):
                    await call()
            assert seen.count(MULTI) == 0
        assert await counter.add(1 - 2 * limit) == -limit
    assert await zk.counter("/n", layout=layout).get() == -limit


UNFIT = [
    (
        "curator",
        b"\x00\x00\x00\x05",
        "4 bytes of data, which are not a number of 8 bytes; layout='curator-int' has",
    ),
    ("curator-int", bytes(8), "8 bytes.*not a number of 4 bytes; layout='curator' has this form"),
    ("curator-int", b"5", "1 bytes.*; layout='kazoo' has this form"),
    ("kazoo", b"2.5", "3 bytes.*not a whole number in decimal digits; no layout has this form"),
    ("kazoo", b"\x00\x00\x00\x05", "4 bytes.*layout='curator-int' has this form"),
    ("kazoo", b"1_000", "5 bytes.*no layout has this form"),
]


@pytest.mark.parametrize(("layout", "data", "says"), UNFIT)
async def test_another_form(zk: corral.Client, layout: Any, data: bytes, says: str) -> None:
    """Data of another form is an error that names the path, what is there, and which layout fits; nothing is written.
    Setting the number is possible."""
    await zk.create("/n", data)
    counter = zk.counter("/n", layout=layout)
    for call in (counter.get, counter.add):
        with pytest.raises(corral.InvalidValue, match=f"counter '/n' at version 0: {says}"):
            await call()
    assert (await zk.get("/n"))[0] == data
    await counter.set(3)
    assert await counter.add() == 4


@pytest.mark.parametrize("layout", DATA)
async def test_an_empty_node(zk: corral.Client, layout: Any) -> None:
    """kazoo creates its nodes empty, which is 0."""
    await zk.create("/n", b"")
    counter = zk.counter("/n", layout=layout)
    assert await counter.get() == 0
    assert await counter.add(2) == 2


async def test_watch(zk: corral.Client, other: corral.Client) -> None:
    """W1: the number now, then each newer one. Data of another form is an error, after which it goes on."""
    async with zk.counter("/n").watch() as numbers:
        assert await within(anext(numbers)) == 0
        await other.counter("/n").add(5)
        assert await within(anext(numbers)) == 5
        await other.set("/n", b"x")
        with pytest.raises(corral.InvalidValue):
            await within(anext(numbers))
        await other.counter("/n").set(6)
        assert await within(anext(numbers)) == 6
