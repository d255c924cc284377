"""EmbeddedServer: where it runs: in its user's event loop, which may be closed, or on a thread for several
loops."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from frame_client import FrameClient, is_refused

import corral
from corral.errors import UsageStateError
from corral.testing import EmbeddedServer, ServerUnavailable, VirtualLoop

Loops = Callable[[], asyncio.AbstractEventLoop]


NAME = "corral embedded server"
OF_OTHERS: set[threading.Thread] = set()
"""The threads of servers that other tests share."""


def threads() -> list[threading.Thread]:
    """The threads of embedded servers."""
    return [each for each in threading.enumerate() if each.name == NAME and each not in OF_OTHERS]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Any:
    """Each test leaves no thread."""
    OF_OTHERS.update(threads())
    yield
    assert threads() == []


def run(work: Coroutine[Any, Any, Any], loops: Loops = asyncio.new_event_loop) -> Any:
    """Run it in a new event loop, which is closed afterwards."""
    with asyncio.Runner(loop_factory=loops) as runner:
        return runner.run(work)


async def remember(server: EmbeddedServer) -> None:
    async with FrameClient(server.address) as client:
        await client.begin()
        assert await client.create("/kept") == 0


async def remembers(server: EmbeddedServer) -> bool:
    async with FrameClient(server.address) as client:
        await client.begin()
        return await client.exists("/kept")


# On a thread


def test_with_runs_it_on_a_thread_for_those_who_block() -> None:
    """Inside `with` it serves while this thread does something else; afterwards its thread is gone."""
    with EmbeddedServer(thread=True) as server:
        assert len(threads()) == 1
        run(remember(server))
        assert server.zookeeper.tree.find("/kept") is not None
        address = server.address
    assert not server.running
    assert run(is_refused(address))


def test_it_is_used_from_several_event_loops() -> None:
    """It can be started in one loop, and used, paused, restarted and closed from others."""
    server = EmbeddedServer(thread=True)
    run(server.start())
    address = server.address
    run(remember(server))
    assert run(server.role()) == "standalone"
    server.pause()
    server.resume()
    run(server.stop())
    run(server.start())
    assert server.address == address
    assert run(remembers(server))
    server.pause()
    run(server.kill())
    assert not server.running
    run(server.start())
    run(server.close())
    run(server.close())


async def test_sessions_are_expired_from_another_loop() -> None:
    """The client is notified as usual."""
    with (
        pytest.raises(UsageStateError, match="'with' would block the event loop"),
        EmbeddedServer(thread=True),
    ):
        pass
    async with EmbeddedServer(thread=True) as server, FrameClient(server.address) as client:
        session = await client.begin()
        assert session is not None
        await server.expire(session.session_id)
        assert await client.rest() == b""


async def test_leaving_with_inside_an_event_loop() -> None:
    """A server that was entered outside an event loop can be left inside one."""
    server = EmbeddedServer(thread=True)
    await asyncio.to_thread(server.__enter__)
    address = server.address
    server.__exit__(None, None, None)
    assert await is_refused(address)


def test_an_error_inside_with_passes_and_the_server_goes() -> None:
    """An error inside `with` is raised, and ends the server as usual."""
    server = EmbeddedServer(thread=True)
    with pytest.raises(ZeroDivisionError), server:
        raise ZeroDivisionError
    assert not server.running


def test_a_start_that_fails_leaves_no_thread() -> None:
    """However it was started, a failed start leaves no thread."""
    with EmbeddedServer(thread=True) as first:
        second = EmbeddedServer(thread=True, port=int(first.address.rpartition(":")[2]))
        with pytest.raises(ServerUnavailable):
            run(second.start())
        with pytest.raises(ServerUnavailable), second:
            pass
        assert len(threads()) == 1


def test_what_was_never_started_has_no_thread() -> None:
    """Ending a server that was never started starts no thread."""
    server = EmbeddedServer(thread=True)
    for end in (server.stop, server.kill, server.close):
        run(end())
        assert threads() == []


async def test_an_end_on_a_thread_that_is_cancelled() -> None:
    """At whatever point the end is cancelled, the server is down."""
    for end in (EmbeddedServer.stop, EmbeddedServer.kill, EmbeddedServer.close):
        for after in range(1, 4):
            async with EmbeddedServer(thread=True) as server:
                ending = asyncio.create_task(end(server))
                for _ in range(after):
                    await asyncio.sleep(0)
                ending.cancel()
                await asyncio.wait([ending])
                assert not server.running


async def test_a_start_on_a_thread_that_is_cancelled() -> None:
    """At whatever point start is cancelled, the server is down, and its thread is gone."""
    for after in range(4):
        server = EmbeddedServer(thread=True)
        starting = asyncio.create_task(server.start())
        for _ in range(after):
            await asyncio.sleep(0)
        starting.cancel()
        try:
            await starting
        except asyncio.CancelledError:
            assert not server.running
            assert server._process is not None or threads() == []
        await server.close()


async def test_a_start_on_a_thread_that_is_cancelled_too_late() -> None:
    """start is cancelled when the server is already up on its thread, before the event loop was notified."""
    server = EmbeddedServer(thread=True)
    starting = asyncio.create_task(server.start())
    await asyncio.sleep(0)
    while not server.running:
        time.sleep(0.001)  # not asyncio.sleep, in which the loop would be notified
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not server.running
    await server.close()


# In an event loop


@pytest.mark.parametrize("loops", ["asyncio", "uvloop", "virtual"])
def test_a_loop_that_is_closed_under_it(loops: str) -> None:
    """When its event loop is closed, the server is down, its port is free and its clients are disconnected.
    Another loop can start it with its data, or close it."""
    factories: dict[str, Loops] = {"asyncio": asyncio.new_event_loop, "virtual": VirtualLoop}
    if loops == "uvloop":
        factories["uvloop"] = pytest.importorskip("uvloop").new_event_loop
    loop = factories[loops]
    server = EmbeddedServer()

    async def start() -> None:
        await server.start()
        await remember(server)

    async def start_with_a_client() -> FrameClient:
        await server.start()
        assert await remembers(server)
        client = FrameClient(server.address)
        await client.__aenter__()
        assert await client.begin() is not None
        return client

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the closed loop leaves objects open
        run(start(), loop)
        assert not server.running
        client = run(start_with_a_client(), loop)
        assert not server.running
        run(server.kill(), loop)
        del client
        gc.collect()
        run(server.start(), loop)
        run(server.stop(), loop)
        run(server.close(), loop)
    assert repr(server).endswith(":0 down>")


def test_a_loop_of_another_thread_is_refused() -> None:
    """A server that runs in one loop may not be used from another; the error says what to do."""
    server = EmbeddedServer()
    with asyncio.Runner() as runner:
        runner.run(server.start())
        server.pause()  # its loop is idle, so this is allowed
        server.resume()
        for call in (server.stop, server.kill, server.close, server.role):
            with pytest.raises(UsageStateError, match=r"runs in another event loop.*thread=True"):
                run(call())
            assert server.running

        async def pause_elsewhere() -> None:
            await asyncio.to_thread(server.pause)

        with pytest.raises(UsageStateError, match="runs in another event loop"):
            runner.run(pause_elsewhere())
        runner.run(server.close())


# Warnings and output

SCRIPT = """
import asyncio, logging, corral
from corral.testing import EmbeddedServer

async def use(server):
    async with server, corral.connect(server.address, session_timeout=2) as zk:
        async with zk.lock("/lock"):
            server.pause()
            server.resume()
        await server.stop()
        await server.start()
        assert await zk.exists("/lock")
        await server.kill()
        await server.start()

# In development mode asyncio tells of slow callbacks, which any is on a busy machine.
logging.getLogger("asyncio").addFilter(lambda record: not record.getMessage().startswith("Executing "))
logging.getLogger("corral").setLevel(logging.ERROR)  # each server that goes is an outage
asyncio.run(use(EmbeddedServer()))
asyncio.run(use(EmbeddedServer(thread=True)))
with EmbeddedServer(thread=True) as server:
    pass
forgotten = EmbeddedServer(thread=True)
asyncio.run(forgotten.start())
"""


def test_python_has_nothing_to_say() -> None:
    """In development mode, with warnings as errors, a program that uses it prints nothing and ends at once,
    even if it forgets to close one on a thread."""
    source = Path(corral.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", SCRIPT],
        env={"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
