"""Connecting and reconnecting in virtual time: how soon the one server that answers is found."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import re
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from typing import Any

import pytest
from virtually import PORT, Fronts, connect_string, network, now, run

import corral
from corral import State
from corral.session.gate import LEAST_GRANT
from corral.testing import EmbeddedServer
from corral.wire import messages

COUNTS = [2, 5, 20, 100]
TIMEOUTS = [4.0, 10.0, 60.0, 180.0]
WAYS = [(way, unreachable) for way in ("literals", "names", "one name") for unreachable in (False, True)]
"""How the addresses are given, and whether the silent ones accept connections."""


@contextlib.asynccontextmanager
async def before_a_server(count: int, timeout: float, *, unreachable: bool) -> AsyncIterator[Fronts]:
    """Addresses in front of a server that grants sessions of `timeout` seconds."""
    async with (
        EmbeddedServer(seed=1, tick_time=timeout / 10) as server,
        Fronts(server, count, unreachable=unreachable).listening() as fronts,
    ):
        yield fronts


async def until(zk: corral.Client, *wanted: State) -> State:
    async for state in zk.states():
        if state in wanted:
            return state
    raise AssertionError(f"never {wanted}")


@pytest.mark.parametrize(("count", "timeout"), list(itertools.product(COUNTS, TIMEOUTS)))
def test_the_one_is_found_at_first(count: int, timeout: float) -> None:
    """S1: if all but one of n addresses are silent, the one that answers is found within `connect_timeout`,
    even if it is the last one tried."""

    async def main(way: str, unreachable: bool) -> None:
        async with before_a_server(count, timeout, unreachable=unreachable) as fronts:
            began = now()
            async with corral.connect(connect_string(fronts.hosts, way), session_timeout=timeout) as zk:
                assert now() - began < 15
                assert await zk.exists("/") is not None

    for way, unreachable in WAYS:
        run(functools.partial(main, way, unreachable))


@pytest.mark.parametrize(
    ("count", "limit"),
    list(itertools.product(COUNTS, [0.5, 1.0, 5.0])),
)
def test_the_one_is_found_within_a_short_limit(count: int, limit: float) -> None:
    """S1: the addresses share `connect_timeout`, whatever it is."""

    async def main() -> None:
        async with before_a_server(count, 10.0, unreachable=False) as fronts:
            hosts = connect_string(fronts.hosts, "literals")
            async with corral.connect(hosts, session_timeout=10.0, connect_timeout=limit) as zk:
                assert zk.state is State.CONNECTED

    run(main)


async def ask_on(zk: corral.Client, interval: float) -> None:
    """A busy client: send requests all the time."""
    while True:
        await zk.exists("/")
        await asyncio.sleep(interval)


async def reconnect(fronts: Fronts, hosts: str, timeout: float, use: str) -> float:
    """How long after the last contact another server was found, or the session expired, in units of T."""
    async with contextlib.AsyncExitStack() as stack:
        zk = await stack.enter_async_context(
            corral.connect(hosts, session_timeout=timeout, connect_timeout=None)
        )
        session = zk.session_id
        if use == "holding":
            await zk.lock("/lock").acquire()
        busy = asyncio.create_task(ask_on(zk, timeout / 50)) if use == "busy" else None
        await asyncio.sleep(2 * timeout + timeout / 1000)
        fronts.fall_silent()
        last = fronts.passed_at
        await until(zk, State.SUSPENDED)
        await until(zk, State.CONNECTED, State.EXPIRED)
        found = now() - last
        assert zk.session_id in (session, 0)
        if busy is not None:
            busy.cancel()
            await asyncio.wait([busy])
    return found / timeout


@pytest.mark.parametrize(
    ("use", "count", "timeout"),
    list(itertools.product(["busy", "holding", "idle"], COUNTS, TIMEOUTS)),
)
def test_the_one_is_found_again(use: str, count: int, timeout: float) -> None:
    """S1: when our server falls silent, the one of n that answers is found within T of the last contact, even
    if it is the last one tried, and the session is resumed there."""

    async def main(way: str, unreachable: bool) -> float:
        async with before_a_server(count, timeout, unreachable=unreachable) as fronts:
            return await reconnect(fronts, connect_string(fronts.hosts, way), timeout, use)

    found = {each: run(functools.partial(main, *each)) for each in WAYS}
    assert max(found.values()) < 1, found


# Look-ups that hang


def test_a_look_up_that_hangs_holds_nobody_up() -> None:
    """S1: a name whose lookup hangs is skipped: the first round tries the others within `connect_timeout`. At
    most one lookup of the name is under way at any time, and none is left when the client is closed."""

    async def main() -> None:
        async with before_a_server(1, 10.0, unreachable=False) as fronts:
            loop = network()
            loop.hanging.add("hangs")
            loop.hosts["zk"] = fronts.hosts
            async with corral.connect("hangs:1,zk:2181", session_timeout=10.0, connect_timeout=5.0) as zk:
                fronts.fall_silent()
                await until(zk, State.SUSPENDED)
                fronts._tried.clear()  # the only server answers again
                await until(zk, State.CONNECTED)
                await asyncio.sleep(600)
            assert (loop.most_look_ups["hangs"], loop.most_look_ups["zk"]) == (1, 1)
        assert loop.look_ups.total() == 0

    run(main)


@pytest.mark.parametrize("way", ["names", "one name"])
def test_what_was_known_of_a_name_is_tried_while_it_hangs(way: str) -> None:
    """S1: when the name server falls silent together with our server, the addresses that the names had are
    tried, and another server is found within T."""

    async def main() -> float:
        async with before_a_server(3, 10.0, unreachable=True) as fronts:
            hosts = connect_string(fronts.hosts, way)
            hanging = network().hanging

            async def hang() -> None:
                await asyncio.sleep(15)
                hanging.update(["zk", "zk0", "zk1", "zk2"])

            async with asyncio.TaskGroup() as group:
                group.create_task(hang())
                found = await reconnect(fronts, hosts, 10.0, "busy")
            assert all(network().most_look_ups[name] <= 1 for name in hanging)
            return found

    assert run(main) < 1


# Servers that accept us and then close the connection


SESSIONS = itertools.count(0x100)


@contextlib.asynccontextmanager
async def letting_go(after: float, *, resumes: bool, granting: float = 10.0) -> AsyncIterator[list[float]]:
    """A server that ends each connection after so many seconds, and optionally its session; yields the times
    of the connections."""
    connects: list[float] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connects.append(now())
        size = int.from_bytes(await reader.readexactly(4))
        asked = messages.decode_connect(await reader.readexactly(size), 0, size)
        if asked.session_id and not resumes:
            reply = messages.encode_connect_reply(0, 0, bytes(16))
        else:
            reply = messages.encode_connect_reply(granting, asked.session_id or next(SESSIONS), bytes(16))
        writer.write(len(reply).to_bytes(4) + reply)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(after):
                while await reader.read(65536):
                    pass
        writer.close()

    async with await asyncio.start_server(serve, "10.0.0.1", PORT):
        yield connects


@pytest.mark.parametrize("resumes", [False, True], ids=["sessions end", "sessions go on"])
def test_connections_that_do_not_last_are_paced(resumes: bool) -> None:
    """S1: if each connection ends as soon as it is made, even if its session ends too, the client reconnects
    at most twice a second."""

    async def main() -> list[float]:
        async with letting_go(0.01, resumes=resumes) as connects:
            async with corral.connect(f"10.0.0.1:{PORT}", session_timeout=10.0):
                await asyncio.sleep(600)
            return connects

    connects = run(main)
    a_minute = [sum(begin <= at - connects[0] < begin + 60 for at in connects) for begin in range(0, 600, 60)]
    assert max(a_minute) <= 130
    assert min(a_minute) >= 30  # but it keeps trying


def test_a_small_grant_ends_with_its_session() -> None:
    """S1: a server that grants the shortest session that we accept does no lasting harm: when that session is
    over, a normal server, a few milliseconds away, is found."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as mean:
            await mean.enter_async_context(letting_go(1.0, resumes=True, granting=LEAST_GRANT))
            async with corral.connect(f"10.0.0.1:{PORT}", session_timeout=10.0) as zk:
                await mean.aclose()
                async with EmbeddedServer(seed=1, host="10.0.0.1", port=PORT), asyncio.timeout(600):
                    assert await zk.exists("/") is not None

    run(main, latency=0.02)


