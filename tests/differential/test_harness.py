"""The comparison is reliable: it overlooks nothing that a server sends, and reports no difference that two
servers cannot avoid.

The first is tested on the embedded server alone, by modifying one frame after the other; the second with two
real servers.
"""

from __future__ import annotations

from collections.abc import Callable

import fixed
import pytest
from compare import Disagreement, compare
from embedded_side import EmbeddedSide
from program import EPHEMERAL, OPEN, RECURSIVE, Program, Step
from runner import run
from servers import MOST, NEVER, TICK, embedded_server, real_server
from sides import Connection

ROOT = "/program"
SOME_OF_ALL: Program = [
    Step(0, "create", "~/a", b"data", OPEN, 0),
    Step(1, "addWatch", "~", RECURSIVE),
    Step(1, "getData", "~/a", True),
    Step(0, "create2", "~/e", b"", OPEN, EPHEMERAL),
    Step(0, "multi", ("setData", "~/a", b"", 0), ("check", "~", 0)),
    Step(0, "multi", ("setData", "~/a", b"", 0), ("check", "~", 9)),
    Step(0, "pipeline", ("getACL", "~/a"), ("getChildren2", "~", True), ("delete", "~/a", 7), ("whoAmI",)),
    Step(0, "sync", "~"),
    Step(1, "resume", 2, True),
    Step(0, "close"),
]

PREPARING = 9
"""The frames before the program: they are not compared, but damage to them shows later."""

Spoil = Callable[[bytes], list[bytes]]


class _Spoiled:
    """A connection that modifies one of the frames that it receives; the number counts the frames of its
    side."""

    def __init__(self, side: _SpoiledSide, connection: Connection) -> None:
        self._side = side
        self._connection = connection
        self._ready: list[bytes] = []

    def send(self, *frames: bytes) -> None:
        self._connection.send(*frames)

    def receive(self) -> bytes | None:
        while not self._ready:
            frame = self._connection.receive()
            if frame is None:
                return None
            self._ready = self._side.spoiled(frame)
        return self._ready.pop(0)

    def drop(self) -> None:
        self._connection.drop()


class _SpoiledSide(EmbeddedSide):
    def __init__(self, at: int, spoil: Spoil) -> None:
        super().__init__(tick=TICK, most=MOST, sweep=NEVER, release="3.8")
        self._at = at
        self._spoil = spoil
        self.frames = 0

    def connect(self) -> Connection:
        return _Spoiled(self, super().connect())

    def spoiled(self, frame: bytes) -> list[bytes]:
        self.frames += 1
        return self._spoil(frame) if self.frames == self._at else [frame]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda frame: [],
        lambda frame: [frame, frame],
        lambda frame: [frame + b"\0"],
        lambda frame: [frame[:-1]],
        lambda frame: [frame[:11] + bytes([frame[11] ^ 1]) + frame[12:]],
        lambda frame: [frame[:15] + bytes([frame[15] ^ 1]) + frame[16:]],
        lambda frame: [frame[:3] + bytes([frame[3] ^ 1]) + frame[4:]],
    ],
    ids=["lost", "doubled", "longer", "shorter", "another zxid", "another error", "another xid"],
)
def test_no_frame_can_be_spoiled_unnoticed(spoil: Spoil) -> None:
    clean = _SpoiledSide(0, spoil)
    right = run(SOME_OF_ALL, clean, ROOT)
    assert clean.frames > 50
    unnoticed = []
    for at in range(PREPARING + 1, clean.frames + 1):
        try:
            compare(SOME_OF_ALL, right, run(SOME_OF_ALL, _SpoiledSide(at, spoil), ROOT))
        except Disagreement:
            continue
        unnoticed.append(at)
    assert not unnoticed


def test_what_differs_from_run_to_run_is_not_held_against_a_server() -> None:
    first, second = (embedded_server(NEVER) for _ in range(2))
    run([Step(0, "create", "~/before", b"", OPEN, 0)], second, "/before")
    second.now += 1000.0
    compare(SOME_OF_ALL, run(SOME_OF_ALL, first, ROOT), run(SOME_OF_ALL, second, ROOT))


def test_two_real_servers_agree(real_servers: None) -> None:
    with real_server(NEVER) as one, real_server(NEVER) as other:
        for number, program in enumerate(fixed.CORNERS.values()):
            root = f"/program-{number}"
            compare(program, run(program, one, root), run(program, other, root), ("one", "other"))
