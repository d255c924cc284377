"""The core, compared with the bytes that were captured from a real 3.8.0: the same requests must get the same
answers.

The golden files were captured from fresh servers, so the zxids are equal. Times, the session's id and its
password differ, and are replaced before the comparison.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from core_support import CLOSED, WALL, Core, Wire

GOLDEN = Path(__file__).parents[2] / "wire" / "golden"

HORSE, HORSE_OF_JAVA = (
    len(id_).to_bytes(4) + id_ for id_ in (b"\xf0\x9f\x90\x8e:x", b"\xed\xa0\xbd\xed\xb0\x8e:x")
)
"""An id with a character beyond U+FFFF: corral writes UTF-8, Java two surrogates; both are accepted."""


class Replay:
    """A recorded conversation, repeated with the core."""

    def __init__(self, name: str, core: Core) -> None:
        recorded = json.loads((GOLDEN / name).read_text())
        self.exchanges: dict[str, dict[str, str]] = recorded["exchanges"]
        self.core = core
        # Milliseconds of the recording, without their last two bytes, which change during it.
        self._time = struct.pack(">q", int(recorded["started"] * 1000))[:6]
        self._known: list[tuple[bytes, bytes]] = []

    def run(self) -> Iterator[tuple[str, list[bytes | str], list[bytes | str]]]:
        """Each exchange: its name, the frames of the real server, the frames of the core."""
        wire: Wire | None = None
        for name, exchange in self.exchanges.items():
            request = self.ours(_unhex(exchange["request"]))
            if name.startswith("connect"):
                wire = self.core.wire()
            assert wire is not None
            wire.feed(request)
            got = wire.take()
            expected: list[bytes | str] = [*map(_unhex, exchange["events"]), _unhex(exchange["reply"])]
            if name.startswith("connect"):
                self._learn(expected[0], got[0])
            yield name, [self.plain(frame) for frame in expected], [self.plain(frame) for frame in got]

    def _learn(self, theirs: bytes | str, ours: bytes | str) -> None:
        assert isinstance(theirs, bytes)
        assert isinstance(ours, bytes)
        self._known += [
            (theirs[8:16], ours[8:16]),
            (theirs[20:36], ours[20:36]),
        ]

    def ours(self, frame: bytes) -> bytes:
        """A recorded request with the ids and passwords of the core's sessions."""
        for theirs, our in self._known:
            if any(theirs):
                frame = frame.replace(theirs, our)
        return frame

    def plain(self, frame: bytes | str) -> bytes | str:
        """A frame with everything replaced that differs between servers."""
        if isinstance(frame, str):
            return frame
        for number, (theirs, our) in enumerate(self._known):
            if any(theirs):
                filler = bytes([0xE0 + number]) * len(our)
                frame = frame.replace(theirs, filler).replace(our, filler)
        frame = frame.replace(HORSE_OF_JAVA, HORSE)
        return re.sub(re.escape(self._time) + b"..", b"=time===", frame, flags=re.DOTALL)


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def core_of(name: str, **config: object) -> Core:
    """A core whose wall clock shows the time of a recording."""
    core = Core(**config)
    core.now += json.loads((GOLDEN / name).read_text())["started"] - WALL
    return core


def test_standalone() -> None:
    """Every operation, byte for byte. The recording does not have the end of the connection; here it is
    checked, too."""
    replay = Replay("standalone.json", core_of("standalone.json"))
    seen = 0
    for name, expected, got in replay.run():
        closes = name in ("close", "connect: no such session", "auth: failed")
        assert got == [*expected, *([CLOSED] if closes else [])], name
        seen += 1
    assert seen > 50


def test_read_only() -> None:
    """A server that has lost its quorum, and may create sessions of its own."""
    core = core_of("read-only.json", read_only=True)
    core.zk.database.zxid = 0x1_0000_0001
    for name, expected, got in Replay("read-only.json", core).run():
        assert got == expected, name


@pytest.mark.parametrize("name", ["standalone.json", "read-only.json"])
def test_the_recordings_are_there(name: str) -> None:
    """The recordings exist, so that the tests above compare something."""
    assert Replay(name, Core()).exchanges
