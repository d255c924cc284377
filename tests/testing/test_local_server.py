"""LocalServer, with one real ZooKeeper process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from raw_session import NO_NODE, RawSession

import corral
from corral.errors import UsageStateError
from corral.testing import LocalServer, ServerUnavailable
from corral.testing.servers import jvm, local, process
from corral.testing.servers.ports import free_ports

pytestmark = pytest.mark.usefixtures("real_servers")

SRC = Path(corral.__file__).parents[1]


def is_there(pid: int) -> bool:
    """Whether a child process of ours exists; one that is dead and not reaped counts."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def run_until_launched(work: Coroutine[Any, Any, None], server: LocalServer) -> asyncio.Task[None]:
    """Start a task and stop at its first wait: the JVM is started, and cannot serve yet."""
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    assert server.running
    return task


async def test_it_serves_when_start_returns() -> None:
    """After entering, the server serves at its address as a standalone one; after leaving it is gone."""
    async with LocalServer() as server:
        pid = server.pid
        assert pid is not None
        assert server.running
        assert await server.role() == "standalone"
        assert (await server.four_letter_word("ruok")) == "imok"
        async with RawSession(server.address) as session:
            assert await session.create("/a") == 0
    assert not server.running
    assert server.pid is None
    assert not is_there(pid)


async def test_a_killed_server_refuses_connections() -> None:
    """When kill returns, the process is dead and its port refuses connections; killing it again does
    nothing."""
    async with LocalServer() as server:
        await server.kill()
        assert not server.running
        with pytest.raises(ConnectionRefusedError):
            await server.four_letter_word("ruok")
        assert await server.role() is None
        await server.kill()
        await server.stop()


@pytest.mark.parametrize("end", [LocalServer.stop, LocalServer.kill], ids=["stop", "kill"])
async def test_a_restart_keeps_data_and_port(end: Callable[[LocalServer], Coroutine[Any, Any, None]]) -> None:
    """What was written before a stop, or a kill, is there after the next start."""
    async with LocalServer() as server:
        address = server.address
        async with RawSession(address) as session:
            assert await session.create("/kept") == 0
        await end(server)
        await server.start()
        assert server.address == address
        async with RawSession(address) as session:
            assert await session.exists("/kept") == 0


async def test_stop_ends_connections() -> None:
    """A client of a server that is stopped sees the end of its connection."""
    async with LocalServer() as server:
        async with RawSession(server.address) as session:
            await server.stop()
            assert await session.read_end() == b""


async def test_wipe_empties_a_stopped_server() -> None:
    """After wipe the server starts with an empty tree; wiping a running server is refused."""
    async with LocalServer() as server:
        async with RawSession(server.address) as session:
            assert await session.create("/lost") == 0
        with pytest.raises(UsageStateError, match="stop\\(\\) it"):
            server.wipe()
        await server.stop()
        server.wipe()
        await server.start()
        async with RawSession(server.address) as session:
            assert await session.exists("/lost") == NO_NODE


async def test_a_paused_server_answers_after_resume() -> None:
    """While it is paused none of its threads run. A connection is accepted, and its request is answered after
    resume."""
    async with LocalServer() as server:
        host, _, port = server.address.rpartition(":")
        for _ in range(2):  # a second pause has no further effect
            server.pause()
            assert server.paused
            assert server.running
            if sys.platform == "linux":
                threads = Path(f"/proc/{server.pid}/task").glob("*/stat")
                assert {stat.read_text().rpartition(") ")[2][0] for stat in threads} == {"T"}
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"ruok")
            server.resume()
            async with asyncio.timeout(10):
                assert await reader.read() == b"imok"
            writer.close()


async def test_a_paused_server_has_no_role() -> None:
    """A server that does not answer has no role; asking for it is bounded."""
    async with LocalServer() as server:
        server.pause()
        assert await server.role(timeout=0.1) is None
        with pytest.raises(TimeoutError):
            await server.four_letter_word("ruok", timeout=0.1)


@pytest.mark.parametrize(
    "end", [LocalServer.stop, LocalServer.kill, LocalServer.close], ids=["stop", "kill", "close"]
)
async def test_a_paused_server_can_be_ended(end: Callable[[LocalServer], Coroutine[Any, Any, None]]) -> None:
    """Every way to end a server also ends a paused one."""
    async with LocalServer() as server:
        pid = server.pid
        assert pid is not None
        server.pause()
        await end(server)
        assert not server.running
        assert not server.paused
        assert not is_there(pid)


async def test_a_cancelled_start_leaves_no_process() -> None:
    """Cancelling start while the JVM comes up kills the JVM; the server can be started later."""
    server = LocalServer()
    try:
        starting = await run_until_launched(server.start(), server)
        pid = server.pid
        assert pid is not None
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert not server.running
        assert not is_there(pid)
        await server.start()
        assert await server.role() == "standalone"
    finally:
        await server.close()


