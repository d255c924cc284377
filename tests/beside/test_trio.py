"""corral under trio raises an error that says that corral needs asyncio. corral depends on anyio, so users
will try."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

import corral
from corral.testing import ContainerServer, EmbeddedServer, FaultProxy, LocalEnsemble, LocalServer, Server
from corral.testing.servers.base import four_letter_word

pytest_plugins = ["pytester"]
pytest.importorskip("trio", reason="trio is not installed; nox -s beside installs it")

NOWHERE = "127.0.0.1:1"


async def entering() -> None:
    async with corral.connect(NOWHERE):
        pass


async def acquiring() -> None:
    await corral.connect(NOWHERE).lock("/l").acquire()


async def asking() -> None:
    await corral.connect(NOWHERE).get("/")


async def serving(server: Server | LocalEnsemble | FaultProxy) -> None:
    async with server:
        pass


TRIES: dict[str, Callable[[], Awaitable[object]]] = {
    "a client is entered": entering,
    "a lock is acquired": acquiring,
    "a node is read": asking,
    "embedded": lambda: serving(EmbeddedServer()),
    "embedded, on a thread": lambda: serving(EmbeddedServer(thread=True)),
    "local": lambda: serving(LocalServer()),
    "ensemble": lambda: serving(LocalEnsemble()),
    "container": lambda: serving(ContainerServer()),
    "proxy": lambda: serving(FaultProxy(NOWHERE)),
    "four letter word": lambda: four_letter_word(NOWHERE, "ruok"),
}


@pytest.mark.parametrize("what", TRIES)
def test_the_error_names_asyncio(what: str) -> None:
    """It is a single `UsageStateError`: nothing was begun that would have to be cleaned up."""

    async def main() -> None:
        await TRIES[what]()

    with pytest.raises(corral.UsageStateError, match="asyncio") as raised:
        anyio.run(main, backend="trio")
    assert raised.value.__context__ is None or raised.value.__suppress_context__


def test_the_fixtures_say_it_too(pytester: pytest.Pytester) -> None:
    """anyio runs each test on trio, too, unless the fixture `anyio_backend` says otherwise; the error
    mentions that."""
    pytester.makeconftest("pytest_plugins = ['corral.testing.plugin']")
    pytester.makepyfile("""
        import pytest

        @pytest.mark.anyio
        async def test_it(zk):
            assert await zk.children("/") == []
    """)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:asyncio")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*UsageStateError: *asyncio*anyio_backend*"])
