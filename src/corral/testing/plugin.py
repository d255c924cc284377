"""A pytest plugin for the tests of a service on ZooKeeper: a server, a client to look with, and faults.

    pytest_plugins = ["corral.testing.plugin"]  # in the topmost conftest.py

or ``pytest -p corral.testing.plugin``. There is no entry point: who does not ask for it does not import it.
Its fixtures:

===================  =======  ==============================================================================
``zookeeper``        session  the connect string of the server that the tests share
``zookeeper_root``   test     a znode of the test's own, removed afterwards: its path
``zookeeper_hosts``  test     for the service under test: through ``faults``, below ``zookeeper_root``
``faults``           test     the `FaultProxy` in front of the server, to break the service's network with
``zk``               test     a connected `corral.Client` below ``zookeeper_root``, which no fault concerns
===================  =======  ==============================================================================

``--zookeeper=embedded|docker|local|auto|HOSTS`` (or ``zookeeper = ...`` in pytest's configuration) says which
server: the embedded one (the default: nothing need be installed), a real one in Docker or on a local JVM, the
best that this machine has (the first that works of Docker, local and embedded), or one that runs already. The
terminal summary tells which it was, and what kept better ones away. If what was asked for cannot be had, the
tests that need it fail: none is skipped, and nothing else is taken in its place.

All but ``zookeeper`` are asynchronous and live in the event loop of their test. They need pytest-asyncio (1.1
or later, in either mode) or anyio's plugin with asyncio. In a `VirtualLoop`, which has no real network, each
test gets an embedded server of its own in its loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import sys
import uuid
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
from typing import Any, TypeVar

import pytest

import corral
from corral.errors import CorralError, UsageError
from corral.session.hosts import Hosts, parse
from corral.testing.embedded import EmbeddedServer
from corral.testing.event_loop import running_loop
from corral.testing.network.proxy import FaultProxy
from corral.testing.servers.base import Server, ServerUnavailable
from corral.testing.servers.container import ContainerServer
from corral.testing.servers.local import LocalServer
from corral.testing.virtual.loop import VirtualLoop

__all__ = ["faults", "zk", "zookeeper", "zookeeper_hosts", "zookeeper_root"]

T = TypeVar("T")

_CHOICES = "embedded|docker|local|auto|HOSTS"
_KINDS: Mapping[str, Callable[[], Server]] = {
    "docker": ContainerServer,
    "local": LocalServer,
    "embedded": functools.partial(EmbeddedServer, thread=True),
}
"""In the order of `auto`."""

_REACH_TIMEOUT = 15.0
"""Seconds within which HOSTS must answer; what was started beside the tests may need some."""

_told: pytest.StashKey[list[str]] = pytest.StashKey()
"""What the summary tells of the servers that tests ran on."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let users choose."""
    parser.getgroup("zookeeper", "ZooKeeper, by corral").addoption(
        "--zookeeper",
        metavar=_CHOICES,
        help="the ZooKeeper to test on: embedded in this process, in Docker, on a local JVM, the first that "
        "works of docker, local and embedded (auto), or one that runs already, as host:port,host:port/chroot",
    )
    parser.addini("zookeeper", "the default of --zookeeper", default="embedded")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse what is no choice before any test runs."""
    choice = _choice(config)
    if ":" in choice:
        try:
            parse(choice)
        except UsageError as error:
            raise pytest.UsageError(f"--zookeeper={choice}: {error}") from error
    elif choice != "auto" and choice not in _KINDS:
        raise pytest.UsageError(
            f"--zookeeper={choice}: it is one of {_CHOICES}, where HOSTS has the port, as in localhost:2181"
        )
    config.stash[_told] = []


def pytest_sessionfinish(session: pytest.Session) -> None:
    """As a worker of pytest-xdist, hand what is to be told to whom it is told by."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[__name__] = session.config.stash[_told]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    """A worker of pytest-xdist has ended; one that crashed tells nothing."""
    node.config.stash[_told].extend(getattr(node, "workeroutput", {}).get(__name__, ()))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say which server it was, or which ones."""
    told = config.stash[_told]
    for line in dict.fromkeys(told):
        terminalreporter.write_line(f"ZooKeeper: {line}")


def _choice(config: pytest.Config) -> str:
    return str(config.getoption("--zookeeper") or config.getini("zookeeper"))


# The server


@pytest.fixture(scope="session")
def zookeeper(pytestconfig: pytest.Config) -> Iterator[str]:
    """The connect string of the server that the tests share: ``host:port``, or the HOSTS asked for."""
    choice = _choice(pytestconfig)
    if ":" in choice:
        given = str(parse(choice))
        _reach(given, choice)
        pytestconfig.stash[_told].append(f"{given}, as asked for")
        yield given
        return
    kinds = _KINDS if choice == "auto" else {choice: _KINDS[choice]}
    missing = []
    for name, make in kinds.items():
        server = make()
        try:
            _run(server.start())
        except ServerUnavailable as error:
            missing.append(f"{name}: {error}")
            _collect_sockets()
            continue
        try:
            pytestconfig.stash[_told].append("; ".join([*missing, f"{name}: {server!r}"]))
            yield server.address
        finally:
            _run(server.close())
        return
    pytest.fail(f"--zookeeper={choice}: no ZooKeeper to test on: {'; '.join(missing)}", pytrace=False)


