"""Tests of modules with `VIRTUAL_TOO = True` run on the chosen event loop and on a VirtualLoop: they must
pass with real sockets and with those in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping

import pytest

from corral.testing import VirtualLoop

Factories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]


@pytest.hookimpl(wrapper=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> Generator[None, Factories, Factories]:
    chosen = yield
    module = item.getparent(pytest.Module)
    too = module is not None and getattr(module.obj, "VIRTUAL_TOO", False)
    return {**chosen, "virtual": VirtualLoop} if too else chosen
