"""The code of docs/ensemble.md runs."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

import corral
from corral.testing import EmbeddedServer
from support import within

GUIDE = Path(__file__).parents[2] / "docs" / "ensemble.md"


async def test_the_code_in_the_guide_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Members are printed now and after each change; a standalone server refuses to change them."""
    names: dict[str, Any] = {}
    for code in re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(code, str(GUIDE), "exec"), names)
    async with EmbeddedServer() as server, corral.connect(server.address) as zk:
        address = server.address
        server.reconfigure([f"server.1=127.0.0.1:2888:3888:participant;{server.address}"])
        await names["members"](zk)
        following = asyncio.create_task(names["follow"](zk))
        serving = asyncio.create_task(names["serve"](server.address))
        with pytest.raises(corral.ReconfigDisabled):
            await within(names["replace"](zk, 1))
        await within(zk.wait_children("/locks/leader", 1))
        for task in (following, serving):
            task.cancel()
        await asyncio.wait([following, serving])
    said = capsys.readouterr().out
    assert f"1: participant 127.0.0.1, clients at {address}" in said
    assert re.search(r"version 0x[0-9a-f]+: 127\.0\.0\.1:\d+\n", said)
