"""corral.testing.plugin: its fixtures under each plugin that runs asynchronous tests, and its choice of a
server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest

from corral.testing import EmbeddedServer, plugin

pytest_plugins = ["pytester"]

CONFTEST = """
import pytest

pytest_plugins = ["corral.testing.plugin"]

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""

# What the fixtures guarantee, whoever runs them: MARK is in front of each test.
TESTS = """
import asyncio, pytest, corral
from corral.testing import committed

roots = []

MARK
async def test_the_service_and_the_observer_see_the_same(zk, zookeeper, zookeeper_root, zookeeper_hosts):
    async with corral.connect(zookeeper_hosts) as service, corral.connect(zookeeper) as all_of_it:
        await service.create("/made")
        await zk.sync("/")
        assert await zk.children("/") == ["made"]
        assert await all_of_it.children(zookeeper_root) == ["made"]
    roots.append(zookeeper_root)

MARK
async def test_faults_concern_the_service_alone(zk, zookeeper_hosts, faults):
    async with corral.connect(zookeeper_hosts) as service:
        async with faults.cut_at(committed("create")):
            with pytest.raises(corral.ConnectionLoss):
                await service.create("/made")
        assert await zk.exists("/made")
        await service.create("/ephemeral", ephemeral=True)
        observer = zk.session_id
        await faults.expire()
        assert await zk.children("/") == ["made"]
        assert zk.session_id == observer

MARK
async def test_what_tests_have_made_is_gone(zookeeper, zookeeper_root):
    async with corral.connect(zookeeper) as all_of_it:
        for root in roots:
            assert root != zookeeper_root
            assert not await all_of_it.exists(root)
        roots.append(None)

def test_all_of_that_ran():
    assert len(roots) == 2
"""

ASYNCIO, ANYIO = "@pytest.mark.asyncio", "@pytest.mark.anyio"
WARNINGS_FAIL = ("-W", "error")

ONE_TEST = """
def test_it(zookeeper):
    print("at", zookeeper)
"""


@pytest.fixture(autouse=True)
def one_line(pytester: pytest.Pytester) -> None:
    """A project that uses the plugin."""
    pytester.makeconftest(CONFTEST)


@pytest.fixture
def given() -> Iterator[EmbeddedServer]:
    """A server that runs already."""
    with EmbeddedServer(thread=True) as server:
        yield server


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    if "no:asyncio" not in arguments:  # otherwise it warns that a default will change
        arguments = ("-o", "asyncio_default_fixture_loop_scope=function", *arguments)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)


def summary(result: pytest.RunResult) -> list[str]:
    """What the summary says about the servers."""
    return [line.removeprefix("ZooKeeper: ") for line in result.outlines if line.startswith("ZooKeeper: ")]


# Plugins that run asynchronous tests


@pytest.mark.parametrize(
    ("mark", "arguments"),
    [
        (ASYNCIO, ("--asyncio-mode=strict", *WARNINGS_FAIL)),
        ("", ("--asyncio-mode=auto", *WARNINGS_FAIL)),
        (ANYIO, ("-p", "no:asyncio", *WARNINGS_FAIL)),
        (ANYIO, ("--asyncio-mode=strict", *WARNINGS_FAIL)),
        (f"{ASYNCIO}(loop_scope='module')", WARNINGS_FAIL),
        (ASYNCIO, (*WARNINGS_FAIL, "-o", "asyncio_default_test_loop_scope=session")),
    ],
    ids=["strict", "auto", "anyio", "anyio beside pytest-asyncio", "a loop for a module", "one loop for all"],
)
def test_under(pytester: pytest.Pytester, mark: str, arguments: tuple[str, ...]) -> None:
    """The fixtures work, without a warning, in the event loop of the test."""
    pytester.makepyfile(TESTS.replace("MARK", mark))
    run(pytester, *arguments).assert_outcomes(passed=4)


def test_both_in_one_run(pytester: pytest.Pytester) -> None:
    """Tests of pytest-asyncio and of anyio may alternate."""
    pytester.makepyfile(
        **{f"test_{n}": TESTS.replace("MARK", mark) for n, mark in enumerate([ASYNCIO, ANYIO] * 2)}
    )
    run(pytester, *WARNINGS_FAIL).assert_outcomes(passed=16)


