"""What the tests of watches look at from outside: the server's list of watches."""

from __future__ import annotations

from collections import Counter

from corral.testing._server import four_letter_word


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