def _reach(hosts: str, choice: str) -> None:
    """Fail at once, and not in each test again, if nobody is there."""

    async def reach() -> None:
        async with corral.connect(hosts, connect_timeout=_REACH_TIMEOUT) as client:
            await client.children("/")

    try:
        _run(reach())
    except CorralError as error:
        pytest.fail(f"--zookeeper={choice}: no ZooKeeper to test on: {error}", pytrace=False)


def _run(job: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine of a fixture of the session in a loop of its own; the thread's is left as it was."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(job)


def _collect_sockets() -> None:
    """Docker's client leaves its socket open when nobody answers; no test is to be blamed for that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


# What is there for one test


@pytest.fixture
async def _servers(zookeeper: str, pytestconfig: pytest.Config) -> AsyncIterator[Hosts]:
    """The servers of this test, straight."""
    if not isinstance(running_loop(), VirtualLoop):
        yield parse(zookeeper)
        return
    pytestconfig.stash[_told].append("in virtual time: embedded, one for each test in its event loop")
    async with EmbeddedServer() as own:
        yield parse(own.address)


@pytest.fixture
async def zookeeper_root(_servers: Hosts) -> AsyncIterator[str]:
    """The path of a znode of the test's own, as seen by whoever connects to `zookeeper`. It is removed after
    the test with all that is below it."""
    path = f"/test-{uuid.uuid4().hex[:12]}"
    async with corral.connect(str(_servers)) as client:
        await client.create(path)
    yield path
    async with corral.connect(str(_servers)) as client:
        with contextlib.suppress(corral.NoNode):
            await client.delete(path, recursive=True)


@pytest.fixture
async def faults(_servers: Hosts) -> AsyncIterator[FaultProxy]:
    """The proxy that the service under test connects through, by `zookeeper_hosts`; of several HOSTS it leads
    to the first. It breaks nothing until it is told to."""
    async with FaultProxy(str(_servers.servers[0])) as proxy:
        yield proxy


@pytest.fixture
def zookeeper_hosts(_servers: Hosts, faults: FaultProxy, zookeeper_root: str) -> str:
    """The connect string for the service under test: through `faults`, `zookeeper_root` is its chroot."""
    return f"{faults.address}{_servers.chroot}{zookeeper_root}"


@pytest.fixture
async def zk(_servers: Hosts, zookeeper_root: str) -> AsyncIterator[corral.Client]:
    """A connected client of the test's own, below `zookeeper_root`: the independent observer. It does not go
    through `faults`."""
    async with corral.connect(f"{_servers}{zookeeper_root}") as client:
        yield client


# Who runs asynchronous fixtures


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> Generator[None, Any, Any]:
    """Hand the asynchronous fixtures of this module to the plugin that runs the test, in the test's loop.

    anyio takes the asynchronous fixtures of a test that has `anyio_backend`. pytest-asyncio, in strict mode,
    takes those that its decorator has marked, and takes them from anyio too if it is asked first. So they are
    marked here, for each test that is not anyio's, and with the scope of the test's loop.
    """
    function = inspect.unwrap(fixturedef.func)
    if function.__module__ == __name__ and inspect.isasyncgenfunction(function):
        plugin = sys.modules.get("pytest_asyncio.plugin")
        by_anyio = "anyio_backend" in request.fixturenames
        if by_anyio or plugin is None or not request.config.pluginmanager.is_registered(plugin):
            fixturedef.func = function
        else:
            fixturedef.func = _marked_for_pytest_asyncio(function, request)
    return (yield)


def _marked_for_pytest_asyncio(
    function: Callable[..., AsyncIterator[Any]], request: pytest.FixtureRequest
) -> Callable[..., AsyncIterator[Any]]:
    """A twin of an asynchronous fixture, marked as `pytest_asyncio.fixture` marks what it decorates."""
    import pytest_asyncio  # here alone: others do without it
    from pytest_asyncio import plugin

    if not hasattr(plugin, "pytest_fixture_setup"):  # 1.0 looks for the mark before, at the collection
        pytest.fail(f"pytest-asyncio {pytest_asyncio.__version__} is too old; it must be 1.1 or later", False)

    @functools.wraps(function)
    async def twin(**others: Any) -> AsyncIterator[Any]:
        async with contextlib.asynccontextmanager(function)(**others) as value:
            yield value

    marker = request.node.get_closest_marker("asyncio")
    scope = marker.kwargs.get("loop_scope") if marker is not None else None
    scope = scope or request.config.getini("asyncio_default_test_loop_scope")
    pytest_asyncio.fixture(twin, loop_scope=scope)
    return twin
