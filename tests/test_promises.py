"""The table of promises in README.md beside this file is compared with the tests."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).parent
NUMBERS = re.compile(r"([A-Z]\d+(?:, [A-Z]\d+)*):")


def table() -> dict[str, set[str]]:
    """The files that each promise's row names."""
    rows = re.findall(r"^\| \*\*([A-Z]\d+)\*\* (.*)\|$", (TESTS / "README.md").read_text(), re.M)
    found = {number: set(re.findall(r"`([\w/]+\.py)`", cells)) for number, cells in rows}
    assert len(found) == len(rows), "a promise has two rows"
    return found


def proven() -> dict[str, set[str]]:
    """The files in which the docstring of a test begins with each promise's number."""
    files = defaultdict(set)
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                numbers = NUMBERS.match(ast.get_docstring(node) or "")
                for number in numbers[1].split(", ") if numbers else ():
                    files[number].add(path.relative_to(TESTS).as_posix())
    return files


def test_every_promise_has_a_row() -> None:
    """The promises that tests name are those in the table."""
    assert table().keys() == proven().keys()


def test_every_file_proves_its_promise() -> None:
    """Each file that a row names exists, and one of its tests names the promise; each row names a file."""
    files = proven()
    for number, named in table().items():
        assert named, f"no file proves {number}"
        assert named <= files[number], f"no test there names {number}: {named - files[number]}"


def test_the_files_that_the_readme_names_exist() -> None:
    """This includes files named outside the table."""
    named = re.findall(r"`([\w/]+\.py)(?::\w+)?`", (TESTS / "README.md").read_text())
    assert [name for name in named if not (TESTS / name).is_file()] == []