async def test_a_cancelled_enter_leaves_no_process_and_no_files() -> None:
    """Cancelling `async with` while it enters removes the data directory as well."""
    server = LocalServer()

    async def use() -> None:
        async with server:
            raise AssertionError("it cannot have come up so soon")

    using = await run_until_launched(use(), server)
    pid, directory = server.pid, server._process.directory
    assert pid is not None
    assert directory is not None
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await using
    assert not is_there(pid)
    assert not directory.exists()


async def test_a_cancelled_stop_kills() -> None:
    """Cancelling stop while the server shuts down leaves it dead."""
    async with LocalServer() as server:
        pid = server.pid
        assert pid is not None
        server.pause()
        server._process.paused = False  # so that stop waits for a process that does not act on SIGTERM
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        assert server.running
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert not is_there(pid)


async def test_stop_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not act on SIGTERM is killed."""
    monkeypatch.setattr(process, "_STOP_TIMEOUT", 0.0)
    async with LocalServer() as server:
        server.pause()
        server._process.paused = False
        await server.stop()
        assert not server.running


async def test_a_server_that_ends_while_starting_tells_why() -> None:
    """If the JVM exits, start raises an error with the exit status and the end of its log."""
    server = LocalServer(extra_config={"tickTime": "often"})
    with pytest.raises(ServerUnavailable, match=r'ended with status \d+ while starting(?s:.)*"often"'):
        await server.start()
    assert not server.running
    assert "often" in server.log  # the log stays available
    await server.close()
    assert server.log == ""


async def test_start_is_bounded() -> None:
    """A server that does not serve within `start_timeout` is killed, and the error has its log."""
    server = LocalServer(start_timeout=0)
    with pytest.raises(ServerUnavailable, match="did not serve within 0 s; the end of its log"):
        await server.start()
    assert not server.running
    await server.close()


@pytest.mark.parametrize("java", ["/nonexistent", "no-such-java"])
async def test_no_java_is_a_clear_error(java: str) -> None:
    """Without Java, a one-line error says what to install."""
    server = LocalServer(java=java)
    with pytest.raises(ServerUnavailable) as caught:
        await server.start()
    await server.close()
    assert java in str(caught.value)
    assert "apt-get install -y --no-install-recommends zookeeper" in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_no_jars_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ZooKeeper's jars, a one-line error says where they were looked for and what to install."""
    monkeypatch.delenv("CORRAL_ZOOKEEPER_CLASSPATH", raising=False)
    monkeypatch.delenv("ZOOKEEPER_HOME", raising=False)
    monkeypatch.setattr(jvm, "_DEBIAN_JARS", tmp_path)
    server = LocalServer()
    with pytest.raises(ServerUnavailable) as caught:
        await server.start()
    await server.close()
    assert str(tmp_path) in str(caught.value)
    assert "apt-get install -y --no-install-recommends zookeeper" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_class_path_is_found_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's class path is tried first, then Debian's jars, then an unpacked Apache release."""
    home, debian = tmp_path / "apache-zookeeper", tmp_path / "debian"
    for jar in (home / "lib/zookeeper-3.9.3.jar", debian / "zookeeper.jar", debian / "slf4j-simple.jar"):
        jar.parent.mkdir(parents=True, exist_ok=True)
        jar.touch()
    monkeypatch.setattr(jvm, "_DEBIAN_JARS", debian)
    monkeypatch.setenv("ZOOKEEPER_HOME", str(home))
    monkeypatch.setenv("CORRAL_ZOOKEEPER_CLASSPATH", "/mine/*")
    assert jvm.find_classpath() == "/mine/*"
    monkeypatch.delenv("CORRAL_ZOOKEEPER_CLASSPATH")
    names = ("zookeeper", "slf4j-simple", "netty-codec", "netty-resolver")
    assert jvm.find_classpath() == ":".join(f"{debian}/{name}.jar" for name in names)
    (debian / "zookeeper.jar").unlink()
    assert jvm.find_classpath() == f"{home}/conf:{home}/lib/*"


async def test_an_archive_of_classes_is_a_help_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server starts with an archive that is none, or is not there."""
    archive = tmp_path / "classes"
    archive.write_bytes(b"none")
    for path in (archive, tmp_path / "missing"):
        monkeypatch.setenv("CORRAL_ZOOKEEPER_CLASSES", str(path))
        async with LocalServer() as server:
            assert await server.role() == "standalone"


