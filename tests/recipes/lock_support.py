"""What the tests of locks share: a tap on the wire, coroutines cancelled at a chosen step, ways to lose a lock."""

from __future__ import annotations

import asyncio
import contextlib
import re
import struct
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any, NamedTuple, Self

import corral
from corral.testing import TcpProxy
from corral.testing._server import four_letter_word
from corral.wire import messages
from support import PATIENCE, until

PING, CLOSE = -2, -11
NOTIFICATION = -1

LOCK_NAME = re.compile(
    r"_c_[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}-lock-(\d{10}|-\d{9}|-[1-9]\d{9})$"
)


async def within[T](awaitable: Awaitable[T]) -> T:
    """Its result, unless it hangs."""
    async with asyncio.timeout(PATIENCE):
        return await awaitable
