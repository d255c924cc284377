"""Clients of the ZooKeeper under test, and what every test is checked for apart from its own subject.

corral's own plugin provides the server that most tests share, chosen by `--zookeeper`. The default is `auto`
(see pyproject.toml), since every promise is tested on a real server. A test that kills, pauses or restarts
its server gets its own from `make_server`. A test of real servers uses `real_servers`, and is skipped, with
the reason, where there are none.

With `--loop=virtual` the same tests run in virtual time, with no real socket, each on its own embedded
server. Tests of threads, processes or the kernel's sockets use `real_time`, and run as usual.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import hypothesis
import pytest

import corral
from corral.session.hosts import Hosts
from corral.testing import EmbeddedServer, FaultProxy, LocalEnsemble, LocalServer, Server, VirtualLoop
from support import started

pytest_plugins = ["corral.testing.plugin", "sampling", "tls_support"]

SESSION_TIMEOUT = 4.0
"""The session timeout of tests that do not test it; short, since some wait for a session to end."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--loop",
        default="asyncio",
        choices=list(LOOPS),
        help="the event loop: asyncio's, that with eager tasks (Python 3.12), uvloop, or corral's with virtual time "
        "(default: asyncio)",
    )


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    name: str = config.getoption("--loop")
    if name == "virtual" and not {"real_time", "real_servers"}.isdisjoint(item.fixturenames):  # type: ignore[attr-defined]
        name = "asyncio"
    return {name: LOOPS[name]}


def _no_real_servers(config: pytest.Config) -> str | None:
    """The reason why no test may start a real server of its own, if there is one."""
    if (config.getoption("--zookeeper") or config.getini("zookeeper")) == "embedded":
        return "this run is on the embedded one"
    return LocalServer.missing()


def _eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]  # since 3.12
    return loop


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "eager": _eager_loop,
    "uvloop": _uvloop,
    "virtual": VirtualLoop,
}


def pytest_report_header(config: pytest.Config) -> str:
    return f"event loop: {config.getoption('--loop')}"


# On a busy machine the duration of an example means nothing. Where only a part of the points is tried, fewer
# examples are: other ones in each run.
hypothesis.settings.register_profile("all", deadline=None)
hypothesis.settings.register_profile("part", deadline=None, max_examples=30)


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.load_profile("all" if config.option.points == "all" else "part")


@pytest.fixture(scope="session")
def real_servers(pytestconfig: pytest.Config) -> None:
    """Used by tests that start real servers of their own."""
    if reason := _no_real_servers(pytestconfig):
        pytest.skip(f"about real servers: {reason}")


@pytest.fixture(scope="session")
def real_time() -> None:
    """Used by tests of threads, processes or the kernel's sockets: they never run in virtual time."""


@pytest.fixture(scope="session")
def ensemble(real_servers: None) -> Iterator[LocalEnsemble]:
    """Three local servers, for tests that repair everything that they break."""
    with started(LocalEnsemble(3)) as servers:
        yield servers


@pytest.fixture
def make_server(pytestconfig: pytest.Config) -> Callable[..., Server]:
    """Makes a server of the test's own, of the kind under test, with options that both kinds have.

    It is a local one if the shared server is in Docker, or external, since it must be paused and killed
    quickly.
    """
    is_embedded = _no_real_servers(pytestconfig) is not None

    def make(**options: Any) -> Server:
        if is_embedded:
            return EmbeddedServer(thread=not _is_virtual(), **options)
        return LocalServer(**options)

    return make


def _is_virtual() -> bool:
    return isinstance(asyncio.get_running_loop(), VirtualLoop)


@pytest.fixture
def root(zookeeper_root: str) -> str:
    """A znode of the test's own on the server, deleted when the test ends."""
    return zookeeper_root


@pytest.fixture
def server_address(_servers: Hosts) -> str:
    """The address of the server without a proxy: the shared one, or in virtual time the test's own."""
    return str(_servers)


@pytest.fixture
def connect(server_address: str, root: str) -> Callable[..., corral.Client]:
    """`corral.connect` to the server, below the test's own znode; `to=` is for another address."""

    def make(to: str = server_address, **options: Any) -> corral.Client:
        return corral.connect(f"{to}{root}", **{"session_timeout": SESSION_TIMEOUT, **options})

    return make


@pytest.fixture
async def zk(connect: Callable[..., corral.Client]) -> AsyncIterator[corral.Client]:
    """A client on the shared server, below the test's own znode."""
    async with connect() as client:
        yield client


@pytest.fixture
async def other(connect: Callable[..., corral.Client]) -> AsyncIterator[corral.Client]:
    """A second client, with its own session: an independent observer."""
    async with connect() as client:
        yield client


@pytest.fixture
def proxy(faults: FaultProxy) -> FaultProxy:
    """A proxy in front of the shared server, for breaking connections."""
    return faults


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> None:
    """No test leaves a task, or an exception that only the event loop has seen.

    A test that is no coroutine gets no event loop for it: that takes longer than most of them.
    """
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("nothing_left_in_the_loop")


@pytest.fixture
async def nothing_left_in_the_loop() -> AsyncIterator[None]:
    """What `nothing_left` checks."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    before = asyncio.all_tasks()
    gc.freeze()  # existing objects are not examined after each test
    yield
    gc.collect()  # for "exception was never retrieved", which is logged when a future is collected
    await asyncio.sleep(0)
    left = [
        task
        for task in asyncio.all_tasks() - before
        if not task.done() and task is not asyncio.current_task()
    ]
    assert not left, f"tasks left behind: {left}"
    assert not complaints, f"errors that only the event loop saw: {complaints}"
