"""The documents agree with the code."""

from __future__ import annotations

import ast
import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import corral
from corral.session.states import TRANSITIONS
from corral.testing import EmbeddedServer, FaultProxy, TcpProxy, committed, plugin
from support import PATIENCE

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent


def python_blocks(document: str) -> list[str]:
    """The Python code blocks of a document."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / document).read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    return blocks


def diagram() -> str:
    """The states of a session and their transitions, for Mermaid."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> suspended"]
    for state, changes in TRANSITIONS.items():
        for change, following in changes.items():
            if following is not state:
                lines.append(f"    {state.value} --> {following.value}: {change.value}")
        if set(changes.values()) == {state}:
            lines.append(f"    {state.value} --> [*]")
    return "\n".join([*lines, "```"])


def test_the_state_diagram_is_drawn_from_the_table() -> None:
    """The diagram in the architecture equals the machine's table."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    found = re.search(r"```mermaid\n.*?```", text, re.DOTALL)
    assert found is not None
    assert found.group() == diagram()


DOCUMENTS = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
DOCUMENTS += sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    """Every relative link of a document names an existing file."""
    path = ROOT / document
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_readme_is_python() -> None:
    """The README's examples compile, as part of an asyncio program."""
    for code in python_blocks("README.md"):
        compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_what_the_readme_acquires_it_releases() -> None:
    """The README has no example of a lock that is never released."""
    for code in python_blocks("README.md"):
        tree = compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
        acquired = re.findall(r"(\w+) = await .*\.acquire\(\)", code)
        entered = [
            ast.unparse(item.context_expr)
            for node in ast.walk(tree)
            if isinstance(node, ast.AsyncWith)
            for item in node.items
        ]
        assert [name for name in acquired if name not in entered and f"{name}.release()" not in code] == []
        assert code.count("acquire()") == len(acquired)


def test_every_name_in_the_architecture_is_there() -> None:
    """The architecture names existing files only."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    files = set(re.findall(r"`((?:\w+/)*\w+\.py|\w+/)`", text))
    assert files
    places = (ROOT / "src" / "corral", ROOT)
    assert [name for name in files if not any((place / name).exists() for place in places)] == []


def test_the_code_in_the_guide_to_testing_runs(pytester: pytest.Pytester) -> None:
    """Each code block in it names its file. Those of an example are found in it; the others are a project
    whose tests pass."""
    tests = 0
    for block in python_blocks("docs/testing.md"):
        name, code = re.fullmatch(r"# (\S+\.py)\n(.*)", block, re.DOTALL).groups()  # type: ignore[union-attr]
        if "/" in name:
            assert code in (ROOT / name).read_text(), name
        else:
            assert not (pytester.path / name).exists()
            (pytester.path / name).write_text(code)
            tests += len(re.findall(r"^(?:async )?def test_", code, re.MULTILINE)) + code.count("parametrize")
    result = pytester.runpytest_inprocess("-p", "no:asyncio", "-p", "no:cacheprovider", "-W", "error")
    result.assert_outcomes(passed=tests)
    assert tests >= 8


def code_of(*pages: str, about: str = "") -> dict[str, Any]:
    """What the code of these pages defines; of the blocks with this word in them, if one is given."""
    code: dict[str, Any] = {}
    for page in pages:
        for block in python_blocks(f"docs/{page}"):
            if about in block:
                exec(block, code)
    return code


async def test_the_code_about_access_control_runs() -> None:
    """The examples create what they say, for whom they say, and set and remove a quota."""
    code = code_of("security.md", about="default_acl") | code_of("security.md", about="zookeeper_limits")
    async with EmbeddedServer() as server, corral.connect(server.address) as zk:
        await code["work"](server.address)
        assert (await zk.get("/jobs/1"))[0].startswith(b"for us")
        with pytest.raises(corral.NoAuth):
            await zk.set("/jobs", b"")
        with pytest.raises(corral.NoAuth):
            await zk.get("/audit")
        async with corral.connect(server.address, auth=[("digest", b"audit:other secret")]) as audit:
            await audit.get("/audit")
        await code["limit"](zk)
        assert await zk.count_children("/zookeeper/quota/jobs") == 2
        await code["unlimit"](zk)


async def test_the_code_in_the_guides_to_recipes_runs() -> None:
    """The examples run to their end, and the candidate leads."""
    code = code_of("recipes.md", "values.md", "work.md")
    async with EmbeddedServer() as server, corral.connect(server.address) as zk:
        async with asyncio.timeout(PATIENCE):
            await code["main"](server.address)
            await code["configure"](zk)
            assert await code["run_once"](zk) == b"41 rows"
            await code["gates"](zk)
            assert await code["done"](zk) == 1
            sharing = asyncio.create_task(code["take_part"](server.address))
            await zk.wait_until("/shards/locks/63", lambda event: event.exists)
            sharing.cancel()
            await asyncio.wait([sharing])
            campaigning = asyncio.create_task(code["campaign"](zk))
            async for leader in zk.election("/leader").leaders():
                if leader is not None:
                    break
        assert leader is not None
        assert leader.data == b"host-7"
        campaigning.cancel()
        await asyncio.wait([campaigning])


async def test_the_code_in_the_guide_to_queues_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Items are put, and taken by each of the ways, until none is left."""
    code = code_of("work.md", about="zk.queue")
    async with EmbeddedServer() as server, corral.connect(server.address) as zk, asyncio.timeout(PATIENCE):
        await code["produce"](zk)
        for name in ("consume", "several_at_once"):
            consuming = asyncio.create_task(code[name](zk))
            async for size in zk.queue("/jobs").watch_size():
                if size == 0:
                    break
            consuming.cancel()
            await asyncio.wait([consuming])
            await zk.queue("/jobs").put(b"more")
        await code["look"](zk)
    assert capsys.readouterr().out == "b'urgent' 1\n1\n1\n"