async def test_options_reach_the_server() -> None:
    """Times are given in seconds; extra_config takes precedence; system properties reach the JVM."""
    server = LocalServer(
        tick_time=0.25,
        min_session_timeout=0.75,
        max_session_timeout=40,
        jute_maxbuffer=54321,
        extra_config={"maxClientCnxns": "7"},
        java_properties={"corral.test": "here"},
    )
    async with server:
        conf = await server.four_letter_word("conf")
        assert "tickTime=250\n" in conf
        assert "minSessionTimeout=750\n" in conf
        assert "maxSessionTimeout=40000\n" in conf
        assert "maxClientCnxns=7\n" in conf
        command = Path(f"/proc/{server.pid}/cmdline")
        if command.exists():
            arguments = command.read_text().split("\0")
            assert {"-Djute.maxbuffer=54321", "-Dcorral.test=here", "-Xmx256m"} <= set(arguments)


@pytest.mark.parametrize("loops", ["asyncio", "uvloop"])
def test_a_server_outlives_its_event_loop(loops: str) -> None:
    """A server started in one event loop can be used, stopped, restarted and closed from others."""
    factory = pytest.importorskip("uvloop").new_event_loop if loops == "uvloop" else asyncio.new_event_loop
    server = LocalServer()

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(work)

    try:
        run(server.start())
        assert run(server.role()) == "standalone"
        run(server.stop())
        run(server.start())
        server.pause()
        run(server.kill())
        assert not server.running
    finally:
        run(server.close())


@pytest.mark.parametrize("taken_by", ["a listener", "a ZooKeeper"])
async def test_a_port_that_was_taken_meanwhile(taken_by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another process takes the port before the server binds it, another port is tried. A ZooKeeper that
    answers there is not taken for ours."""
    async with contextlib.AsyncExitStack() as stack:
        if taken_by == "a ZooKeeper":
            taken = int((await stack.enter_async_context(LocalServer())).address.rpartition(":")[2])
        else:
            listener = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
            await stack.enter_async_context(listener)
            taken = listener.sockets[0].getsockname()[1]
        choices = iter([[taken], free_ports(1)])
        monkeypatch.setattr(local, "free_ports", lambda count: next(choices))
        server = await stack.enter_async_context(LocalServer())
        assert not server.address.endswith(f":{taken}")
        assert await server.role() == "standalone"


async def test_a_restart_never_changes_the_port() -> None:
    """Clients know the port: if it is taken when the server is started again, that is an error."""
    async with LocalServer() as server:
        await server.stop()
        host, _, port = server.address.rpartition(":")
        async with await asyncio.start_server(lambda reader, writer: writer.close(), host, int(port)):
            with pytest.raises(ServerUnavailable, match="found a port in use"):
                await server.start()
            assert not server.running
        await server.start()


async def test_calls_at_the_wrong_time_are_errors() -> None:
    """A call that the server's state does not allow raises UsageStateError and says what to do."""
    server = LocalServer()
    with pytest.raises(UsageStateError, match="call start"):
        _ = server.address
    for call in (server.pause, server.resume):
        with pytest.raises(UsageStateError, match="does not run"):
            call()
    async with server:
        with pytest.raises(UsageStateError, match="runs already"):
            await server.start()
        assert server.running


async def test_close_removes_everything_and_may_be_repeated() -> None:
    """close removes the files; a closed server can be started again, as a new one."""
    server = LocalServer()
    await server.close()
    await server.start()
    directory = server._process.directory
    assert directory is not None
    assert directory.exists()
    await server.close()
    await server.close()
    assert not directory.exists()
    async with server:
        assert await server.role() == "standalone"


@pytest.mark.parametrize("ending", ["exit", "killed"])
async def test_a_forgotten_server_dies_with_its_process(ending: str, tmp_path: Path) -> None:
    """A server that was not closed ends when the interpreter exits, and when the interpreter is killed.

    On exit its data is removed, too; a process that was killed cannot do that.
    """
    if ending == "killed" and not jvm.setpriv():
        pytest.skip("only util-linux's setpriv has the kernel kill a server whose parent was killed")
    script = (
        "import asyncio, sys; from corral.testing import LocalServer\n"
        "server = LocalServer(); asyncio.run(server.start())\n"
        "print(server.address, flush=True); sys.stdin.read()\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SRC), "TMPDIR": str(tmp_path)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            host, _, port = (await process.stdout.readline()).decode().strip().rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            if ending == "killed":
                process.send_signal(signal.SIGKILL)
            process.stdin.close()
            with contextlib.suppress(ConnectionResetError):  # if it had not accepted us yet
                assert await reader.read() == b""  # the server ends the connection
            writer.close()
            await process.wait()
        assert len(list(tmp_path.glob("corral-*"))) == (0 if ending == "exit" else 1)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_free_ports_lie_outside_the_ephemeral_range() -> None:
    """Ports are distinct, and outside the range that the kernel uses for outgoing connections."""
    ports = free_ports(9)
    assert len(set(ports)) == 9
    ephemeral = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if ephemeral.exists():
        lowest = int(ephemeral.read_text().split()[0])
        assert max(ports) < lowest or lowest < 12_000
