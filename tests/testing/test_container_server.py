"""ContainerServer: its configuration, waiting for it to serve, and its errors.

The tests that need a Docker daemon are at the end, and are skipped without one. They have not been run where
this file was written.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from raw_session import RawSession

from corral.errors import UsageStateError, UsageValueError
from corral.testing import ContainerServer, ServerUnavailable
from corral.testing.network import LOOPBACK
from corral.testing.servers import container
from corral.testing.servers.base import Settings
from corral.testing.servers.ports import free_ports

NO_DAEMON = "unix:///nonexistent/docker.sock"


class FakeDocker:
    """The methods of docker-py's container that ContainerServer calls, as docker-py documents them."""

    def __init__(self) -> None:
        self.status = "running"
        self.calls: list[str] = []

    def reload(self) -> None:
        pass

    def start(self) -> None:
        self.calls.append("start")
        self.status = "running"

    def stop(self) -> None:
        self.calls.append("stop")
        self.status = "exited"

    def kill(self) -> None:
        self.calls.append("kill")
        self.status = "exited"

    def pause(self) -> None:
        self.status = "paused"

    def unpause(self) -> None:
        self.status = "running"

    def logs(self) -> bytes:
        return b"the last words"


class FakeContainer:
    """The two methods of testcontainers' container that are called once it runs."""

    def __init__(self, docker: FakeDocker) -> None:
        self._docker = docker

    def get_wrapped_container(self) -> FakeDocker:
        return self._docker

    def stop(self) -> None:
        self._docker.calls.append("remove")


class SlowToServe:
    """A listener that answers ``srvr`` as ZooKeeper does; the first answer says that it does not serve
    yet."""

    def __init__(self) -> None:
        self.asked = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(4) == b"srvr"
        self.asked += 1
        if self.asked == 1:
            writer.write(b"This ZooKeeper instance is not currently serving requests\n")
        else:
            writer.write(b"Zookeeper version: 3.9.3\nZxid: 0x0\nMode: standalone\nNode count: 5\n")
        writer.close()


@pytest.fixture
def docker() -> FakeDocker:
    return FakeDocker()


@pytest.fixture
async def server(docker: FakeDocker) -> AsyncIterator[ContainerServer]:
    """A ContainerServer whose container exists already, and is a fake."""
    server = ContainerServer(start_timeout=10)
    adopt(server, docker, f"{LOOPBACK}:{free_ports(1)[0]}")
    yield server
    await server.close()
    assert docker.calls[-1] == "remove"


def adopt(server: ContainerServer, docker: FakeDocker, address: str) -> None:
    container: Any = FakeContainer(docker)
    server._container, server._address = container, address


def test_options_become_the_images_environment() -> None:
    """Options reach the official image's entry point through the environment variables that it documents."""
    environment = container.container_environment(
        Settings(tick_time=0.25, extra_config={"maxClientCnxns": "7"})
    )
    lines = environment["ZOO_CFG_EXTRA"].split()
    assert {"tickTime=250", "maxClientCnxns=7", "4lw.commands.whitelist=*"} <= set(lines)
    assert len(lines) == len({line.partition("=")[0] for line in lines})
    assert environment["SERVER_JVMFLAGS"] == "-Xmx256m -Dznode.container.checkIntervalMs=500"


def test_a_value_with_spaces_is_refused() -> None:
    """The image splits its configuration at spaces; a value with spaces is an error."""
    with pytest.raises(UsageValueError, match="spaces"):
        ContainerServer(extra_config={"a": "b c"})


async def test_no_package_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without testcontainers the error says what to install."""
    for name in list(sys.modules):
        if name.partition(".")[0] == "testcontainers":
            monkeypatch.delitem(sys.modules, name)
    real_import = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "testcontainers":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ServerUnavailable, match=r"pip install 'corral\[docker\]'"):
        await ContainerServer().start()


async def test_no_daemon_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a Docker daemon the error says so, and how to configure its address."""
    pytest.importorskip("testcontainers")
    monkeypatch.setenv("DOCKER_HOST", NO_DAEMON)
    with pytest.raises(ServerUnavailable, match="no Docker daemon answers; start one, or set DOCKER_HOST"):
        async with ContainerServer():
            raise AssertionError("there is no daemon")


