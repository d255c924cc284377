"""The documents say what the code does."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from corral.session.states import TRANSITIONS

ROOT = Path(__file__).parent.parent


def diagram() -> str:
    """The states of a session and what leads from one to the next, for Mermaid."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> suspended"]
    for state, changes in TRANSITIONS.items():
        for change, following in changes.items():
            if following is not state:
                lines.append(f"    {state.value} --> {following.value}: {change.value}")
        if not changes:
            lines.append(f"    {state.value} --> [*]")
    return "\n".join([*lines, "```"])


def test_the_state_diagram_is_drawn_from_the_table() -> None:
    """The picture in the architecture cannot drift from the machine's table."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    found = re.search(r"```mermaid\n.*?```", text, re.DOTALL)
    assert found is not None
    assert found.group() == diagram()


@pytest.mark.parametrize("document", ["README.md", "docs/architecture.md"])
def test_links_lead_somewhere(document: str) -> None:
    """Every relative link of a document names a file that is there."""
    path = ROOT / document
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_readme_is_python() -> None:
    """The README's examples are code that compiles, as it would in an asyncio program."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for code in blocks:
        compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_every_name_in_the_architecture_is_there() -> None:
    """The architecture names files that exist."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    files = set(re.findall(r"`((?:\w+/)*\w+\.py|\w+/)`", text))
    assert files
    places = (ROOT / "src" / "corral", ROOT)
    assert [name for name in files if not any((place / name).exists() for place in places)] == []