# What is logged meanwhile


@contextlib.contextmanager
def lines() -> Iterator[list[tuple[float, str]]]:
    """What corral logs at WARNING and above, and when."""
    seen: list[tuple[float, str]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append((now(), record.getMessage()))

    handler, logger = Keep(logging.WARNING), logging.getLogger("corral")
    logger.addHandler(handler)
    try:
        yield seen
    finally:
        logger.removeHandler(handler)


def test_the_log_of_an_outage() -> None:
    """O: an hour without a server gives a few lines at WARNING. They say which server was lost and why, what
    is held and for how much longer, what was lost, what each server answers, and how long the outage was."""

    async def main() -> None:
        async with before_a_server(3, 10.0, unreachable=False) as fronts:
            hosts = connect_string(fronts.hosts, "literals")
            async with corral.connect(hosts, session_timeout=10.0) as zk:
                await zk.lock("/lock").acquire()
                await asyncio.sleep(20)
                first, began = fronts.good, now()
                with lines() as said:
                    fronts.fall_silent()
                    fronts.hosts.append("never tried")  # so that no server answers
                    await asyncio.sleep(3600)
                    fronts.hosts.remove("never tried")
                    await until(zk, State.CONNECTED)
                    outage = now() - began
        texts = [text for _, text in said]
        assert len(texts) <= 20
        lost = rf"contact lost: {first}:{PORT}: no answer .*; holding, for \d\.\d s more: /lock/\S+$"
        assert re.match(lost, texts[0])
        over = [text for text in texts if "lost: /lock/" in text]
        assert len(over) == 1
        assert re.match(r"the lease of session 0x[0-9a-f]+ lapsed; what it held is lost: /lock/\S+$", over[0])
        [expired] = [text for text in texts if re.match("session 0x[0-9a-f]+ expired", text)]
        assert "nothing was held" in expired
        reminders = [(at, text) for at, text in said if text.startswith("without contact for")]
        since = [at - said[0][0] for at, _ in reminders]
        assert all(later >= 2 * sooner - 30 for sooner, later in pairwise(since))
        for host in fronts.hosts:
            assert f"{host}:{PORT}: no answer within" in reminders[-1][1]
        back = re.match(r"session 0x[0-9a-f]+ is on (\S+) after (\S+) s; lost meanwhile: (.*)", texts[-1])
        assert back is not None
        assert back[1] == f"{fronts.good}:{PORT}"
        assert outage - 10 <= float(back[2]) <= outage
        assert "lapsed" in back[3]
        assert "expired" in back[3]

    run(main)


@pytest.mark.parametrize("lasting", [0.01, 3.0])
@pytest.mark.parametrize("resumes", [False, True], ids=["sessions end", "sessions go on"])
def test_the_log_of_connections_that_do_not_last(resumes: bool, lasting: float) -> None:
    """O: connections that come and go all the time do not fill the log: ten lines in half an hour, and the
    next one says how many were left out."""

    async def main() -> list[tuple[float, str]]:
        with lines() as said:
            async with letting_go(lasting, resumes=resumes):
                async with corral.connect(f"10.0.0.1:{PORT}", session_timeout=10.0):
                    await asyncio.sleep(1900)
        return said

    said = run(main)
    assert 10 < len(said) <= 21
    assert any(re.search(r"\(\d+ lines like this were left out", text) for _, text in said)


class UnreportedTransport(asyncio.Transport):
    """A transport whose loop never reports its end, as uvloop does when opening it is cancelled."""

    def write(self, data: bytes | bytearray | memoryview) -> None: ...

    def abort(self) -> None: ...


def test_an_attempt_that_ends_as_its_connection_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """S1: the loop owes no `connection_lost` for a connection whose opening is cancelled: the next attempt is made
    all the same."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        really, attempts = loop.create_connection, 0

        async def create_connection(make: Any, *where: Any, **options: Any) -> Any:
            nonlocal attempts
            attempts += 1
            if attempts > 1:
                return await really(make, *where, **options)
            make().connection_made(UnreportedTransport())
            return await loop.create_future()  # until the attempt's time is up

        monkeypatch.setattr(loop, "create_connection", create_connection)
        async with EmbeddedServer(seed=1) as server, corral.connect(server.address) as zk:
            assert await zk.exists("/") is not None
        assert attempts == 2

    run(main)