async def test_it_waits_until_zookeeper_serves(server: ContainerServer, docker: FakeDocker) -> None:
    """start waits for a port that refuses connections, and for a ZooKeeper that does not serve yet."""
    slow = SlowToServe()
    starting = asyncio.create_task(server.start())
    host, _, port = server.address.rpartition(":")
    async with await asyncio.start_server(slow.answer, host, int(port)), asyncio.timeout(10):
        await starting
    assert slow.asked == 2
    assert docker.calls == ["start"]


async def test_a_container_that_ends_while_starting_tells_why(
    server: ContainerServer, docker: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the container ends, start fails, with the end of its log."""
    monkeypatch.setattr(docker, "start", lambda: setattr(docker, "status", "exited"))
    with pytest.raises(ServerUnavailable, match=r"ended while starting(?s:.)*the last words"):
        await server.start()


async def test_start_is_bounded(docker: FakeDocker) -> None:
    """A server that does not serve within `start_timeout` is killed."""
    server = ContainerServer(start_timeout=0)
    adopt(server, docker, f"{LOOPBACK}:{free_ports(1)[0]}")
    with pytest.raises(ServerUnavailable, match="did not serve within 0 s"):
        await server.start()
    assert docker.calls == ["start", "kill"]


async def test_a_cancelled_start_kills(server: ContainerServer, docker: FakeDocker) -> None:
    """If start is cancelled while the server comes up, the container ends."""
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    docker.start = lambda: loop.call_soon_threadsafe(started.set)  # type: ignore[method-assign,assignment]
    starting = asyncio.create_task(server.start())
    async with asyncio.timeout(10):
        await started.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert docker.calls == ["kill"]


async def test_cancelling_waits_for_docker() -> None:
    """A call to Docker that is in progress is awaited even if it is cancelled, once or twice, so that its
    result is known."""
    loop = asyncio.get_running_loop()
    began, finish, made = asyncio.Event(), asyncio.Event(), []

    def work() -> None:
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(finish.wait(), loop).result(10)
        made.append("container")

    async with asyncio.timeout(10):
        working = asyncio.create_task(container._in_thread(work))
        await began.wait()
        for _ in range(2):
            working.cancel()
            await asyncio.sleep(0)
        assert not working.done()
        finish.set()
        with pytest.raises(asyncio.CancelledError):
            await working
    assert made == ["container"]


async def test_stop_kill_pause_and_resume(server: ContainerServer, docker: FakeDocker) -> None:
    """Each method calls Docker's method of that name. A paused server is killed where others are stopped, and
    a server that is down is left alone."""
    server.pause()
    assert server.running
    assert docker.status == "paused"
    server.resume()
    assert docker.status == "running"
    await server.stop()
    assert not server.running
    await server.stop()
    await server.kill()
    docker.start()
    server.pause()
    await server.stop()
    assert docker.calls == ["stop", "start", "kill"]


async def test_calls_at_the_wrong_time_are_errors() -> None:
    """Before the first start there is no address and nothing to pause; it is not running, and stopping does
    nothing."""
    server = ContainerServer()
    with pytest.raises(UsageStateError, match="call start"):
        _ = server.address
    for call in (server.pause, server.resume):
        with pytest.raises(UsageStateError, match="not started"):
            call()
    assert not server.running
    await server.stop()
    await server.kill()
    await server.close()


async def test_a_real_container() -> None:
    """With Docker: it serves, keeps data and port across a restart, and is removed at the end."""
    pytest.importorskip("testcontainers")
    server = ContainerServer()
    try:
        await server.start()
    except ServerUnavailable as error:
        pytest.skip(f"not run: starting, restarting and removing a real container; {error}")
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(server.close)
        address = server.address
        async with RawSession(address) as session:
            assert await session.create("/kept") == 0
        await server.kill()
        await server.start()
        assert server.address == address
        async with RawSession(address) as session:
            assert await session.exists("/kept") == 0
