"""A pytest plugin for testing services on ZooKeeper: a server, a client to observe with, and faults.

    pytest_plugins = ["corral.testing.plugin"]  # in the topmost conftest.py

or ``pytest -p corral.testing.plugin``. There is no entry point, so it is imported only where it is used. Its
fixtures:

===================  =======  ==============================================================================
``zookeeper``        session  the connect string of the server that the tests share
``zookeeper_root``   test     the path of a znode that belongs to this test; it is removed afterwards
``zookeeper_hosts``  test     the connect string for the service under test: through ``faults``, with a chroot
``faults``           test     the `FaultProxy` in front of the server, which breaks the service's network
``zk``               test     a connected `corral.Client` with the same chroot, which no fault affects
===================  =======  ==============================================================================

``--zookeeper=embedded|docker|local|auto|HOSTS`` (or ``zookeeper = ...`` in pytest's configuration) chooses
the server: the embedded one (the default, which needs no installation), a real one in Docker or on a local
JVM, the first of docker, local and embedded that works (auto), or one that runs already. The terminal summary
names the server that was used and, with auto, why others could not be used. If the chosen server is not
available, the tests that need it fail; they are not skipped, and no other server is used instead.

All fixtures but ``zookeeper`` are asynchronous and live in the event loop of their test. They need
pytest-asyncio (1.1 or later, in either mode) or anyio's plugin with asyncio. In a `VirtualLoop`, which has no
real network, each test gets an embedded server of its own in its loop.
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
"""In the order in which `auto` tries them."""

_REACH_TIMEOUT = 15.0
"""Seconds within which HOSTS must answer; a server that was started along with the tests may need some."""

_summary: pytest.StashKey[list[str]] = pytest.StashKey()
"""The lines of the terminal summary: the servers that tests ran on."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option and the setting that choose the server."""
    parser.getgroup("zookeeper", "ZooKeeper, by corral").addoption(
        "--zookeeper",
        metavar=_CHOICES,
        help="the ZooKeeper to test on: embedded in this process, in Docker, on a local JVM, the first of "
        "docker, local and embedded that works (auto), or one that runs already, as "
        "host:port,host:port/chroot",
    )
    parser.addini("zookeeper", "the default of --zookeeper", default="embedded")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse an invalid choice before any test runs."""
    choice = _choice(config)
    if ":" in choice:
        try:
            parse(choice)
        except UsageError as error:
            raise pytest.UsageError(f"--zookeeper={choice}: {error}") from error
    elif choice != "auto" and choice not in _KINDS:
        raise pytest.UsageError(
            f"--zookeeper={choice}: choose one of {_CHOICES}, where HOSTS has the port, as in localhost:2181"
        )
    config.stash[_summary] = []


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a worker of pytest-xdist, send the summary to the controller, which prints it."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[__name__] = session.config.stash[_summary]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    """Collect the summary of a pytest-xdist worker that has ended; one that crashed has none."""
    node.config.stash[_summary].extend(getattr(node, "workeroutput", {}).get(__name__, ()))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print which servers the tests ran on."""
    lines = config.stash[_summary]
    for line in dict.fromkeys(lines):
        terminalreporter.write_line(f"ZooKeeper: {line}")


def _choice(config: pytest.Config) -> str:
    return str(config.getoption("--zookeeper") or config.getini("zookeeper"))


# The server


@pytest.fixture(scope="session")
def zookeeper(pytestconfig: pytest.Config) -> Iterator[str]:
    """The connect string of the server that the tests share: ``host:port``, or the given HOSTS."""
    choice = _choice(pytestconfig)
    if ":" in choice:
        given = str(parse(choice))
        _reach(given, choice)
        pytestconfig.stash[_summary].append(f"{given}, as given")
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
            pytestconfig.stash[_summary].append("; ".join([*missing, f"{name}: {server!r}"]))
            yield server.address
        finally:
            _run(server.close())
        return
    pytest.fail(f"--zookeeper={choice}: no ZooKeeper to test on: {'; '.join(missing)}", pytrace=False)