def test_without_pytest_asyncio(pytester: pytest.Pytester) -> None:
    """Without pytest-asyncio installed, nothing tries to import it."""
    pytester.makepyfile(TESTS.replace("MARK", ANYIO))
    pytester.makepyfile(
        nowhere="""
        import sys

        sys.modules["pytest_asyncio"] = sys.modules["pytest_asyncio.plugin"] = None
        """
    )
    arguments = ("-p", "nowhere", "-p", "no:asyncio", "-p", "no:cacheprovider", *WARNINGS_FAIL)
    pytester.syspathinsert()
    pytester.runpytest_subprocess(*arguments).assert_outcomes(passed=4)


def test_synchronous_tests(pytester: pytest.Pytester) -> None:
    """A synchronous test can use the shared server without any plugin."""
    pytester.makepyfile(
        """
        import asyncio, corral

        def test_it(zookeeper):
            async def main():
                async with corral.connect(zookeeper) as zk:
                    assert await zk.exists("/")
            asyncio.run(main())
        """
    )
    run(pytester, "-p", "no:asyncio", "-p", "no:anyio").assert_outcomes(passed=1)


IN_VIRTUAL_TIME = """
import asyncio, pytest, corral
from corral import State

MARK
async def test_an_hour(zk, zookeeper_hosts, faults):
    loop = asyncio.get_running_loop()
    async with corral.connect(zookeeper_hosts, session_timeout=4) as service:
        await service.create("/ephemeral", ephemeral=True)
        began = loop.time()
        async with faults.black_hole():
            await asyncio.sleep(3600)
            assert not await zk.exists("/ephemeral")
        async for state in service.states():
            if state is State.CONNECTED:
                break
        assert 3600 <= loop.time() - began < 3700
"""


@pytest.mark.parametrize("runner", ["asyncio", "anyio"])
def test_in_virtual_time(pytester: pytest.Pytester, runner: str) -> None:
    """In a VirtualLoop a test has a server in its own loop, whatever was configured; the summary says so."""
    if runner == "asyncio":
        pytester.makeconftest(
            """
            from corral.testing import VirtualLoop

            pytest_plugins = ["corral.testing.plugin"]

            def pytest_asyncio_loop_factories():
                return {"virtual": VirtualLoop}
            """
        )
        pytester.makepyfile(IN_VIRTUAL_TIME.replace("MARK", ASYNCIO))
    else:
        pytester.makepyfile(
            IN_VIRTUAL_TIME.replace("MARK", ANYIO)
            + """
from corral.testing import VirtualLoop

@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualLoop}
"""
        )
    result = run(pytester, *WARNINGS_FAIL)
    result.assert_outcomes(passed=1)
    assert summary(result)[1:] == ["in virtual time: embedded, one for each test in its event loop"]


# The choice of a server


@pytest.fixture
def taken(request: pytest.FixtureRequest) -> str:
    """What the summary says about the server, which must be available here."""
    if "LocalServer" in request.param:
        request.getfixturevalue("real_servers")
    return str(request.param)


@pytest.mark.parametrize(
    ("ini", "option", "taken"),
    [
        (None, None, "embedded: <EmbeddedServer "),
        ("local", "embedded", "embedded: <EmbeddedServer "),
        ("local", None, "local: <LocalServer "),
        (None, "local", "local: <LocalServer "),
    ],
    indirect=["taken"],
)
def test_the_choice(pytester: pytest.Pytester, ini: str | None, option: str | None, taken: str) -> None:
    """The default is the embedded server; the configuration overrides it, and the command line overrides
    both. The summary says which was used."""
    if ini is not None:
        pytester.makeini(f"[pytest]\nzookeeper = {ini}")
    pytester.makepyfile(ONE_TEST)
    result = run(pytester, *([f"--zookeeper={option}"] if option else []))
    result.assert_outcomes(passed=1)
    [line] = summary(result)
    assert line.startswith(taken)


def test_nothing_is_started_for_nobody(pytester: pytest.Pytester) -> None:
    """If no test uses a server none is started, not even one that would be unavailable."""
    pytester.makepyfile("def test_it(): pass")
    result = run(pytester, "--zookeeper=docker")
    result.assert_outcomes(passed=1)
    assert summary(result) == []


MISSING = {
    "docker": {"DOCKER_HOST": "tcp://127.0.0.1:1"},
    "local": {"JAVA_HOME": "/nowhere"},
}
SAID = {
    "docker": "docker: no Docker daemon answers; start one",
    "local": "local: there is no Java to run at '/nowhere/bin/java'; install one",
}


