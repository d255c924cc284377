"""The code of docs/discovery.md runs."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

import corral
from support import within

GUIDE = Path(__file__).parents[2] / "docs" / "discovery.md"


async def test_the_code_in_the_guide_runs(
    zk: corral.Client, other: corral.Client, server_address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker sees itself, a caller reaches the service once there is one, and all of them leave."""
    names: dict[str, Any] = {}
    for code in re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(code, str(GUIDE), "exec"), names)
    await within(names["register"](server_address))
    await within(names["work"](zk))
    assert "1 members, 1 new, 0 gone" in capsys.readouterr().out
    assert await zk.group("/workers").members() == []
    calling, until = asyncio.create_task(names["call"](other)), asyncio.Event()
    serving = asyncio.create_task(names["serve"](zk, until))
    assert await within(calling) == "answer of 10.0.0.7:8080"
    until.set()
    await within(serving)
    assert await zk.services("/services").instances("web") == []