def _reach(hosts: str, choice: str) -> None:
    """Fail at once, instead of in each test, if the server cannot be reached."""

    async def reach() -> None:
        async with corral.connect(hosts, connect_timeout=_REACH_TIMEOUT) as client:
            await client.children("/")

    try:
        _run(reach())
    except CorralError as error:
        pytest.fail(f"--zookeeper={choice}: no ZooKeeper to test on: {error}", pytrace=False)


def _run(job: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine of a session-scoped fixture in a loop of its own, and leave the thread's loop as it
    is."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(job)


def _collect_sockets() -> None:
    """Collect the sockets that Docker's client leaves open if no daemon answers, so that no test is
    blamed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


# The fixtures of one test


@pytest.fixture
async def _servers(zookeeper: str, pytestconfig: pytest.Config) -> AsyncIterator[Hosts]:
    """The servers of this test, without a proxy."""
    if not isinstance(running_loop(), VirtualLoop):
        yield parse(zookeeper)
        return
    pytestconfig.stash[_summary].append("in virtual time: embedded, one for each test in its event loop")
    async with EmbeddedServer() as own:
        yield parse(own.address)


@pytest.fixture
async def zookeeper_root(_servers: Hosts) -> AsyncIterator[str]:
    """The path, on the server `zookeeper`, of a znode that belongs to this test. It is removed after the
    test, with everything below it."""
    path = f"/test-{uuid.uuid4().hex[:12]}"
    async with corral.connect(str(_servers)) as client:
        await client.create(path)
    yield path
    if isinstance(running_loop(), VirtualLoop):
        return  # its server belongs to this test, too, and ends with it
    async with corral.connect(str(_servers)) as client:
        with contextlib.suppress(corral.NoNode):
            await client.delete(path, recursive=True)


@pytest.fixture
async def faults(_servers: Hosts) -> AsyncIterator[FaultProxy]:
    """The proxy that the service under test connects through, with `zookeeper_hosts`. Of several HOSTS it
    connects to the first. It breaks nothing until a test makes it."""
    async with FaultProxy(str(_servers.servers[0])) as proxy:
        yield proxy


@pytest.fixture
def zookeeper_hosts(_servers: Hosts, faults: FaultProxy, zookeeper_root: str) -> str:
    """The connect string for the service under test: through `faults`, with `zookeeper_root` as its
    chroot."""
    return f"{faults.address}{_servers.chroot}{zookeeper_root}"


@pytest.fixture
async def zk(_servers: Hosts, zookeeper_root: str) -> AsyncIterator[corral.Client]:
    """A connected client with the chroot `zookeeper_root`, for the test to set up and to observe. It does not
    go through `faults`."""
    async with corral.connect(f"{_servers}{zookeeper_root}") as client:
        yield client


# Asynchronous fixtures


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> Generator[None, Any, Any]:
    """Have the asynchronous fixtures of this module run by the plugin that runs the test, in the test's loop.

    anyio runs the asynchronous fixtures of a test that has `anyio_backend`. In strict mode, pytest-asyncio
    runs fixtures that its decorator has marked, even for a test of anyio's if its hook runs first. The
    fixtures are therefore marked here, and only for tests that are not anyio's, with the scope of the test's
    loop.
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
    """A copy of an asynchronous fixture, marked as by `pytest_asyncio.fixture`."""
    import pytest_asyncio  # imported here because it is optional
    from pytest_asyncio import plugin

    if not hasattr(plugin, "pytest_fixture_setup"):  # 1.0 looks for the mark earlier, at collection
        pytest.fail(f"pytest-asyncio {pytest_asyncio.__version__} is too old; it must be 1.1 or later", False)

    @functools.wraps(function)
    async def copy(**others: Any) -> AsyncIterator[Any]:
        async with contextlib.asynccontextmanager(function)(**others) as value:
            yield value

    marker = request.node.get_closest_marker("asyncio")
    scope = marker.kwargs.get("loop_scope") if marker is not None else None
    scope = scope or request.config.getini("asyncio_default_test_loop_scope")
    pytest_asyncio.fixture(copy, loop_scope=scope)
    return copy