def without(monkeypatch: pytest.MonkeyPatch, *kinds: str) -> None:
    """Remove what some kinds of servers need."""
    for kind in kinds:
        variables: Mapping[str, str] = MISSING[kind]
        for name, value in variables.items():
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("missing", "taken"),
    [
        (["docker"], "local: <LocalServer "),
        (["docker", "local"], "embedded: <EmbeddedServer "),
    ],
    indirect=["taken"],
)
def test_auto_says_what_was_not_there(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, missing: list[str], taken: str
) -> None:
    """auto takes the first server that works, and prefers a real one. It says which, and why those before it
    did not work."""
    without(monkeypatch, *missing)
    pytester.makepyfile(ONE_TEST)
    result = run(pytester, "--zookeeper=auto", *WARNINGS_FAIL)
    result.assert_outcomes(passed=1)
    [line] = summary(result)
    assert line.startswith(SAID[missing[0]])
    for kind in missing[1:]:
        assert SAID[kind] in line
    assert f"; {taken}" in line


@pytest.mark.parametrize("choice", ["docker", "local"])
def test_a_choice_that_cannot_be_had(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    """If the server is unavailable the tests fail, with the reason; none is skipped, and no other server is
    used."""
    without(monkeypatch, *MISSING)
    pytester.makepyfile(ONE_TEST)
    result = run(pytester, f"--zookeeper={choice}")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(f"*--zookeeper={choice}: no ZooKeeper to test on: *{SAID[choice]}*")


@pytest.mark.parametrize("choice", ["dokcer", "localhost", "zk1:port", "zk1:2181,/app"])
def test_what_is_no_choice(pytester: pytest.Pytester, choice: str) -> None:
    """An unknown choice is refused before any test runs."""
    pytester.makepyfile("def test_it(): pass")
    result = run(pytester, f"--zookeeper={choice}")
    assert result.ret is pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(f"ERROR: --zookeeper={choice}: *")


def test_a_server_that_runs_already(pytester: pytest.Pytester, given: EmbeddedServer) -> None:
    """HOSTS may have several servers, and a chroot below which all tests run; the proxy connects to the first
    server."""
    pytester.makepyfile(
        TESTS.replace("MARK", ASYNCIO),
        test_first="""
        import asyncio, corral

        def test_a_chroot_has_to_be_there(zookeeper):
            assert zookeeper.endswith("/ci")
        """,
    )
    pytester.makepyfile(
        chroot=f"""
        import asyncio, corral

        async def main():
            async with corral.connect("{given.address}/ci") as zk:
                await zk.create("/", make_parents=True)

        asyncio.run(main())
        """
    )
    subprocess.run([sys.executable, pytester.path / "chroot.py"], check=True)
    hosts = f"{given.address},{given.address.replace('127.0.0.1', 'localhost')}/ci"
    result = run(pytester, f"--zookeeper={hosts}", *WARNINGS_FAIL)
    result.assert_outcomes(passed=5)
    assert summary(result) == [f"{hosts}, as given"]


@pytest.mark.parametrize("missing", ["server", "chroot"])
def test_hosts_that_cannot_be_had(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, given: EmbeddedServer, missing: str
) -> None:
    """If no server answers, or the chroot does not exist, each test fails, and only the first one waits."""
    monkeypatch.setattr(plugin, "_REACH_TIMEOUT", 0.2)
    hosts = "127.0.0.1:1" if missing == "server" else f"{given.address}/nowhere"
    pytester.makepyfile(ONE_TEST + ONE_TEST.replace("test_it", "test_that"))
    result = run(pytester, f"--zookeeper={hosts}")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(f"*--zookeeper={hosts}: no ZooKeeper to test on: *")


# Cost for those who do not use it


def test_nobody_else_imports_it() -> None:
    """Neither corral nor its test kit imports the plugin, or pytest."""
    code = "import corral, corral.testing, sys; print({'pytest', 'corral.testing.plugin'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert said.stdout == "set()\n"


def test_it_has_to_be_asked_for(pytester: pytest.Pytester) -> None:
    """Unless it is configured there are no options and no fixtures, and nothing of corral is imported."""
    pytester.makeconftest("")
    pytester.makepyfile("import sys\ndef test_it(): assert 'corral' not in sys.modules")
    arguments = ("-p", "no:cacheprovider")
    pytester.runpytest_subprocess(*arguments).assert_outcomes(passed=1)
    assert pytester.runpytest_subprocess("--zookeeper=embedded").ret is pytest.ExitCode.USAGE_ERROR
