"""The one task of a client: programs that end with an open client, cancelled entry, and final errors."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from virtually import Fronts, connect_string, now, run

import corral
from corral import State, errors
from corral.testing import EmbeddedServer, FaultProxy
from support import children, turns, until

Connect = Callable[..., corral.Client]


# Programs that end with an open client


async def run_a_program(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it as `asyncio.run` does, in a thread, so that this event loop can observe it."""
    await asyncio.to_thread(asyncio.run, main())


async def in_the_background(client: corral.Client, ready: asyncio.Event, log: list[str]) -> None:
    async with client as zk:
        await zk.create("/ephemeral", ephemeral=True)
        async with zk.lock("/lock"):
            ready.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await zk.create("/written-while-ending")
                log.append("cleaned up")
    log.append(f"left {zk.state.value}")


async def gone(other: corral.Client) -> None:
    """Everything that the session had is gone at once, not only when it expires."""
    assert await other.exists("/ephemeral") is None
    assert await children(other, "/lock") == []
    assert await other.exists("/written-while-ending") is not None


async def test_a_client_in_a_background_task_when_the_program_ends(
    connect: Connect, other: corral.Client, real_time: None
) -> None:
    """S5: `asyncio.run` cancels every task when its main coroutine ends, the client's own included. A client
    in a background task is left as usual: its owner's clean-up runs, and the session is closed on the server,
    so its ephemerals and locks are gone at once."""
    log: list[str] = []

    async def main() -> None:
        ready = asyncio.Event()
        task = asyncio.create_task(in_the_background(connect(), ready, log))
        await ready.wait()
        assert not task.done()

    await run_a_program(main)
    assert log == ["cleaned up"]  # its cancellation ends it
    await gone(other)


async def test_a_handler_that_cancels_all(connect: Connect, other: corral.Client, real_time: None) -> None:
    """S5: the same holds for a handler (of SIGTERM, say) that cancels all tasks and then waits for them."""
    log: list[str] = []

    async def main() -> None:
        ready = asyncio.Event()
        tasks = [asyncio.create_task(in_the_background(connect(), ready, log))]
        await ready.wait()
        everything = asyncio.all_tasks() - {asyncio.current_task()}
        assert len(everything) > len(tasks)
        for task in everything:
            task.cancel()
        await asyncio.wait(everything)

    await run_a_program(main)
    assert log == ["cleaned up"]
    await gone(other)


async def test_several_clients_do_not_wait_for_each_other(
    connect: Connect, other: corral.Client, real_time: None
) -> None:
    """S5: with several clients in background tasks each one is left, and the program ends when all of them
    are."""
    names = [f"/e{n}" for n in range(5)]

    async def keep(name: str, ready: asyncio.Event) -> None:
        async with connect() as zk:
            await zk.create(name, ephemeral=True)
            ready.set()
            await asyncio.get_running_loop().create_future()

    async def main() -> None:
        events = [asyncio.Event() for _ in names]
        tasks = [asyncio.create_task(keep(*each)) for each in zip(names, events, strict=True)]
        await asyncio.gather(*(event.wait() for event in events))
        assert len(tasks) == len(names)

    await run_a_program(main)
    assert not {name[1:] for name in names} & set(await other.children("/"))


async def test_a_client_that_nobody_leaves(connect: Connect, other: corral.Client, real_time: None) -> None:
    """S5: a client that was entered by hand, and that nobody leaves, is closed on the server nevertheless."""

    async def main() -> None:
        zk = await connect().__aenter__()
        await zk.create("/ephemeral", ephemeral=True)

    await run_a_program(main)
    assert await other.exists("/ephemeral") is None


@pytest.mark.parametrize("timeout", [6.0, 60.0])
def test_the_end_of_a_program_is_bounded(timeout: float) -> None:
    """S5: on a dead network, with a lock held, cancelling all tasks ends a client within bounds: T/3, at most
    5 s, for its owners, and the same again for closing the session. Holding a lock that cannot be released
    does not delay that."""

    async def main() -> float:
        async with (
            EmbeddedServer(seed=1, tick_time=timeout / 10) as server,
            Fronts(server, 1, unreachable=False).listening() as fronts,
        ):
            before, ready = asyncio.all_tasks(), asyncio.Event()

            async def hold() -> None:
                async with (
                    corral.connect(connect_string(fronts.hosts, "literals"), session_timeout=timeout) as zk,
                    zk.lock("/lock"),
                ):
                    ready.set()
                    await asyncio.get_running_loop().create_future()

            holding = asyncio.create_task(hold())
            await ready.wait()
            ours = {
                task
                for task in asyncio.all_tasks() - before
                if task is holding or task.get_name().startswith("corral")
            }
            assert len(ours) > 1
            fronts.fall_silent()
            fronts.hosts.append("nobody")  # so that no other server answers
            began = now()
            for task in ours:
                task.cancel()
            await asyncio.wait(ours)
            assert holding.cancelled()
            return now() - began

    assert run(main) <= 2 * min(timeout / 3, 5.0) + 0.001


# Cancelled entry


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 13])
async def test_entering_cancelled_twice_leaves_nothing(proxy: FaultProxy, steps: int) -> None:
    """S8: if entering is cancelled, and cancelled again while that takes its time, then no task and no
    connection of the client is left when entering returns."""
    client = corral.connect(proxy.address, connect_timeout=None)
    async with proxy.black_hole():
        entering = asyncio.create_task(client.__aenter__())
        await turns(20)
        entering.cancel()
        await turns(steps)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("corral")]
        await until(lambda: nobody(proxy), "the connection is closed")
    assert client.state is State.CLOSED


async def nobody(proxy: FaultProxy) -> bool:
    return proxy.connections == 0


# Errors that are final


@contextlib.asynccontextmanager
async def behind() -> AsyncIterator[tuple[corral.Client, list[State]]]:
    """A client that has seen more than the server has, and the states that it reports."""
    T = 6.0
    states: list[State] = []

    async def follow(zk: corral.Client) -> None:
        async for state in zk.states():
            states.append(state)

    server = EmbeddedServer(seed=1)
    await server.start()
    async with asyncio.TaskGroup() as group:
        async with corral.connect(server.address, session_timeout=T) as zk:
            following = group.create_task(follow(zk))
            for _ in range(100):
                await zk.set("/", b"")
            port = int(server.address.rpartition(":")[2])
            await server.close()
            async with EmbeddedServer(port=port):
                yield zk, states
                await following  # it ends by itself


def test_an_ensemble_that_is_behind_is_final() -> None:
    """S4: when every server has seen less than we have, the client ends: it is CLOSED, `states()` ends with
    that, and every request, made before or afterwards, raises EnsembleBehind. Leaving the client raises
    nothing."""

    async def main() -> None:
        async with behind() as (zk, states):
            lock = asyncio.create_task(zk.lock("/lock").acquire())
            watch = asyncio.create_task(anext(zk.watch("/never")))
            waiting = [asyncio.create_task(zk.get("/")), asyncio.create_task(zk.set("/", b"x")), lock, watch]
            await asyncio.wait(waiting)
            assert [type(task.exception()) for task in waiting] == [errors.EnsembleBehind] * 4
            assert zk.state is State.CLOSED
            with pytest.raises(errors.EnsembleBehind, match="we have seen 0x"):
                await zk.exists("/")
            with pytest.raises(errors.EnsembleBehind):
                await zk.lock("/lock").acquire()
            with pytest.raises(errors.EnsembleBehind):
                await anext(zk.watch("/"))
        assert states[-1] is State.CLOSED
        assert states.count(State.CLOSED) == 1

    run(main)
