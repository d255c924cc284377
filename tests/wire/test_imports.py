"""Imports: the wire layer's own rules, and what `import corral` does not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import corral

PACKAGE = Path(corral.__file__).parent
WIRE = PACKAGE / "wire"


def imports(source: Path) -> Iterator[str]:
    """The full names of all modules, and of names in modules, that a file imports anywhere."""
    package = ["corral", *source.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(source.read_text(), str(source))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_within(name: str, package: str) -> bool:
    """Whether this is the package or something in it."""
    return name == package or name.startswith(f"{package}.")


def importers(package: str) -> set[Path]:
    """The files of corral that import from a package."""
    return {
        source.relative_to(PACKAGE)
        for source in PACKAGE.rglob("*.py")
        if any(is_within(name, package) for name in imports(source))
    }


def test_aiozk_is_imported_by_the_wire_layer_alone() -> None:
    """aiozk's declarations of the protocol are used, and only by the wire layer."""
    found = importers("aiozk")
    assert found
    assert {source.parts[0] for source in found} == {"wire"}


def test_of_aiozk_only_the_protocol_is_used() -> None:
    """aiozk's client, session and recipes are not used."""
    names = {name for source in WIRE.glob("*.py") for name in imports(source) if is_within(name, "aiozk")}
    assert names
    assert all(is_within(name, "aiozk.protocol") for name in names)


def test_the_wire_layer_knows_no_other() -> None:
    """The wire layer imports neither sockets nor time, and of corral only the records that users get."""
    allowed = (
        "corral.types", "corral.wire", "aiozk.protocol",
        "__future__", "collections.abc", "dataclasses", "functools", "struct", "typing",
    )  # fmt: skip
    for source in WIRE.glob("*.py"):
        for name in imports(source):
            assert any(is_within(name, package) for package in allowed), f"{source.name} imports {name}"


NOT_FOR_USERS = ["corral.testing", "hypothesis", "pytest", "pytest_asyncio", "testcontainers", "docker",
                 "kazoo", "uvloop", "rich", "typer", "unittest"]  # fmt: skip


def loaded_by(statement: str) -> set[str]:
    """The modules that a new interpreter loads for a statement."""
    script = f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """The modules that `import corral` loads."""
    return loaded_by("import corral")


@pytest.mark.parametrize("package", NOT_FOR_USERS)
def test_not_loaded_with_corral(loaded: set[str], package: str) -> None:
    """`import corral` loads neither the test kit nor what that, the tests or the tools need."""
    assert "corral.wire.messages" in loaded
    assert not {name for name in loaded if is_within(name, package)}


def test_what_is_not_loaded_is_seen() -> None:
    """The test above can fail: if the test kit is loaded, that is seen."""
    assert "corral.testing" in loaded_by("import corral, corral.testing")
