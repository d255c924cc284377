"""Which lies are told, and when: a plan of lies and of network faults, from one seed."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import fuzz_shaped  # noqa: F401 - enters its lies
from fuzz_lies import LIES, Known, Lie
from fuzz_relay import Frame, LyingProxy, Piece

from corral.testing import EmbeddedServer

TARGETS = (
    "connect", "create", "create", "delete", "exists", "get", "set", "children", "transaction", "multi_read", "ping",
    "set_watches", "add_watch", "remove_watches", "sync", "add_auth", "event", "close",
)  # fmt: skip
"""The operations whose messages a liar with a target may choose."""

TARGETS_OF = {
    "greeting": ("connect",),
    "results": ("transaction", "multi_read"),
    "created": ("create",),
    "names": ("children",),
    "data": ("get",),
    "stat": ("get", "exists", "set", "create", "children"),
    "another_event": ("event",),
    "success": ("exists", "create", "get", "delete"),
}
"""The lies that apply to some operations only."""


class Style(NamedTuple):
    """How a liar chooses its lies."""

    name: str
    lies: tuple[Lie, ...]
    rate: float
    """The share of messages that are replaced."""
    most: int
    """The maximum number of lies."""
    target: str | None = None
    """The only operation whose messages are replaced."""
    sub_seed: int | None = None
    """The same random numbers each time, so that the lie is the same."""


def choose_style(rng: random.Random) -> Style:
    """A random style for a run."""
    every = tuple(each for each in LIES.values() for _ in range(each.weight))
    of_replies = tuple(each for each in every if not each.of_requests)
    kind = rng.choices(("scattered", "focused", "stubborn", "honest"), (4, 4, 4, 1))[0]
    most = rng.choice((1, 3, 10, 100, 1000))
    if kind == "honest":
        return Style(kind, (), 0.0, 0)
    if kind == "scattered":
        return Style(kind, every, rng.choice((0.01, 0.03, 0.1, 0.3)), most)
    if kind == "focused":
        return Style(
            kind, tuple(rng.sample(every, k=rng.choice((1, 2, 3)))), rng.choice((0.05, 0.3, 1.0)), most
        )
    sub_seed = rng.randrange(1 << 30) if rng.random() < 0.7 else None
    chosen = rng.choice(of_replies)
    return Style(kind, (chosen,), 1.0, most, rng.choice(TARGETS_OF.get(chosen.name, TARGETS)), sub_seed)


def _described(frame: Frame, pieces: Sequence[Piece]) -> str:
    """A description of what passes instead: where it differs, or how it passes."""
    data = pieces[0].data if pieces else b""
    if len(pieces) != 1 or data == frame.data:
        return ", ".join(f"{len(piece.data)} bytes {piece.way.value} {piece.delay:g}" for piece in pieces[:3])
    at = next(
        (i for i, (was, now) in enumerate(zip(frame.data, data, strict=False)) if was != now), len(data)
    )
    at = max(4, at // 4 * 4)
    return f"at {at} {data[at : at + 24].hex()} for {frame.data[at : at + 24].hex()}"


class Liar:
    """Decides about each message that passes: `LyingProxy.tell`."""

    def __init__(self, rng: random.Random, style: Style, clock: Callable[[], float]) -> None:
        self.style = style
        self.told: list[str] = []
        """Each lie, and when it was told."""
        self.kinds = Counter[str]()
        """How often each lie was told, by name."""
        self._rng = rng
        self._known = Known()
        self._clock = clock

    @property
    def was_believable(self) -> bool:
        """Whether the client may have taken a lie for the truth."""
        return any(LIES[name].believable for name in self.kinds)

    def tell(self, frame: Frame) -> Sequence[Piece] | None:
        """What passes in place of a message; None for the message itself."""
        style, rng = self.style, self._rng
        self._known.note(frame)
        if len(self.told) >= style.most or (style.target and frame.message.operation != style.target):
            return None
        if rng.random() >= style.rate:
            return None
        able = [each for each in style.lies if each.of_requests == frame.to_server]
        while able:
            chosen = able.pop(rng.randrange(len(able)))
            dice = rng if style.sub_seed is None else random.Random(style.sub_seed)
            pieces = chosen.tell(dice, frame, self._known)
            if pieces is not None:
                self.note(f"{chosen.name}: {frame.message}, {_described(frame, pieces)}")
                self.kinds[chosen.name] += 1
                return pieces
        return None

    def note(self, what: str) -> None:
        """Record a lie for the report."""
        self.told.append(f"{self._clock():.4f} {what}")


class Weather:
    """Breaks the network and the server, until it is cancelled; then everything is repaired."""

    def __init__(self, rng: random.Random, proxy: LyingProxy, server: EmbeddedServer, timeout: float) -> None:
        self.told: list[str] = []
        """Each fault, and when it was."""
        self._rng = rng
        self._proxy = proxy
        self._server = server
        self._timeout = timeout

    async def run(self) -> None:
        """Break things until cancelled."""
        loop = asyncio.get_running_loop()
        kinds: Sequence[Callable[[], Awaitable[object]]] = (
            self._cut, self._cut, self._black_hole, self._half_open, self._refuse, self._delay, self._expire, self._restart,
        )  # fmt: skip
        while True:
            await asyncio.sleep(self._rng.uniform(0.05, self._timeout))
            act = self._rng.choice(kinds)
            self.told.append(f"{loop.time():.4f} {act.__name__.strip('_')}")
            await act()

    async def _some_time(self) -> None:
        await asyncio.sleep(self._timeout * self._rng.choice((0.05, 0.3, 0.7, 1.5)))

    async def _cut(self) -> None:
        await self._proxy.cut(reset=self._rng.random() < 0.5)

    async def _black_hole(self) -> None:
        one_way = self._rng.choice(({}, {"requests": False}, {"replies": False}))
        async with self._proxy.black_hole(**one_way):
            await self._some_time()

    async def _half_open(self) -> None:
        async with self._proxy.half_open(gone=self._rng.choice(("server", "client"))):
            await self._some_time()

    async def _refuse(self) -> None:
        async with self._proxy.refuse():
            await self._proxy.cut()
            await self._some_time()

    async def _delay(self) -> None:
        async with self._proxy.delay(self._rng.choice((0.01, 0.1, 1.0))):
            await self._some_time()

    async def _expire(self) -> None:
        await expire_all(self._proxy)

    async def _restart(self) -> None:
        try:
            await (self._server.stop() if self._rng.random() < 0.5 else self._server.kill())
            await self._some_time()
        finally:
            await self._server.start()


async def expire_all(proxy: LyingProxy) -> None:
    """End every session on the server that a client of the proxy ever got."""
    for session_id in tuple(proxy._observers.passwords):
        with contextlib.suppress(OSError):
            await proxy.expire(session_id)
