"""What the tests of watches look at from outside: the server's list of watches, and the requests it gets."""

from __future__ import annotations

import contextlib
import enum
from collections import Counter
from collections.abc import AsyncIterator

from corral.testing import TcpProxy
from corral.testing._server import four_letter_word


class Op(enum.IntEnum):
    """The protocol's operation codes, as far as watches need them."""

    EXISTS = 3
    GET = 4
    CHECK_WATCHES = 17
    REMOVE_WATCHES = 18
    SET_WATCHES = 101


@contextlib.asynccontextmanager
async def requests_through(proxy: TcpProxy) -> AsyncIterator[Counter[int]]:
    """Counts, by operation code, the requests that pass the proxy from now on."""
    seen: Counter[int] = Counter()

    def note(body: bytes) -> bool:
        seen[int.from_bytes(body[4:8], signed=True)] += 1
        return False

    async with proxy.lose_request(note):
        yield seen


async def watching_sessions(address: str, full: str) -> int:
    """How many sessions have a watch on the full path, by what the server says."""
    answer = await four_letter_word(address, "wchp")
    sessions_by_path: Counter[str] = Counter()
    path = ""
    for line in answer.splitlines():
        if line.startswith("/"):
            path = line
        elif line.strip():
            sessions_by_path[path] += 1
    return sessions_by_path[full]
