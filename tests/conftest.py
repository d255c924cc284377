"""Which ZooKeeper the tests run on, clients on it, and what every test is held to beside its own promise.

`--zookeeper` chooses the server that most tests share: `docker`, `local` (Debian's jars on a local JVM),
`embedded`, a connect string of one that runs already, or `auto`, the first of docker and local that works; the
summary says which it was. Tests that kill, pause or wipe servers start local ones of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import uuid
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pytest

import corral
from corral.testing import (
    ContainerServer,
    EmbeddedServer,
    FaultProxy,
    LocalEnsemble,
    LocalServer,
    Server,
    ServerUnavailable,
)

SESSION_TIMEOUT = 4.0
"""What tests ask for unless they are about it; short, as some wait for a session to end."""

_chosen = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--zookeeper",
        default="auto",
        metavar="auto|docker|local|embedded|HOSTS",
        help="the ZooKeeper to test on (default: auto, the first of docker and local that works)",
    )
    parser.addoption(
        "--loop",
        default="asyncio",
        choices=["asyncio", "eager", "uvloop"],
        help="the event loop: asyncio's, that with eager tasks (Python 3.12), or uvloop (default: asyncio)",
    )


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    name: str = config.getoption("--loop")
    return {name: {"asyncio": asyncio.new_event_loop, "eager": _eager_loop, "uvloop": _uvloop}[name]}


def _eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]  # since 3.12
    return loop


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


def pytest_report_header(config: pytest.Config) -> str:
    return f"event loop: {config.getoption('--loop')}"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if chosen := config.stash.get(_chosen, None):
        terminalreporter.write_line(f"ZooKeeper: {chosen}")


@pytest.fixture(scope="session")
def zookeeper(request: pytest.FixtureRequest) -> Iterator[str]:
    """The host:port of the server that tests share."""
    choice: str = request.config.getoption("--zookeeper")
    if ":" in choice:
        request.config.stash[_chosen] = f"{choice}, as asked for"
        yield choice
        return
    kinds: dict[str, Callable[[], Server]] = {
        "docker": ContainerServer,
        "local": LocalServer,
        "embedded": functools.partial(EmbeddedServer, thread=True),
    }
    if choice != "auto" and choice not in kinds:
        raise pytest.UsageError(f"--zookeeper={choice}: not auto, docker, local, embedded or host:port")
    missing = []
    for name, make in kinds.items():
        if choice != name and (choice != "auto" or name == "embedded"):
            continue
        server = make()
        try:
            asyncio.run(server.start())
        except ServerUnavailable as error:
            missing.append(f"{name}: {error}")
            with warnings.catch_warnings():  # docker's client leaves its socket open when nobody answers
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()
            continue
        try:
            request.config.stash[_chosen] = "; ".join([*missing, f"{name}: {server!r}"])
            yield server.address
        finally:
            asyncio.run(server.close())
        return
    pytest.fail("no ZooKeeper to test on: " + "; ".join(missing), pytrace=False)


@pytest.fixture(scope="session")
def ensemble() -> Iterator[LocalEnsemble]:
    """Three local servers, for tests that do not break more than they mend."""
    servers = LocalEnsemble(3)
    asyncio.run(servers.start())
    try:
        yield servers
    finally:
        asyncio.run(servers.close())


@pytest.fixture
async def root(zookeeper: str) -> AsyncIterator[str]:
    """A znode of the test's own on the shared server, gone when it ends."""
    path = f"/test-{uuid.uuid4().hex[:12]}"
    async with corral.connect(zookeeper) as zk:
        await zk.create(path)
    yield path
    async with corral.connect(zookeeper) as zk:
        with contextlib.suppress(corral.NoNode):
            await zk.delete(path, recursive=True)


@pytest.fixture
def connect(zookeeper: str, root: str) -> Callable[..., corral.Client]:
    """`corral.connect` to the shared server, below the test's own znode; `to=` for another address."""

    def make(to: str = zookeeper, **options: Any) -> corral.Client:
        return corral.connect(f"{to}{root}", **{"session_timeout": SESSION_TIMEOUT, **options})

    return make


@pytest.fixture
async def zk(connect: Callable[..., corral.Client]) -> AsyncIterator[corral.Client]:
    """A client on the shared server, below the test's own znode."""
    async with connect() as client:
        yield client


@pytest.fixture
async def other(connect: Callable[..., corral.Client]) -> AsyncIterator[corral.Client]:
    """A second client, with a session of its own: the independent observer."""
    async with connect() as client:
        yield client


@pytest.fixture
async def proxy(zookeeper: str) -> AsyncIterator[FaultProxy]:
    """A proxy before the shared server, to break connections with."""
    async with FaultProxy(zookeeper) as between:
        yield between


@pytest.fixture(autouse=True)
async def nothing_left(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Every test ends without a task left behind, and without an error that only the event loop saw."""
    if not inspect.iscoroutinefunction(request.function):
        yield  # nothing asynchronous ran; and collecting garbage after thousands of pure tests takes minutes
        return
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    before = asyncio.all_tasks()
    yield
    gc.collect()  # for "exception was never retrieved", which is said when a future goes
    await asyncio.sleep(0)
    left = [
        task
        for task in asyncio.all_tasks() - before
        if not task.done() and task is not asyncio.current_task()
    ]
    assert not left, f"tasks left behind: {left}"
    assert not complaints, f"errors that only the event loop saw: {complaints}"