async def test_the_code_in_the_guide_to_watches_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The example runs to its end, and prints the documented output."""
    [block] = python_blocks("docs/watches.md")
    code: dict[str, Any] = {}
    exec(block, code)
    async with EmbeddedServer() as server, asyncio.timeout(PATIENCE):
        await code["main"](server.address)
    printed = capsys.readouterr().out
    assert "/config/color b'blue'" in printed
    assert printed.endswith("b'blue'\n")


async def test_the_code_in_the_guide_to_errors_runs() -> None:
    """The example replaces the value exactly once, even if another client writes or an answer is lost."""
    [block] = python_blocks("docs/errors.md")
    code: dict[str, Any] = {}
    exec(block, code)
    async with EmbeddedServer() as server, FaultProxy(server.address) as proxy, asyncio.timeout(PATIENCE):
        async with corral.connect(proxy.address) as zk:
            await zk.create("/name", b"old")
            async with proxy.cut_at(committed("set")):
                assert await code["rename"](zk, b"old", b"new")
            assert not await code["rename"](zk, b"old", b"newer")
            data, stat = await zk.get("/name")
    assert (data, stat.version) == (b"new", 1)


def test_every_document_is_reached_from_the_readme() -> None:
    """The README refers to all documents."""
    text = (ROOT / "README.md").read_text()
    assert [name for name in DOCUMENTS[1:] if f"({name})" not in text] == []


def test_the_guide_to_testing_has_every_fixture_and_fault() -> None:
    """The tables list each fixture of the plugin, each of its options, and each fault of the proxy."""
    text = (ROOT / "docs" / "testing.md").read_text()
    named = set(re.findall(r"^\| `(?:await |async with )?(\w+)", text, re.MULTILINE))
    faults = {
        name
        for name, member in [*vars(TcpProxy).items(), *vars(FaultProxy).items()]
        if not name.startswith("_") and callable(member)
    } - {"cut_when_sent"}
    choices = {"embedded", "docker", "local", "auto", "HOSTS"}
    assert named == {*plugin.__all__, *faults, *choices}


def test_the_example_project_passes() -> None:
    """The tests of the example service pass, with only pytest and corral installed."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "examples/testing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "ZooKeeper: embedded: <EmbeddedServer " in done.stdout


async def test_the_code_in_the_guide_to_security_runs() -> None:
    """The examples run against a server that knows the user."""
    code = code_of("security.md", about="read_secret_settings")
    reader = [corral.Acl(corral.Perm.READ, "sasl", "reader")]
    async with EmbeddedServer(sasl={"reader": "hush"}) as server:
        async with corral.connect(server.address) as zk:
            await zk.create("/settings", b"x", acl=reader)
        assert await code["read_secret_settings"](server.address, "hush") == b"x"
